"""Pictures of an evaluation. The only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detect.errors import MissingExtraError

try:
    from matplotlib.figure import Figure
except ImportError:
    raise MissingExtraError("drawing curves", "train") from None

_COLOURS = ("#4b2e83", "#c0392b", "#1f7a8c", "#b8860b", "#3d7a3d", "#555555")


def precision_recall(curves: dict[str, NDArray[np.float64]], path: Path, title: str) -> None:
    """Precision at the 101 recalls of COCO, one line a class."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, 101)
    for i, (name, precision) in enumerate(curves.items()):
        axes.plot(recall, precision, label=name, color=_COLOURS[i % len(_COLOURS)], linewidth=2)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), title=title)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


def confusion(counts: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str], path: Path, title: str) -> None:
    """Counts, shaded by the share of each row."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.9 * len(columns)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Purples", vmin=0, vmax=1)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="found", ylabel="drawn", title=title)
    for i in range(len(rows)):
        for j in range(len(columns)):
            dark = share[i, j] > 0.5
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color="white" if dark else "black")
    figure.savefig(path, dpi=120)
