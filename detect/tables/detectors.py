"""`smear evaluate table detectors`: every family on one split, under one budget, with what each costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detect.bundles.card import GRAPH
from detect.bundles.folder import open_bundle
from detect.data.cards import load_card
from detect.detectors.opened import open_detector
from detect.detectors.train import split_parts
from detect.errors import DataError
from detect.evaluate.compare import Comparison, compare_detectors
from detect.evaluate.intervals import Interval
from detect.evaluate.plots import accuracy_against_cost
from detect.evaluate.saved import METRICS, load_json, read_saved
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import FRAMEWORK, EngineSettings, cores
from detect.tables import keys
from detect.tables.measured import Progress
from detect.tables.settings import DetectorTable
from detect.tables.trained import Made, Maker, chosen, interval, made_meanwhile, open_out, table_settings
from detect.tables.written import Column, Table, Value, write
from detect.types import Image

NAME = "detectors"
EVALUATION = "evaluation"
SPEED = "speed.json"
REFERENCE = "cells-yolov8n"  # timed beside every row: times of different runs compare by it
TIME = f"time, of {REFERENCE}'s"
_NOT_RANKED = "no: not ranked"
_FIELDS, _BATCH, _ROUNDS, _LEAST = 16, 8, 3, 1.0  # fields timed, in batches, how often, seconds each time at least


def detector_table(
    config: str,
    out: Path,
    *,
    only: Sequence[str] = (),
    device: str = "auto",
    keep_stale: bool = False,
    say: Progress = print,
) -> Table:
    """Make the rows that are not there yet, time them all side by side, write the table.

    Args:
        only: rows to make now; all by default. Those that were made before stand in the table all the same.
        keep_stale: take rows whose configuration, data or code has changed as they are; they are marked.

    Raises:
        ConfigError, DataError, StoreError: as training and evaluation do; rows that are done stay.
    """
    table, where = table_settings(DetectorTable, config)
    out = out.resolve()
    maker = Maker(table, where, out, device, keep_stale, say)
    names = chosen(only, table.rows, where)
    open_out(out)
    made: dict[str, list[Made]] = {}
    for name in table.rows:
        if runs := maker.row(name, table.split, "", {EVALUATION: table.split}, make=name in names):
            made[name] = runs
            write(_told(table, made, {}, {}), out)
    one = {EVALUATION: table.split}
    made = made_meanwhile(made, table.rows, lambda name: maker.row(name, table.split, "", one, make=False))
    times = speeds(table, made, say)
    told = _told(table, made, times, _comparisons(table, made, say))
    write(told, out)
    _draw(told, out)
    return told


@dataclass(frozen=True)
class Speed:
    """Milliseconds a field of batches that lie in memory decoded, resizing and merging included; median of rounds.

    Attributes:
        ratio: to the reference in the same run.
    """

    ms: float
    low: float
    high: float
    engine: str
    precision: str
    ratio: float


def speeds(table: DetectorTable, made: Mapping[str, list[Made]], say: Progress) -> dict[str, Speed]:
    """Rows that were not timed yet, in turn with the reference, `_ROUNDS` times, in one process.

    Kept beside each row for that bundle. Returns nothing for rows whose bundle was gone before it was timed.
    """
    found: dict[str, Speed] = {}
    for name, runs in made.items():
        told = keys.read(runs[0].folder / SPEED)
        if told is not None and told["bundle"] == runs[0].hash:
            found[name] = Speed(**told["speed"])
    new = {n: open_bundle(m[0].bundle, "detector") for n, m in made.items() if n not in found and m[0].at_hand}
    if not new:
        return found
    say("timing rows")
    part, *_ = split_parts(load_card(table.data), table.split, None, Tally(), table.part)
    images = [decode.read(f.field.path) for f in part.fields[:_FIELDS]]
    timed = {**new, "": open_bundle(REFERENCE, "detector")}
    engines = {
        n: (EngineSettings() if GRAPH in b.card.files else EngineSettings(FRAMEWORK)).resolved()
        for n, b in timed.items()
    }
    rounds: dict[str, list[float]] = {n: [] for n in timed}
    for _ in range(_ROUNDS):
        for name, bundle in timed.items():
            rounds[name].append(_timed(open_detector(bundle, engines[name]), images))
    about = {"cores": cores(), "fields": len(images), "batch": _BATCH, "rounds": _ROUNDS, "reference": timed[""].hash}
    for name, bundle in new.items():
        t, e = rounds[name], engines[name]
        ratio = statistics.median(a / b for a, b in zip(t, rounds[""], strict=True))
        found[name] = Speed(statistics.median(t), min(t), max(t), e.name, e.precision, ratio)
        keys.write(made[name][0].folder / SPEED, {"bundle": bundle.hash, **about, "speed": asdict(found[name])})
    return found


def _timed(runner: Any, images: Sequence[Image]) -> float:
    """Milliseconds a field."""
    runner.predict(images[:_BATCH])  # engines compile a shape when they first see it
    started, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - started < _LEAST:
        for first in range(0, len(images), _BATCH):
            runner.predict(images[first : first + _BATCH])
        n += len(images)
    return 1000 * (time.perf_counter() - started) / n


def _comparisons(table: DetectorTable, made: Mapping[str, list[Made]], say: Progress) -> dict[str, Comparison]:
    """Each row against the best that is ranked: the highest mAP50-95 of first seeds."""
    ranked = [n for n, m in made.items() if not _rising(m)]
    if not ranked:
        return {}
    best = max(ranked, key=lambda n: _rank(_figures(made[n][0])))
    say(f"comparing with {best}")
    first = read_saved(made[best][0].folder / EVALUATION)
    out: dict[str, Comparison] = {}
    for name, runs in made.items():
        if name == best:
            continue
        try:
            other = read_saved(runs[0].folder / EVALUATION)
            out[name] = compare_detectors(first, other, rounds=table.rounds, seed=table.seed)
        except DataError as error:  # of other classes: it has figures of its own, and no comparison
            say(f"{name} is not compared: {error.problem}")
    return out


def _figures(made: Made) -> dict[str, Any]:
    told: dict[str, Any] = load_json(made.folder / EVALUATION / METRICS)
    return told


def _told(
    table: DetectorTable,
    made: Mapping[str, list[Made]],
    times: Mapping[str, Speed],
    against: Mapping[str, Comparison],
) -> Table:
    """The table, best mAP50-95 first, rows that were stopped by the budget last."""
    figures = {n: _figures(m[0]) for n, m in made.items()}
    classes = list(dict.fromkeys(c for f in figures.values() for c in f["classes"]))
    columns = (
        Column("mAP50-95"), Column("mAP50"), Column("spread"), *(Column(f"AP50 {c}") for c in classes),
        *(Column(f"F1 {c}") for c in classes), *(Column(f"counting error {c}", ".2f") for c in classes),
        *(Column(f"D-ECE {c}") for c in classes), Column("parameters, M", ".2f"), Column("GFLOPs", ".2f"),
        Column("ms a field", ".1f"), Column(TIME, ".2f"), Column("images seen"), Column("hours", ".2f"),
        Column("epochs"), Column("seeds"), Column("converged"), Column("less than the best"),
        Column("p of that", ".3f"),
    )  # fmt: skip
    order = sorted(made, key=lambda n: (_rising(made[n]), -_rank(figures[n])))
    lines: dict[str, list[Value]] = {}
    for name in order:
        runs, f = made[name], figures[name]
        about = runs[0].about
        means = [_figures(m)["map50_95"]["value"] for m in runs]
        compared = against.get(name)
        difference = compared.figures["mAP50-95"] if compared and not compared.left_out else None
        lines[name] = [
            interval(f["map50_95"]), interval(f["map50"]), float(np.std(means, ddof=1)) if len(means) > 1 else None,
            *(interval(f["per_class_ap"][c]["ap50"]) if c in f["per_class_ap"] else None for c in classes),
            *(interval(f["classes"][c]["f1"]) if c in f["classes"] else None for c in classes),
            *(interval(f["counting"][c]["mae"]) if c in f["counting"] else None for c in classes),
            *(interval(f["calibration"][c]["d_ece"]) if c in f["calibration"] else None for c in classes),
            about["parameters"] / 1e6, float(about["gflops"]), times[name].ms if name in times else None,
            times[name].ratio if name in times else None,
            about.get("images", 0), sum(m.about.get("minutes", 0.0) for m in runs) / 60 / len(runs),
            about.get("epochs", 0), len(runs), _converged(runs),
            difference.difference if difference else None, difference.p_swap if difference else None,
        ]  # fmt: skip
    one = next(iter(figures.values()))
    notes = (
        f"{table.data}, split {table.split}: rows with hours learnt from train, epoch and thresholds chosen on dev; "
        f"all measured on {table.part}: {one['n_fields']} fields in {one['n_groups']} groups, {one['n_cells']} cells. "
        "95 % limits by bootstrap over groups. Spread: standard deviation of mAP50-95 over seeds. F1 at the threshold "
        "chosen on dev, IoU 0.5. Counting error: mean of found less drawn, in cells a field, without its sign. D-ECE: "
        "calibration error of detections.",
        f"Hours of one seed, on {_machines(made)}. ms a field: {_FIELDS} decoded fields in batches of {_BATCH}, fp32, "
        f"in turn with {REFERENCE}, median of {_ROUNDS}; the ratio to that counts. A row whose mAP50-95 on dev still "
        "rose when its budget ended, or that had fewer than ten epochs, is not ranked. Less than the best: "
        "mAP50-95 of the row less that of the best, of first seeds, paired over groups; p by swapping groups, of each "
        "alone. What another seed would bring is in neither.",
    )
    return Table(NAME, table.title, notes, columns, lines, _about(table, made))


def _rank(figures: Mapping[str, Any]) -> float:
    """mAP50-95; what has none stands last."""
    value = figures["map50_95"]["value"]
    return -1.0 if value is None else float(value)


def _rising(runs: Sequence[Made]) -> bool:
    return any(m.rising for m in runs)


def _converged(runs: Sequence[Made]) -> str:
    if "epochs" not in runs[0].about:
        return "learns nothing here"
    changed = sorted({k for m in runs for k in m.stale})
    kept = f"; kept though its {', '.join(changed)} changed" if changed else ""
    return (_NOT_RANKED if _rising(runs) else "yes") + kept


def _machines(made: Mapping[str, list[Made]]) -> str:
    told = dict.fromkeys(
        f"{m.about['hardware']}, {m.about['cores']} cores" for r in made.values() for m in r if "epochs" in m.about
    )
    return "; ".join(told) or "no machine: nothing was trained"


def _about(table: DetectorTable, made: Mapping[str, list[Made]]) -> dict[str, Any]:
    runs = {n: [{**m.about, "key": m.key, "figures": _brief(m)} for m in r] for n, r in made.items()}
    minutes = sum(m.about.get("minutes", 0.0) for r in made.values() for m in r)
    return {"settings": table.model_dump(mode="json"), "hours": minutes / 60, "runs": runs}


def _brief(made: Made) -> dict[str, Any]:
    told = _figures(made)
    return {k: told[k] for k in ("map50", "map50_95", "per_class_ap", "command", "engine")}


def _draw(told: Table, out: Path) -> None:
    """mAP50-95 against the time a field takes."""
    at = [c.head for c in told.columns]
    points = {}
    for name, values in told.lines.items():
        cost, score = values[at.index(TIME)], values[at.index("mAP50-95")]
        if isinstance(cost, float) and isinstance(score, Interval):
            points[name] = (cost, score, not str(values[at.index("converged")]).startswith(_NOT_RANKED))
    if points:
        accuracy_against_cost(points, out / f"{NAME}.png", "mAP50-95", f"time a field, {REFERENCE} = 1, on the CPU")
