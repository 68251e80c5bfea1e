"""Fields a second from disk to results, and peak memory: `smear score` against `yolo predict`.

Both commands get the same images and weights, batch 16, at the bundle's input size; a row more shows what it takes to
measure each slide and to look at it in the size of cells that was trained. ultralytics otherwise keeps
its defaults, which save a drawn copy of each picture; a second row turns that off and writes text files instead, which
is nearest to what we write. All run as whole processes, in turn, several times; the first round warms the disk
cache and is not counted. Quote the ratios of medians of one run of this script, not the rates.

    .venv/bin/python tools/bench_score.py IMAGES [--runs 3] [--repeat 1] [--engine auto] [--precision fp32]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from detect.bundles.folder import Bundle, open_bundle
from detect.images.folder import scan

BIN = Path(sys.executable).parent


@dataclass
class Contender:
    """One command and what its runs took."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def rate(self, fields: int) -> float:
        """Fields a second, of the median run."""
        return fields / statistics.median(self.seconds)


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


def timed(contender: Contender, log: Path, *, count: bool) -> None:
    """Run a whole process; wall seconds and peak resident MiB are kept if `count`."""
    started = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(contender.command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: {' '.join(contender.command)}\n{log.read_text()[-2000:]}")
    if count:
        contender.seconds.append(seconds)
        contender.memory.append(usage.ru_maxrss / 1024)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--bundle", default="cells-yolov8n")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=1, help="times that each image stands in the folder")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle, "detector")
    assert bundle.card.detector is not None
    size = bundle.card.detector.image_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        images.mkdir()
        for i in range(asked.repeat):
            for f in scan(asked.images).fields:
                (images / f"copy-{i}").mkdir(exist_ok=True)  # a slide of its own: in one slide a picture counts once
                (images / f"copy-{i}" / f"{i}-{f.path.name}").symlink_to(f.path.resolve())
        n = len(scan(images).fields)
        checkpoint(bundle, folder / "bench.pt")
        out = folder / "out"
        predict = [str(BIN / "yolo"), "predict", f"model={folder / 'bench.pt'}", f"source={images}/*/*", "batch=16"]
        predict += [
            f"imgsz={size}",
            "device=cpu",
            f"project={folder}",
            "name=predict",
            "exist_ok=True",
            "verbose=False",
        ]
        ours = [str(BIN / "smear"), "score", str(images), "--out", str(out), "--overwrite", "--detector", asked.bundle]
        ours += ["--runtime", asked.runtime, "--precision", asked.precision, "--batch", "16"]
        contenders = [
            Contender("smear score --scale fit: detect, crop, type, store, report", [*ours, "--scale", "fit"]),
            Contender("smear score: the same, each slide measured and resized by its red cells", ours),
            Contender("yolo predict, defaults: detect, drawn pictures", predict),
            Contender("yolo predict, text only: detect, text files", [*predict, "save=False", "save_txt=True"]),
        ]
        for round_ in range(asked.runs + 1):
            for contender in contenders:
                timed(contender, folder / "log", count=round_ > 0)
        record = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    print(f"{n} fields, input {size} px, batch 16, {os.cpu_count()} cores, {asked.runs} counted runs each, ")
    print(f"engine {record['engine']['name']} {record['engine']['precision']}, {record['cells']} cells found\n")
    print("| whole process | fields/s | min to max | peak memory, MiB | takes, against the first |")
    print("| --- | ---: | --- | ---: | ---: |")
    for c in contenders:
        span = f"{n / max(c.seconds):.1f} to {n / min(c.seconds):.1f}"
        faster = f"{statistics.median(c.seconds) / statistics.median(contenders[0].seconds):.2f}"
        print(f"| {c.name} | {c.rate(n):.1f} | {span} | {max(c.memory):.0f} | {faster} |")


if __name__ == "__main__":
    main()
