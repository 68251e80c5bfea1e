"""The page under load: many clients at once that upload a field, wait for it, look at it and at a cell.

    .venv/bin/python tools/bench_web.py IMAGES --out FOLDER [--clients 50] [--seconds 120] [--queue 64] [--kill]

Each client sends one picture after another until the time is over; where it is told to come again (429) it waits as
long as it is told. In the end every upload that was taken must be scored, each as its twins: the same picture has the
same cells. Prints how long answers took (median, 90th, 99th of a hundred, longest), how long from sending to results,
memory of all processes, and what was lost. With --kill one of the processes that score is killed every 20 seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from detect.images.folder import scan
from detect.runtime.base import cores

SMEAR = str(Path(sys.executable).parent / "smear")
SHARES = (50, 90, 99, 100)


@dataclass
class Seen:
    """What the clients saw. took: seconds of each kind of request. uploads: picture by upload."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answers: Counter[int] = field(default_factory=Counter)
    uploads: dict[str, str] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, client: httpx.Client, kind: str, method: str, place: str, **more: Any) -> httpx.Response:
        """One request, timed."""
        began = time.perf_counter()
        answer = client.request(method, place, **more)
        with self.lock:
            self.took[kind].append(time.perf_counter() - began)
            self.answers[answer.status_code] += 1
        return answer


def visit(url: str, number: int, pictures: list[Path], until: float, seen: Seen) -> None:
    """What one client does."""
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        turn = number
        while time.monotonic() < until:
            picture = pictures[turn % len(pictures)]
            sent = [("files", (picture.name, picture.read_bytes()))]
            answer = seen.ask(client, "upload", "POST", "/api/uploads", files=sent)
            if answer.status_code == 429:
                time.sleep(min(float(answer.headers["retry-after"]), max(0.0, until - time.monotonic())))
                continue
            answer.raise_for_status()
            upload, began = answer.json()["id"], time.perf_counter()
            with seen.lock:
                seen.uploads[upload] = picture.name
            turn += 1
            while (told := seen.ask(client, "state", "GET", f"/api/uploads/{upload}").json())["state"] != "done":
                if told["state"] == "failed":
                    break
                time.sleep(0.5)
            with seen.lock:
                seen.waited.append(time.perf_counter() - began)
            if told["state"] == "done":
                seen.ask(client, "page of a slide", "GET", f"/uploads/{upload}").raise_for_status()
                seen.ask(client, "page of a field", "GET", f"/uploads/{upload}/fields/1").raise_for_status()
                place = f"/api/uploads/{upload}/fields/1/picture.jpg"
                seen.ask(client, "picture", "GET", place).raise_for_status()


def memory(process: psutil.Process) -> float:
    """MiB that a process and its children hold."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss / 2**20
        except psutil.Error:
            continue
    return total


def watch(process: psutil.Process, held: list[float], done: threading.Event, kill: bool) -> None:
    """Note the memory every second; kill a process that scores now and then."""
    struck = time.monotonic()
    while not done.wait(1):
        held.append(memory(process))
        if kill and time.monotonic() - struck > 20:
            struck = time.monotonic()
            scoring = [c for c in process.children() if "spawn_main" in " ".join(c.cmdline())]
            if scoring:
                scoring[0].kill()


def lost(url: str, seen: Seen) -> tuple[int, int, int]:
    """Uploads that are not done, those that are not as their twins, and cells in all."""
    cells: dict[str, str] = {}
    undone = unlike = count = 0
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        for upload, picture in seen.uploads.items():
            while (state := client.get(f"/api/uploads/{upload}").json()["state"]) in ("queued", "running"):
                time.sleep(0.2)
            if state != "done":
                undone += 1
                continue
            found = client.get(f"/api/uploads/{upload}/cells").json()
            count += len(found)
            told = json.dumps([(c["box"], c["type"]) for c in found])
            unlike += cells.setdefault(picture, told) != told
    return undone, unlike, count


def main() -> None:
    """One load, as a table and JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("images", type=Path)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--queue", type=int, default=64)
    options.add_argument("--kill", action="store_true")
    asked = options.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    pictures = [f.path for f in scan(asked.images).fields][:40]
    with tempfile.TemporaryDirectory() as home:
        command = [SMEAR, "web", "--port", "0", "--data", f"{home}/data", "--queue", str(asked.queue)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip("/")
            seen, held, done = Seen(), list[float](), threading.Event()
            visit(url, 0, pictures, time.monotonic() + 0.1, Seen())  # the processes are there
            watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid), held, done, asked.kill))
            watcher.start()
            until = time.monotonic() + asked.seconds
            with ThreadPoolExecutor(asked.clients) as pool:
                for one in [pool.submit(visit, url, n, pictures, until, seen) for n in range(asked.clients)]:
                    one.result()
            undone, unlike, cells = lost(url, seen)
            done.set()
            watcher.join()
        finally:
            process.terminate()
            process.wait(60)
    rows = {kind: [float(v) for v in np.percentile(took, SHARES)] for kind, took in sorted(seen.took.items())}
    rows["from sending to results"] = [float(v) for v in np.percentile(seen.waited, SHARES)]
    counts = {kind: len(took) for kind, took in seen.took.items()} | {"from sending to results": len(seen.waited)}
    print(f"{asked.clients} clients, {asked.seconds:g} s, {cores()} cores, the clients among them\n")
    print("| seconds | requests | median | 90 % | 99 % | longest |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind, values in rows.items():
        print(f"| {kind} | {counts[kind]} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
    print(
        f"\nuploads taken {len(seen.uploads)}, told to come again {seen.answers[429]} times; not done {undone}, ",
        end="",
    )
    print(f"not as their twins {unlike}; {cells} cells")
    broken = sum(n for status, n in seen.answers.items() if status >= 500)
    print(f"answers of 500 and above: {broken}; memory {held[0]:.0f} MiB at first, {max(held):.0f} MiB at most")
    told = {"rows": rows, "counts": counts, "answers": dict(seen.answers), "uploads": len(seen.uploads)}
    told |= {"undone": undone, "unlike": unlike, "memory_mib": [held[0], max(held)], "cells": cells}
    (asked.out / "bench-web.json").write_text(json.dumps(told, indent=1), "utf-8")
    sys.exit(1 if undone or unlike or broken else 0)


if __name__ == "__main__":
    main()
