"""Our AP against pycocotools and against ultralytics' own validator, on real predictions of a released bundle.

    .venv/bin/python tools/check_ap.py [cells-yolov8n] [--data txl-pbc] [--split val]

1. `smear evaluate` measures the bundle; pycocotools reads the truth and the predictions that it saved, and must agree
   to 1e-6 in every figure.
2. The same weights and pictures go through the validator of ultralytics. What differs there: precision along the
   recall axis (101 points on straight lines between detections, against COCO's 101 steps), how detections meet cells
   (best pairs by IoU, against COCO's walk by score), and how a field is placed in the input (half a stride more grey).
   The first two are told apart from the third by its rule on our predictions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.bundles.folder import open_bundle
from detect.data.cards import load_card
from detect.detectors.base import Architecture
from detect.detectors.train import split_parts
from detect.evaluate.saved import read_saved
from detect.formats import yolo
from detect.formats.tally import Tally

SMEAR = str(Path(sys.executable).parent / "smear")


def pycocotools(folder: Path, cap: int) -> dict[str, float]:
    """mAP and each class's AP from the saved files."""
    truth = COCO(str(folder / "truth.json"))
    judged = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
    judged.params.maxDets = [1, 10, cap]
    judged.evaluate()
    judged.accumulate()
    precision = judged.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class
    names = [category["name"] for category in truth.loadCats(truth.getCatIds())]
    out = {"mAP50": precision[0].mean(), "mAP50-95": precision.mean()}
    for k, name in enumerate(names):
        out |= {f"AP50 {name}": precision[0, :, k].mean(), f"AP50-95 {name}": precision[:, :, k].mean()}
    return {name: float(value) for name, value in out.items()}


def ours(folder: Path) -> dict[str, float]:
    """What `smear evaluate` wrote."""
    told = json.loads((folder / "metrics.json").read_text("utf-8"))
    out = {"mAP50": told["map50"]["value"], "mAP50-95": told["map50_95"]["value"]}
    for name, each in told["per_class_ap"].items():
        out |= {f"AP50 {name}": each["ap50"]["value"], f"AP50-95 {name}": each["ap50_95"]["value"]}
    return out


def theirs(bundle: str, data: str, part: str, folder: Path) -> dict[str, float]:
    """What ultralytics' validator says of the same weights on the same pictures."""
    from ultralytics.models.yolo.detect import DetectionValidator

    from detect.detectors import ultralytics_models as family

    opened, card = open_bundle(bundle, "detector"), load_card(data)
    dataset, *_ = split_parts(card, card.split, None, Tally(), part)
    built = Architecture(**opened.card.architecture)
    model = family.build(built, opened.weights).eval()
    path = yolo.write(dataset, folder / "set", {"train": dataset.fields[:1], "val": dataset.fields})
    settings = opened.detector
    asked = {"data": str(path), "imgsz": settings.image_size, "max_det": settings.max_detections}
    asked |= {"iou": settings.nms_iou, "conf": 0.001, "batch": 16, "rect": True, "plots": False, "verbose": False}
    validator = DetectionValidator(save_dir=folder / "val", args={**asked, "device": "cpu", "workers": 0})
    validator(model=model)
    box = validator.metrics.box
    return _named(box.all_ap, box.ap_class_index, opened.card.classes)


def their_rule(folder: Path) -> dict[str, float]:
    """Our saved predictions under ultralytics' matching and its AP: what the rule alone makes of the difference."""
    import torch
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.metrics import ap_per_class, box_iou

    saved = read_saved(folder)
    validator = DetectionValidator(save_dir=folder, args={"plots": False})
    validator.iouv = torch.linspace(0.5, 0.95, 10)
    right, scores, labels, truths = [], [], [], []
    for labelled, found in zip(saved.dataset.fields, saved.found, strict=True):
        drawn = torch.from_numpy(labelled.annotations.boxes)
        overlap = box_iou(drawn, torch.from_numpy(found.boxes))
        told = [torch.from_numpy(v) for v in (found.labels, labelled.annotations.labels)]
        right.append(validator.match_predictions(*told, overlap).numpy())
        scores.append(found.scores)
        labels.append(found.labels)
        truths.append(labelled.annotations.labels)
    told = [np.concatenate(v) for v in (right, scores, labels, truths)]
    *_, ap, index = ap_per_class(*told)[:7]
    return _named(ap, index, saved.dataset.classes.names)


def _named(ap: Any, index: Any, names: Sequence[str]) -> dict[str, float]:
    """ap: (classes, 10 IoUs)."""
    out = {"mAP50": float(ap[:, 0].mean()), "mAP50-95": float(ap.mean())}
    for place, k in enumerate(index):
        out |= {f"AP50 {names[k]}": float(ap[place, 0]), f"AP50-95 {names[k]}": float(ap[place].mean())}
    return out


def main() -> None:
    """Print the three side by side; exit 1 where pycocotools differs by more than 1e-6 or ultralytics by 0.01."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle", nargs="?", default="cells-yolov8n")
    options.add_argument("--data", default="txl-pbc")
    options.add_argument("--split", default="val")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words: list[Any] = [SMEAR, "evaluate", "detector", asked.bundle, "--data", asked.data, "--split", asked.split]
        subprocess.run([*words, "--out", folder / "ours"], check=True, stdout=subprocess.DEVNULL)
        mine = ours(folder / "ours")
        coco = pycocotools(folder / "ours", open_bundle(asked.bundle, "detector").detector.max_detections)
        rule = their_rule(folder / "ours")
        library = theirs(asked.bundle, asked.data, asked.split, folder)
    print("| figure | ours | pycocotools | difference | our predictions, its rule | ultralytics | difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, value in mine.items():
        print(
            f"| {name} | {value:.6f} | {coco[name]:.6f} | {value - coco[name]:+.1e} "
            f"| {rule[name]:.4f} | {library[name]:.4f} | {value - library[name]:+.4f} |"
        )
    same = all(abs(value - coco[name]) <= 1e-6 for name, value in mine.items())
    near = all(abs(mine[name] - library[name]) <= 0.01 for name in ("mAP50", "mAP50-95"))
    sys.exit(0 if same and near else 1)


if __name__ == "__main__":
    main()
