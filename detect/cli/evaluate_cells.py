"""`smear evaluate` of the second stage: types of cells, their parts, and what classifiers look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.options import RunDevice, RunPrecision, Runtime, engine_settings
from detect.cli.output import DRAWN_ONLY, print_table, print_tally
from detect.cli.output import out as console

if TYPE_CHECKING:
    from detect.bundles.folder import Bundle


def classifier(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or the name of a released one.")],
    data: Annotated[list[str], typer.Option("--data", help="Dataset card with typed cells; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, metrics.md and pictures.")],
    part: Annotated[str, typer.Option("--split", help="Part of the bundle's split.")] = "test",
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the bundle's.")] = None,
    engine: Runtime = "auto",
    precision: RunPrecision = "fp32",
    device: RunDevice = "cpu",
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 1,
    write_card: Annotated[bool, typer.Option("--write-card", help="Put the figures on the bundle's card.")] = False,
) -> None:
    """Accuracy, macro F1, confusion, and what abstaining does, on cells of known type."""
    import numpy as np

    from detect.bundles.folder import add_metrics, open_bundle
    from detect.classify.bundled import BundleClassifier, softmax
    from detect.classify.figures import metrics, raw_scores
    from detect.data.cards import load_card
    from detect.data.splits import cells_of, read_split
    from detect.data.typed import load_typed
    from detect.evaluate.classification import Answers, measure, write
    from detect.evaluate.plots import confusion
    from detect.formats.tally import Tally

    opened = open_bundle(bundle, "classifier")
    opened.check_names()
    tally = Tally()
    split = _split(opened, split_file)
    cells = cells_of(read_split(split), load_typed([load_card(d) for d in data], tally), part)
    print_tally(tally)
    runner = BundleClassifier(opened, engine_settings(engine, precision, device))
    scores, distances, truth = raw_scores(runner, cells)
    probabilities = softmax(scores, runner.settings.temperature)
    groups = [c.group for c in cells]
    likely = runner.likely(probabilities)
    report = measure(
        runner.classes.names, truth, probabilities, groups, likely,
        unfamiliar=runner.unfamiliar(distances), plain=softmax(scores), rounds=rounds, seed=seed,
    )  # fmt: skip
    sets = "+".join(data)
    title = f"{_titled(opened)} on {sets}, part {part}"
    flags = " ".join(f"--data {d}" for d in data)
    command = f"smear evaluate classifier {opened.card.name} {flags} --split {part} --seed {seed} --out DIR"
    about = {
        "bundle": opened.card.name,
        "bundle_hash": opened.hash,
        "trained_on": opened.card.trained_on,
        "split": split,
        "part": part,
        "command": command,
    }
    write(report, out, title, about)
    names = np.array(runner.classes.names)
    Answers(
        tuple(c.id for c in cells),
        tuple(groups),
        tuple(c.type for c in cells),
        tuple(names[probabilities.argmax(axis=1)].tolist()),
        {"data": sets, "split": split, "part": part},
    ).save(out)
    confusion(report.confusion, report.types, report.types, out / "confusion.png", title)
    print_table(
        title,
        ("type", "cells", "F1"),
        ((n, report.confusion[i].sum(), report.f1[n]) for i, n in enumerate(report.types)),
    )
    console.print(
        f"macro F1 {report.macro_f1}, balanced accuracy {report.balanced_accuracy}, accuracy {report.accuracy}; "
        f"{report.n_cells} cells, {report.n_groups} groups"
    )
    console.print(f"calibration error {report.ece}, before the temperature {report.ece_before}")
    console.print(f"answered {report.answered}, right among them {report.accuracy_answered}")
    console.print(f"set holds the type {report.covered}, flagged as unfamiliar {report.unfamiliar}")
    if write_card:
        fields = len({c.path for c in cells})
        add_metrics(opened.path, metrics(report, sets, split, part, command, fields=fields))
    console.print(f"written to {out}")


def segmenter(
    bundle: Annotated[str, typer.Argument(help="Segmenter bundle, detector bundle with masks, or 'classical'.")],
    data: Annotated[str, typer.Option("--data", help="Dataset card with masks of cell and nucleus.")],
    split_file: Annotated[str, typer.Option("--split-file", help="Split of the set, by name or path.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, metrics.md and a picture.")],
    part: Annotated[str, typer.Option("--split", help="Part of the split.")] = "test",
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 1,
    write_card: Annotated[bool, typer.Option("--write-card", help="Put the figures on the bundle's card.")] = False,
) -> None:
    """Nucleus and cytoplasm against the drawn masks: overlap, and agreement of area and N:C ratio."""
    from detect.bundles.folder import add_metrics, open_bundle
    from detect.classify.parts import open_segmenter
    from detect.classify.segmenter_bundle import compared, part_metrics
    from detect.data.cards import load_card
    from detect.data.splits import cells_of, read_split
    from detect.data.typed import load_typed
    from detect.evaluate.parts import measure_parts, write
    from detect.evaluate.plots import agreement
    from detect.formats.tally import Tally
    from detect.runtime.base import EngineSettings

    if write_card:
        open_bundle(bundle, "segmenter")  # 'classical' is no bundle of this kind, and has no card for these figures
    tally = Tally()
    cells = cells_of(read_split(split_file), load_typed([load_card(data)], tally), part)
    print_tally(tally)
    runner = open_segmenter(bundle, EngineSettings())
    report = measure_parts(*compared(runner, cells), rounds=rounds, seed=seed)
    command = f"smear evaluate segmenter {runner.name} --data {data} --split-file {split_file} --split {part} --out DIR"
    title = f"{runner.name} on {data}, part {part}"
    write(report, out, title, {"segmenter": runner.name, "split": split_file, "part": part, "command": command})
    agreement(report, out / "agreement.png", title)
    print_table(title, ("figure", "value"), report.figures.items())
    console.print(f"{report.n_cells} cells, {report.n_groups} groups; written to {out}")
    if write_card:
        add_metrics(open_bundle(bundle).path, part_metrics(report, data, split_file, part, command))


def coverage(
    bundle: Annotated[str, typer.Argument(help="Classifier bundle.")],
    data: Annotated[list[str], typer.Option("--data", help="Dataset card with typed cells; may be repeated.")],
    part: Annotated[
        list[str] | None, typer.Option("--split", help="Parts of the bundle's split that it did not learn from.")
    ] = None,
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the bundle's.")] = None,
    error_rate: Annotated[
        float, typer.Option("--error-rate", min=0.001, max=0.999, help="Share of cells whose set may lack their type.")
    ] = 0.1,
    draws: Annotated[int, typer.Option("--draws", min=2, help="Draws of groups to calibrate on.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 1,
) -> None:
    """How often the set of likely types holds a cell's own: calibrated on half of the groups, counted on the other."""
    from detect.bundles.folder import open_bundle
    from detect.classify.bundled import BundleClassifier, softmax
    from detect.classify.figures import raw_scores
    from detect.data.cards import load_card
    from detect.data.splits import cells_of, read_split
    from detect.data.typed import load_typed
    from detect.evaluate.conformal import coverage as run
    from detect.formats.tally import Tally

    opened = open_bundle(bundle, "classifier")
    opened.check_names()
    split = _split(opened, split_file)
    tally = Tally()
    everything = load_typed([load_card(d) for d in data], tally)
    cells = [c for p in part or ["dev", "test"] for c in cells_of(read_split(split), everything, p)]
    print_tally(tally)
    runner = BundleClassifier(opened)
    scores, _, truth = raw_scores(runner, cells)
    told = run(
        runner.classes.names, truth, softmax(scores, runner.settings.temperature), [c.group for c in cells],
        error=error_rate, draws=draws, seed=seed,
    )  # fmt: skip
    rows = [("all", told.n_cells, told.mean), *((t, told.cells[t], v) for t, v in told.by_type.items())]
    print_table(f"{_titled(opened)}, asked: {1 - error_rate:.0%}", ("type", "cells", "held"), rows)
    console.print(
        f"{told.n_cells} cells, {told.n_groups} groups, {told.draws} draws (spread {told.spread:.3f}); one type "
        f"{told.single:.3f}, several {told.several:.3f}, none {told.none:.3f}"
    )


def explanations(
    bundle: Annotated[str, typer.Argument(help="Classifier bundle of one network.")],
    data: Annotated[list[str], typer.Option("--data", help="Dataset card with typed cells; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, curves, sheets of cells.")],
    method: Annotated[str, typer.Option("--method", help="grad-cam, score-cam or attention.")] = "grad-cam",
    part: Annotated[str, typer.Option("--split", help="Part of the bundle's split.")] = "test",
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the bundle's.")] = None,
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of random maps and bootstrap.")] = 1,
) -> None:
    """Whether a network's answers hang on what its maps mark: deletion curves against those of random maps."""
    import json
    from dataclasses import asdict

    import cv2

    from detect.bundles.folder import open_bundle
    from detect.classify.bundled import BundleClassifier
    from detect.classify.explain import METHODS, Explainer
    from detect.classify.explained import explain_known, faithfulness, mean_curves, sheet
    from detect.data.cards import load_card
    from detect.data.splits import cells_of, read_split
    from detect.data.typed import load_typed
    from detect.errors import ConfigError
    from detect.evaluate import plots
    from detect.formats.tally import Tally
    from detect.images import decode

    if method not in METHODS:
        raise ConfigError(f"--method {method}: no such method", remedy=f"one of: {', '.join(METHODS)}")
    opened = open_bundle(bundle, "classifier")
    opened.check_names()
    split = _split(opened, split_file)
    tally = Tally()
    cells = cells_of(read_split(split), load_typed([load_card(d) for d in data], tally), part)
    print_tally(tally)
    cutter = BundleClassifier(opened)
    crops = [cutter.cut(cutter.ready(decode.read(c.path)), c.box, c.outline) for c in cells]
    explained = explain_known(
        Explainer(opened, method),
        crops,
        cutter.classes.names,
        [c.type for c in cells],
        seed,
    )
    found = faithfulness(explained, [c.group for c in cells], rounds=rounds, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    note = DRAWN_ONLY if opened.card.trained_on == "synthetic" else ""
    for name, chosen in (("right", True), ("wrong", False)):
        some = [e for e in explained if (e.truth == e.answer) == chosen][:24]
        if some:
            cv2.imwrite(str(out / f"{name}.png"), cv2.cvtColor(sheet(some, note=note), cv2.COLOR_RGB2BGR))
    curves = mean_curves(explained, [c.group for c in cells], rounds=rounds, seed=seed)
    title = f"{_titled(opened)}, {method}: {len(cells)} cells, 95 % limits"
    plots.deletion(curves, out / "deletion.png", title)
    card = opened.card
    told = {"bundle": card.name, "trained_on": card.trained_on, "method": method, "part": part, "n_cells": len(cells)}
    figures = {name: asdict(v) for name, v in found.items()}
    (out / "metrics.json").write_text(json.dumps({**told, "figures": figures}, indent=1), "utf-8")
    print_table(f"{_titled(opened)}, {method}, part {part}", ("figure", "value"), found.items())
    console.print(f"{len(cells)} cells, {len({c.group for c in cells})} groups; written to {out}")


def zoo(
    config: Annotated[str, typer.Argument(help="YAML of the table, or the name of a packaged one.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the table; goes on where it stops.")],
    row: Annotated[list[str] | None, typer.Option("--row", help="Make this row now; may be repeated.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda:0.")] = "auto",
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
) -> None:
    """Many classifiers under one protocol: grouped folds, held-out sources, or a learning curve."""
    from detect.classify.zoo import zoo as run
    from detect.cli.output import err
    from detect.formats.tally import Tally

    tally = Tally()
    with err.status("reading") as status:
        rows, rare = run(
            config, out, only=row or (), device=device, rounds=rounds, tally=tally,
            progress=lambda name, leg: status.update(f"{name}, {leg}"),
        )  # fmt: skip
    print_tally(tally)
    for kind, groups in rare.items():
        console.print(f"not scored: {kind}, {groups} groups")
    heads = ("model", "macro F1", "balanced accuracy", "converged")
    lines = ((r.title, r.report.macro_f1, r.report.balanced_accuracy, r.state) for r in rows)
    print_table(config, heads, lines)
    console.print(f"written to {out}")


def _split(opened: Bundle, given: str | None) -> str:
    """The split that is named, else the bundle's own, where it is a packaged one."""
    from detect import assets
    from detect.errors import DataError

    own = opened.card.training.split if opened.card.training is not None else None
    if given is None and (own is None or not assets.is_packaged(own, "configs/splits", ".csv")):
        what = "it names no split" if own is None else f"its split '{own}' is not among the packaged ones"
        raise DataError(what, where=str(opened.path), remedy="give its file with --split-file")
    return given or str(own)


def _titled(opened: Bundle) -> str:
    """The name of a bundle, which no reader takes for more than it is."""
    return opened.card.name + (" (learnt from drawn cells only)" if opened.card.trained_on == "synthetic" else "")
