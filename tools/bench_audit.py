"""How the time and memory of an audit grow: generated pictures, some of them copies, audited by the real command.

    .venv/bin/python tools/bench_audit.py [--sizes 5000 20000]

Each size runs in a process of its own. Of every hundred pictures five are copies of others (turned, mirrored, half
size, JPEG quality 40, brighter); found and false pairs are counted against what was planted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BIN = Path(sys.executable).parent
EVERY = 20  # one picture of so many is a copy of the one before


def draw(seed: int) -> NDArray[np.uint8]:
    """A plain smear: pale ground, discs with pallor, one or two purple nuclei; 320 x 240."""
    rng = np.random.default_rng(seed)
    canvas = np.full((240, 320, 3), rng.integers(205, 235, 3), np.uint8)
    for _ in range(int(rng.integers(12, 24))):
        centre = (int(rng.integers(0, 320)), int(rng.integers(0, 240)))
        radius = int(rng.integers(17, 25))
        cv2.circle(canvas, centre, radius, (200, 155, 150), -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, radius // 2, (222, 195, 190), -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 3))):
        centre = (int(rng.integers(30, 290)), int(rng.integers(30, 210)))
        axes = (int(rng.integers(18, 34)), int(rng.integers(18, 34)))
        cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, (95, 62, 150), -1, cv2.LINE_AA)
    noise = rng.normal(0, 4, canvas.shape)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def copy(pixels: NDArray[np.uint8], kind: int) -> tuple[NDArray[np.uint8], int]:
    """A copy of one of five kinds, and the JPEG quality to write it with."""
    if kind == 0:
        return np.ascontiguousarray(np.rot90(pixels)), 92
    if kind == 1:
        return np.ascontiguousarray(pixels[:, ::-1]), 92
    if kind == 2:
        return cv2.resize(pixels, (160, 120), interpolation=cv2.INTER_AREA), 92
    if kind == 3:
        return pixels, 40
    return np.clip(pixels.astype(int) + 25, 0, 255).astype(np.uint8), 92


def make(folder: Path, n: int) -> set[frozenset[str]]:
    """Write `n` pictures; returns the pairs that are copies."""
    planted = set()
    for i in range(n):
        name = f"{i % 50:02d}/{i:06d}.jpg"
        if i % EVERY == EVERY - 1:
            pixels, quality = copy(draw(i - 1), (i // EVERY) % 5)
            planted.add(frozenset((name, f"{(i - 1) % 50:02d}/{i - 1:06d}.jpg")))
        else:
            pixels, quality = draw(i), 92
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        (folder / name).write_bytes(data.tobytes())
    return planted


def main() -> None:
    """Print one row a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 20000])
    sizes = parser.parse_args().sizes
    print("| pictures | seconds | peak memory, MiB | planted | found | false |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder, out = Path(name) / "set", Path(name) / "out"
            planted = make(folder, n)
            started = time.perf_counter()
            command = [str(BIN / "smear"), "data", "audit", str(folder), "--out", str(out)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            if os.waitstatus_to_exitcode(status) != 0:
                sys.exit(f"failed: {' '.join(command)}")
            copies = json.loads((out / "audit.json").read_text("utf-8"))["copies"]
            found = {frozenset((c["a"].split(": ", 1)[1], c["b"].split(": ", 1)[1])) for c in copies}
            memory = usage.ru_maxrss / 1024
            hit = len(found & planted)
            print(f"| {n} | {seconds:.1f} | {memory:.0f} | {len(planted)} | {hit} | {len(found) - hit} |", flush=True)


if __name__ == "__main__":
    main()
