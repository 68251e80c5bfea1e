"""The report of a detector as `metrics.json` and as tables to read, `metrics.md`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from detect.evaluate.coco_ap import ApSlice
from detect.evaluate.detection import DetectionReport
from detect.evaluate.intervals import Interval, plain_json


def write(report: DetectionReport, out: Path, title: str, about: Mapping[str, Any]) -> None:
    """`metrics.json` and `metrics.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(plain_json({**about, **report.to_json()}), "utf-8")
    (out / "metrics.md").write_text(markdown(report, title), "utf-8")


def markdown(report: DetectionReport, title: str) -> str:
    """Readable tables."""
    parts = [
        _summary(report, title),
        _slices(report),
        _froc(report),
        _counting(report),
        _errors(report),
        _calibration(report),
        _localisation(report),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def write_csv(file: IO[str], heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows of values; an interval takes three columns, the second and third its limits."""
    limited = [any(isinstance(row[i], Interval) for row in rows) for i in range(len(heads))]
    wide = [[h, f"{h}, low", f"{h}, high"] if w else [h] for h, w in zip(heads, limited, strict=True)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([h for each in wide for h in each])
    for row in rows:
        writer.writerow([c for v, each in zip(row, wide, strict=True) for c in _cells(v, len(each))])


def _cells(value: object, width: int) -> list[object]:
    if isinstance(value, Interval):
        return [value.value, value.low, value.high]
    return ["" if value is None else value, *[""] * (width - 1)]


def table(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of a table in Markdown, numbers to the right."""
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def _summary(report: DetectionReport, title: str) -> list[str]:
    lines = [
        f"# {title}",
        "",
        f"{report.n_fields} fields, {report.n_groups} groups, {report.n_cells} cells. "
        "95 % intervals by bootstrap over groups.",
        "",
        f"- mAP50 {report.ap.map50}",
        f"- mAP50-95 {report.ap.map50_95}",
        f"- at most {report.ap.cap} detections a field; {report.ap.capped_fields} fields reached it",
    ]
    if report.masks is not None:
        m = report.masks
        lines.append(f"- masks ({m.n_fields} fields): mAP50 {m.ap.map50}, mAP50-95 {m.ap.map50_95}")
    rows = []
    for name, c in report.classes.items():
        a, b = report.ap.per_class.get(name, ("-", "-"))
        rest = (c.precision or "not exhaustive", c.recall, c.f1 or "not exhaustive")
        rows.append((name, c.truths, a, b, f"{c.threshold:.2f}", *rest))
    lines += ["", *table(("class", "cells", "AP50", "AP50-95", "threshold", "precision", "recall", "F1"), rows)]
    heads = [*report.classes, "background"]
    lines += ["", "Confusion at the thresholds, IoU 0.5, rows drawn, columns found:", ""]
    return lines + table(["", *heads], ((n, *row) for n, row in zip(heads, report.confusion, strict=True)))


def _slices(report: DetectionReport) -> list[str]:
    out = ["", "## AP by size, source and magnification"]
    told = {
        "size of the cell (COCO: small below 32 x 32 px, large from 96 x 96 px)": report.sizes,
        f"source ({report.source_rule})": report.sources,
        "magnification (median diameter of a field's red cells)": report.magnifications,
    }
    if report.masks is not None:
        told["size of the cell, masks"] = report.masks.sizes
    for head, slices in told.items():
        names = [*next(iter(slices)).cells] if slices else []
        heads = (head, "fields", "cells", "mAP50", "mAP50-95", *(f"AP50-95 {n} (cells)" for n in names))
        out += ["", *table(heads, (_slice_row(s) for s in slices))]
    return out


def _slice_row(s: ApSlice) -> tuple[object, ...]:
    each = (f"{s.per_class[n][1]} ({cells})" if n in s.per_class else "-" for n, cells in s.cells.items())
    return (s.name, s.n_fields, sum(s.cells.values()), s.map50, s.map50_95, *each)


def _froc(report: DetectionReport) -> list[str]:
    if not report.froc:
        return []
    rates = next(iter(report.froc.values())).rates
    heads = ("class", "cells", *(f"{rate:g}" for rate in rates), "mean of the seven")
    rows = ((n, f.n_cells, *f.sensitivity, f.mean) for n, f in report.froc.items())
    return ["", "## FROC: sensitivity at false positives per field", "", *table(heads, rows)]


def _counting(report: DetectionReport) -> list[str]:
    if not report.counting:
        return []
    heads = ("class", "fields", "drawn", "found", "MAE", "bias", "lower limit of agreement", "upper limit")
    rows = ((n, c.n_fields, c.n_drawn, c.n_found, c.mae, c.bias, c.lower, c.upper) for n, c in report.counting.items())
    return ["", "## Counting error: cells per field, found minus drawn, at the thresholds", "", *table(heads, rows)]


def _errors(report: DetectionReport) -> list[str]:
    kinds = list(dict.fromkeys(kind for b in report.errors.values() for kind in b.counts))
    kinds.sort(key=lambda kind: kind == "missed")
    rows = (
        (n, *(f"{b.counts[k]}: {b.per_100[k]:.2f}" if k in b.counts else "not exhaustive" for k in kinds))
        for n, b in report.errors.items()
    )
    told = "Number: per 100 cells drawn. False detections by the class found, missed cells by the class drawn."
    return ["", "## Errors at the thresholds", "", told, "", *table(("class", *kinds), rows)]


def _calibration(report: DetectionReport) -> list[str]:
    if not report.calibration:
        return []
    rows = (
        (n, c.n, c.d_ece, f"{c.d_ece_placed} ({c.placed_share:.0%})" if c.d_ece_placed else "-", c.gap)
        for n, c in report.calibration.items()
    )
    heads = ("class", "detections", "D-ECE", "D-ECE with place and size (of detections)", "score minus precision")
    floor = next(iter(report.calibration.values())).floor
    return ["", f"## Calibration of scores from {floor:g} on", "", *table(heads, rows)]


def _localisation(report: DetectionReport) -> list[str]:
    if not report.localisation:
        return []
    rows = []
    for name, where in report.localisation.items():
        sides = zip((where.dx, where.dy, where.dw, where.dh), where.spread, strict=True)
        rows.append((name, where.n, where.iou, *(f"{mean:+.1f}, SD {spread:.1f}" for mean, spread in sides)))
    heads = ("class", "cells met", "mean IoU", "right", "down", "wider", "higher")
    told = "Offsets from the drawn box in per cent of its width or height, mean and standard deviation over cells."
    return ["", "## Localisation of the cells met at the thresholds", "", told, "", *table(heads, rows)]
