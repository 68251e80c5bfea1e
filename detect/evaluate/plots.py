"""Pictures of an evaluation. The only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill as fill_lines
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.errors import MissingExtraError
from detect.evaluate.breakdown import ERRORS, Breakdown
from detect.evaluate.calibration import Calibration
from detect.evaluate.coco_ap import Ap, ApSlice
from detect.evaluate.counting import Counting
from detect.evaluate.detection import DetectionReport
from detect.evaluate.froc import Froc
from detect.evaluate.intervals import Interval
from detect.evaluate.parts import PartsReport, differences

try:
    from matplotlib.figure import Figure
except ImportError:
    raise MissingExtraError("drawing curves", "train") from None

_COLOURS = ("#4b2e83", "#c0392b", "#1f7a8c", "#b8860b", "#3d7a3d", "#555555")
_RATE_TICKS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
_LEAST_DRAWN = 10  # detections of a bin that is joined to the line


def draw_all(report: DetectionReport, ap: Ap, out: Path, title: str) -> None:
    """Every picture of a detector's report, into the folder `out`. What cannot be said is not drawn."""
    if report.ap.per_class:
        precision_recall({n: ap.curve(n)[0] for n in report.ap.per_class}, out / "precision-recall.png", title)
    heads = [*report.classes, "background"]
    confusion(report.confusion, heads, heads, out / "confusion.png", title)
    slices = {
        "size of the cell": report.sizes,
        f"source ({report.source_rule})": report.sources,
        "median diameter of the field's red cells": report.magnifications,
    }
    ap_slices(slices, report.ap.map50_95.value, out / "ap-by-kind.png", title)
    errors(report.errors, {n: c.truths for n, c in report.classes.items()}, out / "errors.png", title)
    if report.froc:
        froc(report.froc, report.n_fields, out / "froc.png", title)
    if report.counting:
        bland_altman(report.counting, out / "counting.png", title)
    if report.calibration:
        reliability(report.calibration, out / "calibration.png", title)


def _panels(n: int, title: str, side: float = 4.2) -> tuple[Any, list[Any]]:
    figure = Figure(figsize=(max(side * n, 6.4), side + 0.4), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


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


def deletion(curves: Mapping[str, Sequence[Interval]], path: Path, title: str) -> None:
    """What an answer keeps of its probability while the cell is blurred away, one line a way of choosing where."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for (name, curve), colour, line in zip(curves.items(), _COLOURS, ("-", "--", ":"), strict=False):
        away = np.linspace(0, 1, len(curve))
        axes.plot(away, [v.value for v in curve], line, label=name, color=colour, linewidth=2)
        axes.fill_between(away, [v.low for v in curve], [v.high for v in curve], color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="share of the crop blurred away", ylabel="probability of the answer", title=title)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right")
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


def froc(curves: Mapping[str, Froc], n_fields: int, path: Path, title: str) -> None:
    """Sensitivity against false positives per field, with 95 % limits at the seven rates."""
    figure = Figure(figsize=(6.8, 5.0), layout="constrained")
    axes = figure.subplots()
    for i, (name, f) in enumerate(curves.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        false, found = f.curve.T
        # A detector that never reaches a rate keeps its last sensitivity up to it.
        false, found = np.append(false, f.rates[-1]), np.append(found, found[-1])
        label = f"{name} (n = {f.n_cells}), mean {f.mean.value:.3f}"
        axes.step(np.maximum(false, 1e-3), found, where="post", color=colour, linewidth=1.5, label=label)
        value, low, high = np.array([(v.value, v.low, v.high) for v in f.sensitivity]).T
        rate = np.array(f.rates) * 1.04 ** (i - (len(curves) - 1) / 2)  # beside each other, not on top
        bars = np.maximum([value - low, high - value], 0)
        axes.errorbar(rate, value, bars, fmt="o", markersize=4, capsize=3, color=colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(_RATE_TICKS, ("1/16", "1/8", "1/4", "1/2", "1", "2", "4", "8"))
    low_end = min(v.low for f in curves.values() for v in f.sensitivity)
    bottom = max(0.0, np.floor(10 * low_end - 0.5) / 10) if np.isfinite(low_end) else 0.0
    axes.set(xlim=(1 / 16, 9.5), ylim=(bottom, 1.01), xlabel="false positives per field", ylabel="sensitivity")
    axes.set_title(f"{title}\n{n_fields} fields, IoU 0.5, bars: 95 % over groups", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def bland_altman(counts: Mapping[str, Counting], path: Path, title: str) -> None:
    """Per class the difference of found and drawn against their mean, one circle a pair, its area the fields."""
    figure, panels = _panels(len(counts), f"{title}: counting error per field (area of a circle: fields)")
    for i, (axes, (name, c)) in enumerate(zip(panels, counts.items(), strict=True)):
        pairs, n = np.unique(c.pairs, axis=0, return_counts=True)
        middle, difference = pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0]
        colour = _COLOURS[i % len(_COLOURS)]
        axes.scatter(middle, difference, s=np.clip(14 * n, 14, 500), color=colour, alpha=0.45, linewidth=0)
        for value, style in ((c.lower, "--"), (c.bias, "-"), (c.upper, "--")):
            axes.axhline(value.value, color="black", linestyle=style, linewidth=1)
            axes.axhspan(value.low, value.high, color="black", alpha=0.08, linewidth=0)
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.set(xlabel="mean of drawn and found, cells per field", ylabel="found minus drawn, cells per field")
        edge = 1.15 * max(1.0, float(np.abs(difference).max()), abs(c.lower.value), abs(c.upper.value))
        axes.set(ylim=(-edge, edge), xlim=(-0.5, float(middle.max()) + 0.5))
        told = f"bias {c.bias.value:+.2f}, limits {c.lower.value:+.2f} to {c.upper.value:+.2f}"
        axes.set_title(f"{name}: {c.n_fields} fields, {c.n_drawn} drawn\n{told}", fontsize=10)
        axes.grid(alpha=0.2)
    figure.savefig(path, dpi=120)


def agreement(report: PartsReport, path: Path, title: str) -> None:
    """Per measure of a cell's parts the difference of found and drawn against their mean, a point a cell."""
    figure, panels = _panels(len(report.pairs), f"{title}: agreement with the drawn parts")
    for i, (axes, (name, pairs)) in enumerate(zip(panels, report.pairs.items(), strict=True)):
        middle, difference = pairs.mean(axis=1), differences(name, pairs)
        axes.scatter(middle, difference, s=12, color=_COLOURS[i % len(_COLOURS)], alpha=0.5, linewidth=0)
        kinds = (("lower limit of agreement", "--"), ("bias", "-"), ("upper limit of agreement", "--"))
        for kind, style in kinds:
            v = report.figures[f"{name}, {kind}"]
            axes.axhline(v.value, color="black", linestyle=style, linewidth=1)
            axes.axhspan(v.low, v.high, color="black", alpha=0.08, linewidth=0)
        axes.axhline(0, color="grey", linewidth=0.5)
        what = "area, pixels" if name == "relative area" else name
        part = ", part of the drawn" if name == "relative area" else ""
        axes.set(xlabel=f"mean of drawn and found {what}", ylabel=f"found minus drawn{part}")
        error = report.figures[f"{name}, mean absolute error"]
        axes.locator_params(axis="x", nbins=5)  # areas have five digits
        axes.set_title(f"{name}: {len(pairs)} cells\nmean absolute error {error.value:.3f}", fontsize=10)
        axes.grid(alpha=0.2)
    figure.savefig(path, dpi=120)


def reliability(classes: Mapping[str, Calibration], path: Path, title: str) -> None:
    """Per class the share of right detections against their score, and how many there are of each score."""
    figure = Figure(figsize=(max(3.9 * len(classes), 6.4), 5.4), layout="constrained")
    figure.suptitle(f"{title}: scores and precision")
    panels = figure.subplots(2, len(classes), squeeze=False, sharex=True, height_ratios=(3, 1))
    for i, (name, c) in enumerate(classes.items()):
        top, bottom = panels[:, i]
        colour = _COLOURS[i % len(_COLOURS)]
        few = [b for b in c.bins if b.n < _LEAST_DRAWN]
        # NaN breaks the line: nothing is known of the scores between two bins that do not touch.
        line = np.full((round(1 / (c.bins[0].high - c.bins[0].low)), 2), np.nan)
        for b in c.bins:
            if b.n >= _LEAST_DRAWN:
                line[round(b.low * len(line))] = b.score, b.precision
        top.plot((0, 1), (0, 1), color="grey", linewidth=1, label="score = precision")
        top.plot(*line.T, "o-", color=colour, markersize=4)
        top.plot([b.score for b in few], [b.precision for b in few], "o", color=colour, markersize=4, mfc="none")
        top.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="precision" if i == 0 else "")
        told = f"D-ECE {c.d_ece.value:.3f}, score minus precision {c.gap.value:+.3f}"
        top.set_title(f"{name}: {c.n} detections\n{told}", fontsize=10)
        top.grid(alpha=0.25)
        width = c.bins[0].high - c.bins[0].low
        bottom.bar([b.low for b in c.bins], [b.n for b in c.bins], width, align="edge", color=colour)
        bottom.set(yscale="log", xlabel="score", ylabel="detections" if i == 0 else "", ylim=(0.7, None))
        bottom.yaxis.set_major_formatter("{x:g}")
        bottom.yaxis.set_minor_formatter("")
    told = f"open: fewer than {_LEAST_DRAWN} detections"
    panels[0][0].legend(loc="lower right", fontsize=8, title=told, title_fontsize=8)
    figure.savefig(path, dpi=120)


def errors(classes: Mapping[str, Breakdown], n_cells: Mapping[str, int], path: Path, title: str) -> None:
    """Per kind of error and class how often, per 100 cells drawn, with 95 % limits and the number."""
    kinds = [str(kind) for kind in ERRORS]
    figure = Figure(figsize=(7.6, 1.4 + 0.26 * len(kinds) * (len(classes) + 0.8)), layout="constrained")
    axes = figure.subplots()
    step = 0.84 / len(classes)
    for i, (name, b) in enumerate(classes.items()):
        rates = [(kinds.index(kind) - 0.42 + (i + 0.5) * step, kind, v) for kind, v in b.per_100.items()]
        rates = [(y, kind, v) for y, kind, v in rates if np.isfinite(v.value)]
        colour = _COLOURS[i % len(_COLOURS)]
        label = f"{name} ({n_cells[name]} drawn)" + ("" if len(b.counts) > 1 else ", not exhaustive")
        axes.barh([y for y, _, _ in rates], [v.value for _, _, v in rates], step * 0.9, color=colour, label=label)
        for y, kind, v in rates:
            axes.plot((v.low, v.high), (y, y), color="black", linewidth=1)
            axes.annotate(str(b.counts[kind]), (max(v.high, v.value), y), (4, 0), "data", "offset points", va="center")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set(xlabel="per 100 cells drawn of the class (number beside the bar, line: 95 %)", title=title)
    axes.margins(x=0.08)
    axes.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)


def ap_slices(kinds: Mapping[str, Sequence[ApSlice]], everywhere: float, path: Path, title: str) -> None:
    """mAP50-95 within each size, source and magnification, with 95 % limits and how much each rests on."""
    lines = sum(len(slices) + 1 for slices in kinds.values())
    figure = Figure(figsize=(7.6, 1.2 + 0.3 * lines), layout="constrained")
    axes = figure.subplots()
    y, ticks, labels = 0, [], []
    for i, (kind, slices) in enumerate(kinds.items()):
        axes.text(0.01, y, kind, va="center", fontsize=9, fontweight="bold")
        for s in slices:
            y += 1
            v = s.map50_95
            if np.isfinite(v.value):
                axes.plot((v.low, v.high), (y, y), color=_COLOURS[i % len(_COLOURS)], linewidth=1.5)
                axes.plot(v.value, y, "o", color=_COLOURS[i % len(_COLOURS)], markersize=5)
            ticks.append(y)
            labels.append(f"{s.name} ({s.n_fields} fields, {sum(s.cells.values())} cells)")
        y += 1
    axes.axvline(everywhere, color="grey", linewidth=1, linestyle="--")
    axes.set_yticks(ticks, labels, fontsize=9)
    axes.set(xlim=(0, 1), ylim=(y - 0.4, -0.6), xlabel="mAP50-95, 95 % over groups; dashed: everything", title=title)
    axes.grid(axis="x", alpha=0.25)
    figure.savefig(path, dpi=120)


def accuracy_against_cost(
    points: Mapping[str, tuple[float, Interval, bool]], path: Path, accuracy: str, cost: str
) -> None:
    """Accuracy against cost, and below it every row by name with its limits, best first; open where it is not ranked.

    At the width of a journal's column (89 mm) and in black. Numbers stand beside the points of those that nothing
    cheaper beats, and beside all where there are few.
    """
    told = [fill_lines(f"{i}  {name}", 36) for i, name in enumerate(points, 1)]
    tall = [t.count("\n") + 1 for t in told]
    places = [sum(tall[:i]) + (h - 1) / 2 for i, h in enumerate(tall)]
    figure = Figure(figsize=(3.5, 3.1 + 0.11 * sum(tall)), layout="constrained")
    parts: Any = figure.subfigures(2, height_ratios=(2.6, 0.11 * sum(tall) + 0.5))  # its type says: one of them
    axes, rows = (part.subplots() for part in parts)
    numbered = _unbeaten({name: (at, value.value) for name, (at, value, _) in points.items()})
    for number, (name, (at, value, ranked)) in enumerate(points.items(), 1):
        _with_limits(axes, (at, at), (value.low, value.high), (at, value.value), ranked)
        if name in numbered or len(points) <= 15:
            axes.annotate(str(number), (at, value.value), (3, 2), textcoords="offset points", fontsize=7)
        place = places[number - 1]
        _with_limits(rows, (value.low, value.high), (place, place), (value.value, place), ranked)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(cost, fontsize=8)
    axes.set_ylabel(f"{accuracy}, 95 % over groups", fontsize=8)
    axes.tick_params(labelsize=7)
    rows.set_yticks(places, told, fontsize=6)
    rows.set_ylim(sum(tall) - 0.3, -0.7)
    rows.tick_params(axis="x", labelsize=7)
    rows.set_xlabel(f"{accuracy}; open: not ranked", fontsize=7)
    for each in (axes, rows):
        each.grid(alpha=0.3, linewidth=0.5)
    figure.savefig(path, dpi=300)


def _with_limits(
    axes: Any, across: tuple[float, float], up: tuple[float, float], at: tuple[float, float], filled: bool
) -> None:
    axes.plot(across, up, color="black", linewidth=0.7, zorder=1)
    axes.plot(*at, "o", color="black", mfc="black" if filled else "white", markersize=3.5, mew=0.8)


def _unbeaten(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names of (cost, value) than which nothing at the same cost or less is better."""
    best, kept = -np.inf, set[str]()
    for name, (_, value) in sorted(points.items(), key=lambda p: (p[1][0], -p[1][1])):
        if value > best:
            best = value
            kept.add(name)
    return kept


def before_and_after(
    pairs: Mapping[str, tuple[Interval, Interval]], path: Path, figure_of: str, names: tuple[str, str]
) -> None:
    """Two values of one figure in each row, with their limits: the first filled, the second open.

    At the width of a journal's column (89 mm) and in black.
    """
    figure = Figure(figsize=(3.5, 0.9 + 0.24 * len(pairs)), layout="constrained")
    axes = figure.subplots()
    for row, values in enumerate(pairs.values()):
        for value, up, fill in zip(values, (-0.14, 0.14), ("black", "white"), strict=True):
            axes.plot((value.low, value.high), (row + up, row + up), color="black", linewidth=0.8, zorder=1)
            axes.plot(value.value, row + up, "o", color="black", mfc=fill, markersize=4)
    axes.set_yticks(range(len(pairs)), [fill_lines(name, 32) for name in pairs], fontsize=6)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    figure.supxlabel(f"{figure_of}\nfilled: {names[0]}, open: {names[1]}", fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    figure.savefig(path, dpi=300)
