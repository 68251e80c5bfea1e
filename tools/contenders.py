"""What `bench_score.py` holds us against, and how it is timed.

Started by itself with a name, it is one of the ways that start slowly and so tell the seconds of their loop themselves:

    .venv/bin/python tools/contenders.py fiftyone|sahi IMAGES WEIGHTS SIZE
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil

from detect.bundles.folder import Bundle
from detect.images import decode
from detect.images.folder import scan
from detect.images.letterbox import place, plan
from detect.runtime.base import EngineSettings, Precision, cores, open_graph, stack
from detect.types import Image

BIN = Path(sys.executable).parent
BATCH, CONF, LEAST = 16, 0.25, 6.0  # seconds that the model alone is measured at least
SHARED = 0.2  # part of a slice that the next one shows too


@dataclass
class Contender:
    """One way, and what its runs took. seconds: of the whole process, or of its loop where it tells it itself."""

    name: str
    command: list[str]
    fields: int
    tells: bool = False
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Fields a second, of the median run."""
        return self.fields / statistics.median(self.seconds)

    def run(self) -> None:
        """Run it whole; wall seconds, peak resident MiB of all its processes and busy cores are kept."""
        with tempfile.TemporaryFile("w+") as log:
            started = time.perf_counter()
            process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, text=True)
            peak, worked, done = [0.0], dict[int, float](), threading.Event()
            watcher = threading.Thread(target=_watch, args=(process.pid, peak, worked, done))
            watcher.start()
            _, status, _ = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            done.set()
            watcher.join()
            log.seek(0)
            said = log.read()
        if os.waitstatus_to_exitcode(status) != 0:
            sys.exit(f"failed: {' '.join(self.command)}\n{said[-2000:]}")
        self.seconds.append(json.loads(said.strip().splitlines()[-1])["seconds"] if self.tells else seconds)
        self.memory.append(peak[0])
        self.busy.append(sum(worked.values()) / seconds)


def _watch(pid: int, peak: list[float], worked: dict[int, float], done: threading.Event) -> None:
    """The most that a process and those it began hold together, MiB, and the seconds that each of them worked."""
    while not done.wait(0.25):
        now = 0.0
        try:
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                now += process.memory_info().rss
                times = process.cpu_times()
                worked[process.pid] = times.user + times.system
        except psutil.Error:
            continue
        peak[0] = max(peak[0], now / 2**20)


def checkpoint(bundle: Bundle, path: Path) -> None:
    """The bundle's weights as a checkpoint that ultralytics loads, written for this run only."""
    import torch
    from safetensors.torch import load_file
    from ultralytics.nn.tasks import DetectionModel

    config = dict(bundle.card.architecture["config"])
    model = DetectionModel(config, ch=3, nc=config["nc"], verbose=False)
    model.load_state_dict(load_file(bundle.weights))
    model.names = dict(enumerate(bundle.card.classes))
    model.args = {"task": "detect"}
    torch.save({"model": model, "train_args": model.args}, path)


def linked(images: Path, folder: Path, count: int) -> Path:
    """A folder of so many fields: those of `images` over and over, each round a slide of its own."""
    sources = [f.path.resolve() for f in scan(images).fields]
    for n, source in enumerate(islice(cycle(sources), count)):
        slide = folder / f"round-{n // len(sources)}"
        slide.mkdir(parents=True, exist_ok=True)
        (slide / f"{n}-{source.name}").symlink_to(source)
    return folder


def ours(images: Path, out: Path, bundle: str, precision: str, *more: object) -> list[str]:
    """Our command."""
    words = [BIN / "smear", "score", images, "--out", out, "--overwrite", "--detector", bundle, "--batch", BATCH]
    return [str(w) for w in (*words, "--precision", precision, *more)]


def offered(bundle: Bundle) -> list[Precision]:
    """Arithmetics that the card offers."""
    return ["fp32", *(c.precision for c in bundle.card.precisions if c.offered)]


def alone(bundle: Bundle, images: Path, precision: Precision) -> float:
    """Fields a second of the graph by itself: batches in memory, a stream and a thread a core, as workers have them."""
    told = bundle.detector
    shapes: dict[tuple[int, int], list[Image]] = {}
    for found in scan(images).fields[: 16 * BATCH]:
        pixels = decode.read(found.path)
        box = plan(pixels.shape[1], pixels.shape[0], told.image_size, told.stride, square=told.square)
        out = np.empty((box.height, box.width, 3), np.uint8)
        place(pixels, box, told.pad, out)
        shapes.setdefault((box.height, box.width), []).append(out)
    batches = [stack(v[i : i + BATCH]) for v in shapes.values() for i in range(0, len(v), BATCH)]
    engine = open_graph(bundle.graph_in(precision), EngineSettings("openvino", precision, cores()))
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(engine.run, batches))  # shapes are compiled
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < LEAST:
            list(pool.map(engine.run, batches))
            done += sum(len(b) for b in batches)
        return done / (time.perf_counter() - started)


def classified_alone(bundle: Bundle, count: int) -> float:
    """Crops a second of a classifier's graph by itself."""
    told = bundle.card.classifier
    assert told is not None
    batch = np.random.default_rng(1).integers(0, 255, (BATCH, told.image_size, told.image_size, 3), np.uint8)
    engine = open_graph(bundle.graph, EngineSettings("openvino", "fp32", cores()))
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(engine.run, [batch] * cores()))
        started = time.perf_counter()
        list(pool.map(engine.run, [batch] * max(1, count // BATCH)))
        return max(1, count // BATCH) * BATCH / (time.perf_counter() - started)


def fiftyone(images: Path, weights: Path, size: int) -> None:
    """FiftyOne's `apply_model` over a folder, by itself; prints the seconds of the loop."""
    import fiftyone as fo
    from ultralytics import YOLO

    paths = [str(f.path) for f in scan(images).fields]
    model = YOLO(str(weights))
    model.overrides.update(imgsz=size, device="cpu", conf=CONF, verbose=False)
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=p) for p in paths])
    started = time.perf_counter()
    dataset.apply_model(model, label_field="found", batch_size=BATCH)
    seconds = time.perf_counter() - started
    dataset.delete()
    print(json.dumps({"seconds": seconds}))


def sahi(images: Path, weights: Path, side: int) -> None:
    """SAHI over every picture of a folder; prints the seconds of the loop."""
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        "ultralytics", model_path=str(weights), confidence_threshold=CONF, device="cpu", image_size=side
    )
    paths = [f.path for f in scan(images).fields]
    cut = {"slice_height": side, "slice_width": side, "overlap_height_ratio": SHARED, "overlap_width_ratio": SHARED}
    seconds, cells = 0.0, 0
    for path in paths:
        started = time.perf_counter()
        cells += len(get_sliced_prediction(str(path), model, **cut, verbose=0).object_prediction_list)
        seconds += time.perf_counter() - started
    print(json.dumps({"cells": cells, "seconds": seconds}))


if __name__ == "__main__":
    {"fiftyone": fiftyone, "sahi": sahi}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
