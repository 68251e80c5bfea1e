"""Every family through the same commands: can it learn 16 fields by heart, and does it come out as it went in?

    .venv/bin/python tools/overfit.py [yolov8n ...] [--fields 16] [--size 320] [--epochs 100] [--lr 0.001] [--rois 512]
        [--out FOLDER]

For each configuration: `smear train` on 16 fields, with dev the very same ones (two groups of links to one picture, so
`--allow-leak`), nothing augmented; then `bundle export`, `bundle verify`, `evaluate` and `score`. Fields are the first
of part train of TXL-PBC; for models that draw masks, the first of wbc-masks, every cell a WBC. The AP is that of
fields learnt by heart: it says that a family learns, and nothing of how good it is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from detect import assets
from detect.config import load_yaml
from detect.data.cards import load_card
from detect.data.fingerprint import file_hash
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import Row, Split, read_split
from detect.evaluate.align import align
from detect.formats import coco, yolo
from detect.formats.tally import Tally
from detect.types import ClassMap, Dataset

SMEAR = str(Path(sys.executable).parent / "smear")
PLAIN = dict.fromkeys(("mosaic", "mixup", "translate", "scale", "hsv_h", "hsv_s", "hsv_v", "flip_lr", "flip_ud"), 0.0)
HEADS = (
    "configuration", "parameters, M", "GFLOPs", "epochs", "minutes", "mAP50", "mAP50-95", "exported",
    "largest difference", "scored",
)  # fmt: skip


def fields(masks: bool, n: int) -> Dataset:
    """What is learnt by heart."""
    if masks:
        everything = merge(load_dataset(load_card("wbc-masks"), Tally()))
        return align(replace(everything, fields=everything.fields[:n]), ClassMap(("WBC",)))
    card = load_card("txl-pbc")
    whole = read_split(str(card.split)).part(merge(load_dataset(card, Tally())), "train")
    return replace(whole, fields=whole.fields[:n])


def write_set(folder: Path, dataset: Dataset) -> Path:
    """The fields twice over, as a set with its own split; returns its card."""
    rows = []
    for part in ("train", "dev"):
        twice = []
        for i, labelled in enumerate(dataset.fields):
            name = f"{part}/{i:02d}{labelled.field.path.suffix}"
            target = folder / "images" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            yolo.link(labelled.field.path, target)
            twice.append(replace(labelled, field=replace(labelled.field, id=name, path=target)))
            rows.append(Row(name, f"g{i}", part, file_hash(target)))
        coco.write(replace(dataset, fields=tuple(twice), extra={}), folder / f"{part}.json")
    split = folder / "split.csv"
    Split("split", tuple(rows), allow_leak=True).write(split)
    told: dict[str, Any] = dict.fromkeys(("title", "licence", "citation", "source", "how_to_get"), "links, for a check")
    names = list(dataset.classes.names)
    layout = {"format": "coco", "parts": {p: {"images": "images", "labels": f"{p}.json"} for p in ("train", "dev")}}
    told |= {"name": folder.name, "folder": folder.name, "classes": names, "class_map": {n: n for n in names}}
    told |= {"exhaustive_for": names, "grouping": {"key": "field"}, "layout": layout, "split": str(split)}
    card = folder / f"{folder.name}.yaml"
    card.write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")
    return card


def smear(*words: object) -> str:
    """Run the real command; its output. Exits with what it said where it failed."""
    done = subprocess.run([SMEAR, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"smear {' '.join(map(str, words))}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return done.stdout


def changed(config: str, asked: argparse.Namespace, folder: Path) -> Path:
    """The configuration, smaller and with nothing augmented."""
    settings = load_yaml(assets.find(config, "configs/detectors", ".yaml"))
    how = {**settings.get("hyperparameters", {}), **PLAIN, "optimizer": "AdamW", "lr0": asked.lr, "patience": 0}
    how["close_mosaic"] = 0
    how["nominal_batch"] = 4
    settings |= {"epochs": asked.epochs, "batch": 4, "augment": [], "hyperparameters": how}
    settings["image_size"] = 300 if settings["model"].startswith("ssd300") else asked.size
    if asked.rois:
        settings["rois"] = asked.rois
    path = folder / f"{config}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    return path


def go(config: str, sets: dict[bool, Path], asked: argparse.Namespace) -> tuple[str, ...]:
    """One configuration all the way; its row."""
    here = asked.out / config
    here.mkdir()
    masks = "maskrcnn" in config
    card = sets[masks]
    home = card.parent
    path = changed(config, asked, here)
    started = time.monotonic()
    smear("train", "detector", path, "--data", card, "--root", home, "--out", here / "run", "--allow-leak")
    minutes = (time.monotonic() - started) / 60
    smear("bundle", "export", here / "run", "--out", here / "bundle", "--name", config, "--root", home)
    exported = (here / "bundle" / "model.onnx").is_file()
    runtime = () if exported else ("--runtime", "torch")
    # On fields that it learnt: of others it is unsure, and where two scores are nearly equal engines may differ.
    seen = ("--images", home / "images" / "dev")
    verified = smear("bundle", "verify", here / "bundle", *seen) if exported else ""
    worst = max((float(v) for v in re.findall(r"(0\.\d{5})", verified)), default=0.0)
    part = ("--split", "all", "--root", home)
    smear("evaluate", "detector", here / "bundle", "--data", card, "--out", here / "evaluation", *part, *runtime)
    told = json.loads((here / "evaluation" / "metrics.json").read_text("utf-8"))
    only = ("--detector", here / "bundle", "--classifier", "none", *runtime)
    smear("score", home / "images" / "dev", "--out", here / "score", *only)
    import pyarrow.parquet as pq

    status = [s for p in (here / "score" / "fields").glob("*.parquet") for s in pq.read_table(p)["status"].to_pylist()]
    built = load_yaml(here / "run" / "architecture.yaml")
    return (
        config,
        f"{built['parameters'] / 1e6:.2f}",
        f"{built['gflops']:.2f}",
        str(asked.epochs),
        f"{minutes:.1f}",
        f"{told['map50']['value']:.3f}",
        f"{told['map50_95']['value']:.3f}",
        "yes" if exported else "no",
        f"{worst:.5f}" if exported else "-",
        f"{status.count('ok')} of {len(status)}",
    )


def main() -> None:
    """One row a configuration, as each is done."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(p.stem for p in (assets.ROOT / "configs" / "detectors").glob("*.yaml"))
    options.add_argument("configs", nargs="*", default=known)
    options.add_argument("--fields", type=int, default=16)
    options.add_argument("--size", type=int, default=320)
    options.add_argument("--epochs", type=int, default=100)
    options.add_argument("--lr", type=float, default=0.001)
    options.add_argument("--rois", type=int, help="of two-stage models; fewer than their 512 are faster")
    options.add_argument("--out", type=Path, default=Path("runs/overfit"))
    asked = options.parse_args()
    asked.out = asked.out.resolve()
    asked.out.mkdir(parents=True)
    sets = {
        masks: write_set(asked.out / f"by-heart{'-masks' * masks}", fields(masks, asked.fields))
        for masks in (False, True)
    }
    print("| " + " | ".join(HEADS) + " |\n| --- |" + " ---: |" * (len(HEADS) - 1), flush=True)
    failed = 0
    for config in asked.configs:
        try:
            row = go(config, sets, asked)
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            row = (config, "failed", *["-"] * (len(HEADS) - 2))
            failed += 1
        print("| " + " | ".join(row) + " |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
