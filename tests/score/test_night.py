"""A night's troubles: kills at random moments, full disks, floods of damaged files."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detect.images.wholeslide import ALWAYS
from tests.cli.command import SCRIPT, inside, smear
from tests.data import bad_files
from tests.score.test_resume import SMALL, events, results

Table = Callable[[Path, str], list[dict[str, Any]]]

# Refuses to keep what is written, as a full disk or one that is mounted anew for reading does, after some files.
FAULT = """
import errno, os, sys
real, left = os.fsync, [int(os.environ["KEEPS"])]
def fsync(handle):
    left[0] -= 1
    if left[0] < 0:
        raise OSError({code}, os.strerror({code}))
    real(handle)
os.fsync = fsync
"""


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments(night: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    """Six kills each: thirty in all, from the first second to the last part, most while parts are being written."""
    out, chance = tmp_path / "out", random.Random(seed)
    command = [SCRIPT, "score", night, "--out", out, *SMALL, "--resume"]
    journal, safe = out / "journal.jsonl", [0]
    for number in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        late = time.monotonic() + 60
        while number and process.poll() is None and time.monotonic() < late:
            if journal.is_file() and events(out).count("part") > safe[-1]:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.15) if number else chance.uniform(0.3, 3.0))
        process.kill()
        process.wait()
        safe.append(events(out).count("part") if journal.is_file() else 0)
    answer = smear(*command[1:])
    assert answer.code == 0, answer.err
    assert results(out) == results(whole)
    assert events(out)[-1] == "finished"
    parts = len(list((whole / "cells").glob("part-*.parquet")))
    assert any(0 < n < parts for n in safe), f"of {parts} parts were safe when it was killed: {safe}"


@pytest.mark.long
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("keeps", [0, 3, 7])
def test_a_disk_that_is_full_stops_the_run_and_loses_nothing(
    night: Path, whole: Path, tmp_path: Path, code: int, keeps: int
) -> None:
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(FAULT.format(code=code))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "fault"), "KEEPS": str(keeps)}
    out = tmp_path / "out"
    command = [SCRIPT, "score", night, "--out", out, *SMALL, "--resume"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in (2, 4), done.stderr  # 2: not even the plan could be written
    assert "Traceback" not in done.stderr
    assert os.strerror(code) in done.stderr
    assert not list(out.rglob("*.partial"))
    assert inside(*command[1:]).code == 0
    assert results(out) == results(whole)


@pytest.mark.long
def test_two_thousand_damaged_files_among_two_thousand_good_ones(night: Path, tmp_path: Path, table: Table) -> None:
    """Every good one is scored, every damaged one says why, and memory stays where it is."""
    slides = tmp_path / "slides"
    good = sorted(night.rglob("*.jpg"))
    for number in range(2000):
        place = slides / f"good-{number // 100:02d}" / f"{number:04d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        # A byte after the end makes each a file of its own.
        place.write_bytes(good[number % len(good)].read_bytes() + number.to_bytes(3, "big") + b"\xff\xd9")
    expected: dict[str, str] = {}
    chance = random.Random(1)
    kinds = {name: what for name, what in bad_files(tmp_path / "kinds").items() if what != "ok"}
    for number in range(2000):
        folder = slides / f"bad-{number // 100:02d}"
        folder.mkdir(exist_ok=True)
        if number % 2:
            name = chance.choice(sorted(kinds))
            source, what = tmp_path / "kinds" / name, kinds[name]
            place = folder / f"{number:04d}-{Path(name).name}"
            if source.is_symlink() or not source.is_file():
                place.symlink_to(place)  # a loop
                what = "cannot be read"
            else:
                place.write_bytes(source.read_bytes())
        else:
            data = bytearray(good[number % len(good)].read_bytes())
            place, what = folder / f"{number:04d}.jpg", ""
            if number % 4:
                place.write_bytes(bytes(data[: chance.randrange(2, len(data) * 3 // 4)]))  # cut short
            else:
                for _ in range(200):
                    data[chance.randrange(len(data) // 3, len(data) - 2)] ^= 1 << chance.randrange(8)
                place.write_bytes(bytes(data))
        expected[place.relative_to(slides).as_posix()] = what
    answer = smear("score", slides, "--out", tmp_path / "out", "--scale", "fit", "--classifier", "none")
    assert answer.code == 3, answer.err
    rows = {row["field"]: row for row in table(tmp_path / "out", "fields")}
    assert len(rows) == 4000
    for name, row in rows.items():
        if name.startswith("good-"):
            assert row["status"] == "ok", (name, row["reason"])
        else:
            assert row["status"] == "failed" or row["reason"].startswith("the same picture as bad-"), name
            assert row["reason"], name
            whole = Path(name).suffix.lower() in ALWAYS  # says so in the words of the library that reads whole slides
            assert whole or row["status"] == "skipped" or expected[name] in row["reason"], (name, row["reason"])
    told = smear("runs", "status", tmp_path / "out")
    assert told.code == 0


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_fields(night: Path, tmp_path: Path) -> None:
    """Of the worker that scores them: the last hundred take no more than the first."""
    code = """
import resource, sys
from pathlib import Path
from detect.images.folder import scan
from detect.runtime.base import EngineSettings
from detect.score import plan, work
from detect.score.manifest import NONE
from detect.score.scales import Looked
from detect.score.settings import ScoreSettings
from detect.score.store import Store
if __name__ == "__main__":
    out = Store.create(Path(sys.argv[2])).out
    job = work.Job(Path(sys.argv[1]), out, ScoreSettings(scale="fit"), EngineSettings(threads=1), NONE)
    worker = work.Worker(job)
    rows = plan.make(scan(Path(sys.argv[1])), batch=16).rows
    looked = {row.field.slide: Looked() for row in rows}
    for number in range(18):
        worker.do(work.Part(number, rows, looked, {}))
        if number in (5, 17):
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, night, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    early, late = (float(line) for line in done.stdout.split())
    assert late < 1.05 * early, f"{early:.0f} MiB after 144 fields, {late:.0f} MiB after 432"
