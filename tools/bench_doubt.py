"""Injected label errors: which share is found at the head of the ranked view, ours, FiftyOne Brain's and at random.

    .venv/bin/python tools/bench_doubt.py [--split val] [--bundle cells-yolov8n] [--seeds 5]

On TXL-PBC, 5 % of the labels are flipped, 5 % of the boxes removed and 5 % moved by 20 to 50 % of their sides. The
view is of cells: those drawn, and detections that may be cells nobody drew. An injected error is found where its cell,
or for a removed box a detection on it (IoU 0.5), stands among the first 10 % of as many places as cells are drawn. At
most one error stands in one place.

Of Brain, the first row takes all its marks: mistakenness or its twin for places, the larger; 0.5 for boxes that it
calls possibly spurious, which it gives no order; the confidence of detections that it calls possibly missing. The
second ranks by mistakenness alone, as its documentation shows. Settings of ours were chosen with --split dev.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detect import geometry
from detect.evaluate.intervals import wilson
from detect.evaluate.saved import Saved, read_saved
from detect.review.doubt import doubts
from detect.review.predictions import FLOOR
from detect.types import Annotations

SHARE, HEAD = 0.05, 0.1
KINDS = ("flipped", "removed", "moved")
Item = tuple[float, str | None, int]  # how doubtful, the kind of error that it is, a number to break ties


@dataclass(frozen=True)
class Spoilt:
    """One field with errors. kinds: of each cell that is left; removed: boxes xyxy."""

    cells: Annotations
    kinds: tuple[str | None, ...]
    removed: np.ndarray


def spoil(saved: Saved, seed: int) -> list[Spoilt]:
    """The set with errors."""
    rng = np.random.default_rng(seed)
    k = len(saved.dataset.classes)
    out = []
    for labelled in saved.dataset.fields:
        cells = labelled.annotations
        draw = rng.random(len(cells))
        kinds = np.select([draw < SHARE, draw < 2 * SHARE, draw < 3 * SHARE], KINDS, "")
        labels, boxes = cells.labels.copy(), cells.boxes.copy()
        for i in np.flatnonzero(kinds == "flipped"):
            labels[i] = (labels[i] + rng.integers(1, k)) % k
        for i in np.flatnonzero(kinds == "moved"):
            step = rng.uniform(0.2, 0.5, 2) * rng.choice([-1, 1], 2) * (boxes[i, 2:] - boxes[i, :2])
            boxes[i] += np.tile(step, 2).astype(np.float32)
        left = kinds != "removed"
        spoilt = replace(cells, labels=labels, boxes=boxes).select(left)
        out.append(Spoilt(spoilt, tuple(str(x) or None for x in kinds[left]), cells.boxes[~left]))
    return out


def removed_hits(boxes: np.ndarray, order: Sequence[int], removed: np.ndarray) -> list[str | None]:
    """Which detections, in their order, are the first on a removed box."""
    taken: set[int] = set()
    out: list[str | None] = []
    for i in order:
        overlap = geometry.iou(boxes[i : i + 1], removed)[0] if len(removed) else np.zeros(0)
        best = int(overlap.argmax()) if len(overlap) else -1
        hit = best >= 0 and overlap[best] >= 0.5 and best not in taken
        if hit:
            taken.add(best)
        out.append("removed" if hit else None)
    return out


def ours(saved: Saved, spoilt: Sequence[Spoilt]) -> Iterator[Item]:
    """Every place with our doubt."""
    number = 0
    for found, field in zip(saved.found, spoilt, strict=True):
        seen = found.select(found.scores >= FLOOR)
        told = doubts(seen, field.cells, saved.dataset.classes.names)
        for value, kind in zip(told.cells.tolist(), field.kinds, strict=True):
            yield value, kind, (number := number + 1)
        order = [int(i) for i in np.argsort(-told.missing, kind="stable") if told.missing[i] > 0]
        for i, kind in zip(order, removed_hits(seen.boxes, order, field.removed), strict=True):
            yield float(told.missing[i]), kind, (number := number + 1)


def brains(fo: Any, saved: Saved, spoilt: Sequence[Spoilt], *, alone: bool) -> list[Item]:
    """Every place as FiftyOne Brain ranks it. Predictions are those at the bundle's thresholds, as a user has them."""
    import fiftyone.brain as fob

    dataset = fo.Dataset()
    names = saved.dataset.classes.names
    least = np.array([saved.thresholds[n] for n in names])
    samples = []
    for labelled, found, field in zip(saved.dataset.fields, saved.found, spoilt, strict=True):
        size = np.array([labelled.field.width, labelled.field.height] * 2, float)
        shown = found.select(found.scores >= least[found.labels])
        sample = fo.Sample(f"/nowhere/{labelled.field.id}")
        sample["ground_truth"] = fo.Detections(detections=[
            fo.Detection(label=names[k], bounding_box=(b / size).tolist(), number=i)
            for i, (k, b) in enumerate(zip(field.cells.labels, geometry.to_xywh(field.cells.boxes), strict=True))
        ])  # fmt: skip
        sample["predictions"] = fo.Detections(detections=[
            fo.Detection(label=names[k], bounding_box=(b / size).tolist(), confidence=float(s), number=i)
            for i, (k, b, s) in enumerate(zip(shown.labels, geometry.to_xywh(shown.boxes), shown.scores, strict=True))
        ])  # fmt: skip
        samples.append((sample, shown, field))
    dataset.add_samples([s for s, *_ in samples], progress=False)
    fob.compute_mistakenness(dataset, "predictions", label_field="ground_truth", progress=False)
    out: list[Item] = []
    for (sample, shown, field), made in zip(samples, dataset, strict=True):
        del sample
        for cell in made.ground_truth.detections:
            marks = [cell.get_field(n) for n in ("mistakenness", "mistakenness_loc") if cell.has_field(n)]
            known = [float(m) for m in marks if m is not None]
            value = known[0] if alone and known else max(known, default=0.0)
            if not alone and not known:
                value = 0.5  # possibly spurious: it has no order of its own
            out.append((value, field.kinds[cell.number], len(out)))
        if alone:
            continue
        missing = [
            c.number for c in made.predictions.detections if c.has_field("possible_missing") and c["possible_missing"]
        ]
        order = sorted(missing, key=lambda i: -shown.scores[i])
        for i, kind in zip(order, removed_hits(shown.boxes, order, field.removed), strict=True):
            out.append((float(shown.scores[i]), kind, len(out)))
    dataset.delete()
    return out


def head(items: Sequence[Item], cells: int, seed: int) -> Counter[str]:
    """Errors among the first places, by kind; equal doubts in an order drawn at random."""
    order = np.random.default_rng(seed).permutation(len(items))
    ranked = sorted(order, key=lambda i: -items[i][0])
    return Counter(kind for i in ranked[: round(HEAD * cells)] if (kind := items[i][1]))


def main() -> None:
    """One table; exit 1 where ours is not ahead."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", default="cells-yolov8n")
    options.add_argument("--split", default="val")
    options.add_argument("--seeds", type=int, default=5)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["SMEAR_REVIEWS"] = name
        smear = str(Path(sys.executable).parent / "smear")
        words = [smear, "evaluate", "detector", asked.bundle, "--data", "txl-pbc", "--split", asked.split]
        subprocess.run([*words, "--out", f"{name}/found", "--bootstrap", "10"], check=True, stdout=subprocess.DEVNULL)
        saved = read_saved(Path(name) / "found")
        from detect.review.database import fiftyone

        fo = fiftyone()
        hits: dict[str, Counter[str]] = {}
        injected: Counter[str] = Counter()
        places = 0
        for seed in range(asked.seeds):
            spoilt = spoil(saved, seed)
            cells = sum(len(s.cells) for s in spoilt)
            places += round(HEAD * cells)
            injected.update(k for s in spoilt for k in s.kinds if k)
            injected["removed"] += sum(len(s.removed) for s in spoilt)
            mine = list(ours(saved, spoilt))
            rankings = {
                "ours": mine,
                "Brain, all its marks": brains(fo, saved, spoilt, alone=False),
                "Brain, mistakenness": brains(fo, saved, spoilt, alone=True),
                "random order": [(0.0, kind, n) for _, kind, n in mine],
            }
            for method, items in rankings.items():
                hits.setdefault(method, Counter()).update(head(items, cells, seed))
    total = sum(injected.values())
    told = f"{len(saved.dataset)} fields, part {asked.split}, {asked.seeds} seeds"
    print(f"{told}: {total} errors, {places} places looked at")
    print(f"(no order can find more than {min(places, total) / total:.3f} of them)\n")
    print("| view | all errors | " + " | ".join(KINDS) + " | wrong among the places |")
    print("| --- | ---: | " + " ---: |" * (len(KINDS) + 1))
    for method, found in hits.items():
        every = sum(found.values())
        each = " | ".join(f"{found[k] / injected[k]:.3f}" for k in KINDS)
        print(f"| {method} | {wilson(every, total)} | {each} | {every / places:.3f} |")
    ahead = all(sum(hits["ours"].values()) > sum(f.values()) for m, f in hits.items() if m != "ours")
    sys.exit(0 if ahead else 1)


if __name__ == "__main__":
    main()
