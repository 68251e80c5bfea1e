"""Explanations of many cells, measured: deletion curves against those of random maps, and a sheet to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.classify.crops import resize
from detect.classify.explain import Deletion, Explainer, deletion, random_map
from detect.classify.heat import Map, over
from detect.evaluate.intervals import Interval, intervals
from detect.types import CellCrop, Image

RANDOM = 5  # random maps a cell
_COARSE = 6  # places a side of a random map, as of the networks' last maps
_SIDE, _LINE = 150, 17  # pixels of a crop on a sheet, and of a line of text


@dataclass(frozen=True, eq=False)
class Explained:
    """One cell: crop at the model's size, map, answer, its probability, the truth where it is known, and the deletion
    curve of the map and, on average, of random ones."""

    crop: Image
    found: Map
    answer: str
    sure: float
    truth: str | None
    along: Deletion
    by_chance: Deletion

    @property
    def area(self) -> float:
        """Under the deletion curve of the map."""
        return self.along.area

    @property
    def random(self) -> float:
        """Under those of random ones, on average."""
        return self.by_chance.area


def explain(explainer: Explainer, crops: Sequence[CellCrop], names: Sequence[str], seed: int = 1) -> list[Explained]:
    """The likeliest type of each cell, explained."""
    return explain_known(explainer, crops, names, [None] * len(crops), seed)


def explain_known(
    explainer: Explainer, crops: Sequence[CellCrop], names: Sequence[str], truth: Sequence[str | None], seed: int = 1
) -> list[Explained]:
    """The same of cells of known type."""
    if not crops:
        return []
    rng = np.random.default_rng(seed)
    small = np.stack([resize(c.pixels, explainer.size) for c in crops])
    chances = explainer.chances(small)
    answers = chances.argmax(axis=1)
    out = []
    for crop, answer, sure, found, known in zip(
        small,
        answers.tolist(),
        chances.max(axis=1).tolist(),
        explainer.maps(small, answers.tolist()),
        truth,
        strict=True,
    ):
        curves = [
            deletion(explainer, crop, answer, random_map(explainer.size, _COARSE, rng)).curve for _ in range(RANDOM)
        ]
        along = deletion(explainer, crop, answer, found)
        chance = Deletion(np.asarray(np.mean(curves, axis=0), np.float32))
        out.append(Explained(crop, found, names[answer], sure, known, along, chance))
    return out


def faithfulness(
    cells: Sequence[Explained], groups: Sequence[str], *, rounds: int = 1000, seed: int = 1
) -> dict[str, Interval]:
    """Mean areas under the deletion curves, and how much sooner the answer falls along the maps than along random ones
    (above 0: the maps mark what the answer hangs on), 95 % limits by bootstrap over groups."""
    table = np.array([[c.area, c.random, c.random - c.area, c.area < c.random] for c in cells], np.float64)
    names = ("area along the maps", "area along random maps", "sooner by", "share of cells that fall sooner")
    found = intervals(lambda w: w @ table / w.sum(axis=1, keepdims=True), groups, rounds=rounds, seed=seed)
    return dict(zip(names, found, strict=True))


def mean_curves(
    cells: Sequence[Explained], groups: Sequence[str], *, rounds: int = 1000, seed: int = 1
) -> dict[str, list[Interval]]:
    """The answer's probability after each step, along the maps and along random ones: means over cells, with limits by
    bootstrap over groups; lists of steps + 1."""
    curves = {
        "along the maps": [c.along.curve for c in cells],
        "along random maps": [c.by_chance.curve for c in cells],
    }
    table = np.concatenate([np.array(c, np.float64) for c in curves.values()], axis=1)
    found = intervals(lambda w: w @ table / w.sum(axis=1, keepdims=True), groups, rounds=rounds, seed=seed)
    steps = len(found) // len(curves)
    return {name: found[k * steps : (k + 1) * steps] for k, name in enumerate(curves)}


def sheet(cells: Sequence[Explained], columns: int = 4, held: Sequence[str] = (), note: str = "") -> Image:
    """Crop and map side by side, with what was answered; wrong answers stand out.

    Args:
        held: of each cell, why its answer is none; empty where it is one. note: a line below them all.
    """
    rows = -(-max(1, len(cells)) // columns)
    wide, high = 2 * _SIDE + 14, _SIDE + (4 if any(held) else 3) * _LINE + 14
    size = (rows * high + 8 + (2 * _LINE if note else 0), columns * wide + 8, 3)
    page: NDArray[np.uint8] = np.full(size, 255, np.uint8)
    for i, cell in enumerate(cells):
        x, y = 8 + (i % columns) * wide, 8 + (i // columns) * high
        for j, picture in enumerate((cell.crop, over(cell.crop, cell.found))):
            how = cv2.INTER_AREA if picture.shape[0] > _SIDE else cv2.INTER_CUBIC
            grown = cv2.resize(picture, (_SIDE, _SIDE), interpolation=how)
            page[y : y + _SIDE, x + j * (_SIDE + 2) : x + j * (_SIDE + 2) + _SIDE] = grown
        wrong = cell.truth is not None and cell.truth != cell.answer
        ink = (170, 0, 0) if wrong else (30, 30, 30)
        lines = [f"{cell.answer} {100 * cell.sure:.0f} %"]
        lines += [f"is: {cell.truth}"] if cell.truth is not None else []
        lines += [held[i]] if held and held[i] else []
        lines += [f"deletion {cell.area:.2f}, random {cell.random:.2f}"]
        for k, line in enumerate(lines):
            place = (x, y + _SIDE + _LINE * (k + 1) - 3)
            cv2.putText(page, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.46, ink, 1, cv2.LINE_AA)
    place = (8, page.shape[0] - _LINE)
    cv2.putText(page, note, place, cv2.FONT_HERSHEY_SIMPLEX, 0.46, (170, 0, 0), 1, cv2.LINE_AA)
    return page
