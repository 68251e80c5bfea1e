"""Parts of white cells, found against drawn: overlap, and how well area and N:C agree (Bland and Altman, 1986)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.evaluate.counting import errors
from detect.evaluate.intervals import Interval, intervals, plain_json

NUCLEUS = 2  # of pixels: 0 ground, 1 cytoplasm, 2 nucleus
Pixels = NDArray[np.uint8]
_MEASURES = ("N:C ratio", "cytoplasm share", "relative area")


@dataclass(frozen=True, eq=False)
class PartsReport:
    """Figures over cells.

    Attributes:
        figures: by name, with 95 % limits by bootstrap over groups: IoU and Dice of cell and nucleus, means over cells;
            of area and N:C ratio mean absolute error, bias and limits of agreement, found less drawn. Areas are as a
            part of the drawn one.
        pairs: by measure float64 (cells, 2), drawn and found, areas in pixels; cells without a drawn or found nucleus
            are left out of the N:C ratio.
        not_found: cells of which nothing was found. no_nucleus: those of which a cell was found, and no nucleus.
    """

    figures: dict[str, Interval]
    n_cells: int
    n_groups: int
    not_found: int
    no_nucleus: int
    pairs: dict[str, NDArray[np.float64]] = field(metadata={"told": False})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        figures = {name: asdict(v) for name, v in self.figures.items()}
        counts = {
            "n_cells": self.n_cells,
            "n_groups": self.n_groups,
            "not_found": self.not_found,
            "no_nucleus": self.no_nucleus,
        }
        counts |= {f"{name}, cells": len(pairs) for name, pairs in self.pairs.items()}
        return {**counts, "figures": figures}


def measure_parts(
    drawn: Sequence[Pixels], found: Sequence[Pixels], groups: Sequence[str], *, rounds: int = 1000, seed: int = 1
) -> PartsReport:
    """Compare pictures of parts, pixel by pixel.

    Args:
        drawn, found: of each cell uint8 (h, w), 0 ground, 1 cytoplasm, 2 nucleus; in the same places.
    """
    overlap = np.array([_overlaps(d, f) for d, f in zip(drawn, found, strict=True)])
    figures: dict[str, Interval] = {}
    names = ("cell IoU", "cell Dice", "nucleus IoU", "nucleus Dice")
    means = intervals(lambda w: w @ overlap / w.sum(axis=1, keepdims=True), groups, rounds=rounds, seed=seed)
    figures |= dict(zip(names, means, strict=True))
    measured = np.array([[*_form(d), *_form(f)] for d, f in zip(drawn, found, strict=True)])
    pairs: dict[str, NDArray[np.float64]] = {}
    for i, name in enumerate(_MEASURES):
        pair = measured[:, [i, i + 3]]
        known = np.isfinite(pair).all(axis=1)
        if not known.any():
            continue
        pairs[name] = pair[known]
        difference = differences(name, pairs[name])
        mine = [g for g, k in zip(groups, known, strict=True) if k]
        told = intervals(lambda w, d=difference: errors(d, w), mine, rounds=rounds, seed=seed)  # type: ignore[misc]
        kinds = ("mean absolute error", "bias", "lower limit of agreement", "upper limit of agreement")
        figures |= {f"{name}, {kind}": v for kind, v in zip(kinds, told, strict=True)}
    missed = sum(not (f > 0).any() for f in found)
    bare = sum((f > 0).any() and not (f == NUCLEUS).any() for f in found)
    return PartsReport(figures, len(drawn), len(set(groups)), missed, int(bare), pairs)


def differences(measure: str, pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Found less drawn, (cells,); of an area as a part of the drawn one."""
    found_less = pairs[:, 1] - pairs[:, 0]
    return np.asarray(found_less / pairs[:, 0] if measure == "relative area" else found_less)


def _overlaps(drawn: Pixels, found: Pixels) -> list[float]:
    out = []
    for a, b in ((drawn > 0, found > 0), (drawn == NUCLEUS, found == NUCLEUS)):
        shared, both = float((a & b).sum()), float((a | b).sum())
        out += [shared / both if both else 1.0, 2 * shared / (shared + both) if both else 1.0]
    return out


def _form(parts: Pixels) -> list[float]:
    """N:C ratio, cytoplasm's share, area; NaN where there is no nucleus or no cytoplasm."""
    area, core = float((parts > 0).sum()), float((parts == NUCLEUS).sum())
    if core == 0 or area == 0:
        return [float("nan"), float("nan"), area]
    return [core / (area - core) if area > core else float("nan"), 1 - core / area, area]


def write(report: PartsReport, out: Path, title: str, about: dict[str, Any]) -> None:
    """`metrics.json` and `metrics.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(plain_json({**about, **report.to_json()}), "utf-8")
    lines = [f"# {title}", "", f"{report.n_cells} cells, {report.n_groups} groups; {report.not_found} not found, "]
    lines[-1] += f"{report.no_nucleus} found without a nucleus."
    lines += ["Compared: " + ", ".join(f"{name} of {len(pairs)} cells" for name, pairs in report.pairs.items()) + "."]
    lines += ["95 % intervals by bootstrap over groups.", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {v} |" for name, v in report.figures.items()]
    (out / "metrics.md").write_text("\n".join(lines) + "\n", "utf-8")
