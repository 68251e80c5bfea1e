"""How far the synthetic smear is from real ones: can a small network tell their cells apart?

    .venv/bin/python tools/real_or_synthetic.py [--cells 1500] [--epochs 12] [--seeds 3] [--sheet sheet.png]

Crops of white and of red cells, 64 x 64 pixels with context, from TXL-PBC (part train of its release split) and from
synthetic slides (`--ranges train`) drawn at the magnifications of the real ones. A network of four convolutions learns
on two thirds of the groups (real) and slides (synthetic) and is asked about the others. AUC 0.5: it cannot tell; 1: it
always can. The interval is a bootstrap over groups and slides, pooled over the seeds of the network and of the split.
`--sheet` draws the held-out cells that it was surest about, both ways: what to work on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.smear import field as fields
from detect.data.smear import slide as slides
from detect.data.smear.settings import Smear, load_smear
from detect.data.smear.write import jpeg
from detect.data.sources import merge
from detect.data.splits import read_split
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import cores
from detect.types import Image

SIDE = 64
MARGIN = 1.25  # of the box
PX_PER_UM = (9.0, 15.0)  # of TXL-PBC, by its red cells
FIELD = 512


@dataclass
class Crops:
    """Cells and the group or slide of each."""

    pixels: list[Image]
    groups: list[str]

    def add(self, picture: Image, box: tuple[float, float, float, float], group: str) -> None:
        """A cell that lies whole, with its context, in the picture."""
        x0, y0, x1, y1 = box
        half = MARGIN * max(x1 - x0, y1 - y0) / 2
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        a, b, c, d = round(x - half), round(y - half), round(x + half), round(y + half)
        if a < 0 or b < 0 or c > picture.shape[1] or d > picture.shape[0] or c - a < 24:
            return
        self.pixels.append(cv2.resize(picture[b:d, a:c], (SIDE, SIDE), interpolation=cv2.INTER_AREA))
        self.groups.append(group)

    def some(self, n: int, rng: np.random.Generator) -> Crops:
        """At most n of them."""
        chosen = rng.permutation(len(self.pixels))[:n]
        return Crops([self.pixels[i] for i in chosen], [self.groups[i] for i in chosen])


def real(kind: str) -> Crops:
    """Cells of TXL-PBC."""
    card = load_card("txl-pbc")
    part = read_split(str(card.split)).part(merge(load_dataset(card, Tally())), "train")
    out = Crops([], [])
    for labelled in part.fields:
        picture = decode.read(labelled.field.path)
        for box, label in zip(labelled.annotations.boxes.tolist(), labelled.annotations.labels, strict=True):
            if part.classes.names[label] == kind:
                out.add(picture, tuple(box), labelled.field.group or labelled.field.id)
    return out


def synthetic(settings: Smear, kind: str, n: int, seed: int) -> Crops:
    """Cells of drawn slides, one field of each."""
    optics = settings.optics.model_copy(update={"px_per_um": PX_PER_UM})
    told = settings.model_copy(update={"optics": optics})
    out = Crops([], [])
    number = 0
    while len(out.pixels) < n:
        slide = slides.draw(told, seed, number)
        drawn = fields.draw(told, slide, seed, 0, FIELD, FIELD)
        picture = decode.decode(jpeg(drawn.pixels, int(slide.optics["jpeg"])))
        for cell in drawn.cells:
            if (cell.name == "RBC") if kind == "RBC" else "nc_ratio" in cell.attributes:
                out.add(picture, cell.box, f"slide {number}")
        number += 1
    return out


def tell_apart(one: Crops, other: Crops, seed: int, epochs: int) -> tuple[NDArray[np.int64], list[float], list[bool]]:
    """Places of the held-out crops (real first), how synthetic each looks, and whether it is."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    pixels = torch.from_numpy(np.stack([*one.pixels, *other.pixels])).permute(0, 3, 1, 2)
    truth = torch.tensor([False] * len(one.pixels) + [True] * len(other.pixels))
    names = [*(f"r {g}" for g in one.groups), *(f"s {g}" for g in other.groups)]
    known = sorted(set(names))
    held = set(rng.permutation(known)[: len(known) // 3])
    out = torch.tensor([n in held for n in names])
    layers: list[torch.nn.Module] = []
    for a, b in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.BatchNorm2d(b), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Dropout(0.3), torch.nn.Linear(64, 1)]
    network = torch.nn.Sequential(*layers, *head)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    learn = torch.nonzero(~out).flatten()
    for _ in range(epochs):
        network.train()
        for batch in learn[torch.randperm(len(learn))].split(64):
            x = pixels[batch].float() / 255
            if rng.random() < 0.5:
                x = x.flip(3)
            x = torch.rot90(x, int(rng.integers(4)), (2, 3))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x).flatten(), truth[batch].float())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    places = torch.nonzero(out).flatten()
    with torch.inference_mode():
        scores = torch.cat([network(pixels[p].float() / 255).flatten() for p in places.split(256)])
    return places.numpy(), scores.tolist(), truth[places].tolist()


def interval(runs: list[tuple[list[str], list[float], list[bool]]], seed: int) -> tuple[float, float]:
    """95 % of the mean AUC when groups and slides are drawn anew."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(300):
        each = []
        for names, scores, truth in runs:
            by: dict[str, list[int]] = {}
            for i, name in enumerate(names):
                by.setdefault(name, []).append(i)
            drawn = [i for name in rng.choice(sorted(by), len(by)) for i in by[str(name)]]
            if len({truth[i] for i in drawn}) == 2:
                each.append(roc_auc_score([truth[i] for i in drawn], [scores[i] for i in drawn]))
        values.append(float(np.mean(each)))
    return float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5))


def sheet(crops: list[Image], scores: list[float], truth: list[bool]) -> Image:
    """Rows: real cells that look most real, most drawn; drawn ones that look most drawn, most real."""
    rows = []
    for drawn, step in ((False, 1), (False, -1), (True, -1), (True, 1)):
        order = sorted((i for i, t in enumerate(truth) if t == drawn), key=lambda i: step * scores[i])[:16]
        rows.append(np.hstack([crops[i] for i in order]))
    wide = min(r.shape[1] for r in rows)
    return np.vstack([r[:, :wide] for r in rows])


def main() -> None:
    """A line a kind of cell."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cells", type=int, default=1500)
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--seed", type=int, default=11, help="of the slides")
    options.add_argument("--ranges", default="train")
    options.add_argument("--sheet", type=Path)
    asked = options.parse_args()
    torch.set_num_threads(cores())
    settings = load_smear(asked.ranges)
    sheets = []
    for kind in ("WBC", "RBC"):
        rng = np.random.default_rng(asked.seed)
        one = real(kind).some(asked.cells, rng)
        other = synthetic(settings, kind, asked.cells, asked.seed).some(asked.cells, rng)
        runs, aucs = [], []
        for seed in range(asked.seeds):
            places, scores, truth = tell_apart(one, other, seed, asked.epochs)
            names = [*one.groups, *other.groups]
            runs.append(([names[i] for i in places], scores, truth))
            aucs.append(roc_auc_score(truth, scores))
        low, high = interval(runs, asked.seed)
        counts = f"{len(one.pixels)} real in {len(set(one.groups))} groups, "
        counts += f"{len(other.pixels)} drawn on {len(set(other.groups))} slides"
        seeds = ", ".join(f"{auc:.3f}" for auc in aucs)
        print(f"{kind}: AUC {np.mean(aucs):.3f} ({low:.3f} to {high:.3f}), seeds {seeds}; {counts}", flush=True)
        pixels = [*one.pixels, *other.pixels]
        sheets.append(sheet([pixels[i] for i in places], scores, truth))
    if asked.sheet is not None:
        wide = min(s.shape[1] for s in sheets)
        cv2.imwrite(str(asked.sheet), cv2.cvtColor(np.vstack([s[:, :wide] for s in sheets]), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
