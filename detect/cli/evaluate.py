"""`smear evaluate`: measure a bundle on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.options import RunDevice, RunPrecision, Runtime, ScaleChoice, engine_settings, looking
from detect.cli.output import fields_bar, print_table, print_tally
from detect.cli.output import out as console

if TYPE_CHECKING:
    from detect.evaluate.detection import DetectionReport

app = typer.Typer(no_args_is_help=True, help="Measure a bundle on labelled data, with intervals.")


@app.callback()
def verbs() -> None:
    """Measure a bundle on labelled data, with intervals."""


@app.command()
def detector(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or the name of a released one.")],
    data: Annotated[str, typer.Option("--data", help="Dataset card: a path, or the name of a packaged one.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics, predictions, tables and pictures.")],
    part: Annotated[str, typer.Option("--split", help="Part of the card's split, such as val; 'all' for all.")] = "val",
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the card's.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the images.")] = None,
    max_detections: Annotated[
        int | None, typer.Option("--max-detections", min=1, help="Most cells of a field; the bundle's own by default.")
    ] = None,
    scale: ScaleChoice = "fit",
    engine: Runtime = "auto",
    precision: RunPrecision = "fp32",
    device: RunDevice = "cpu",
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 1,
    write_card: Annotated[bool, typer.Option("--write-card", help="Put the figures on the bundle's card.")] = False,
) -> None:
    """AP by pycocotools, FROC, precision, recall and F1 at the bundle's thresholds, counting, calibration, errors."""
    from detect.bundles.folder import add_metrics, open_bundle
    from detect.data.cards import load_card
    from detect.detectors.evaluate import Asked, evaluate
    from detect.detectors.export import metrics
    from detect.formats.tally import Tally

    opened, card, tally = open_bundle(bundle, "detector"), load_card(data), Tally()
    run_by = engine_settings(engine, precision, device)
    asked = Asked(part, split_file, max_detections, looking(scale), run_by, rounds, seed)
    with fields_bar() as progress:
        made = evaluate(opened, card, out, asked, root=root, tally=tally, progress=progress)
    print_tally(tally)
    _show_detector(made.report, made.title)
    if write_card:
        add_metrics(opened.path, metrics(made.report, card.name, made.split, part, made.command))
    console.print(f"written to {out}")


def _show_detector(report: DetectionReport, title: str) -> None:
    rows = (
        (n, c.truths, *report.ap.per_class.get(n, ("-", "-")), c.precision or "-", c.recall, c.f1 or "-")
        for n, c in report.classes.items()
    )
    print_table(title, ("class", "cells", "AP50", "AP50-95", "precision", "recall", "F1"), rows)
    console.print(
        f"mAP50 {report.ap.map50}, mAP50-95 {report.ap.map50_95}; {report.n_fields} fields, {report.n_groups} groups"
    )
    if report.masks is not None:
        masks = report.masks
        console.print(f"masks: mAP50 {masks.ap.map50}, mAP50-95 {masks.ap.map50_95}; {masks.n_fields} fields")
    if report.ap.capped_fields:
        console.print(f"warning: {report.ap.capped_fields} fields reached the cap of {report.ap.cap} detections")


@app.command("leave-one-out")
def leave_one_out(
    config: Annotated[str, typer.Argument(help="YAML of the training, or the name of a packaged one.")],
    data: Annotated[list[str], typer.Option("--data", help="Dataset card; at least two.")],
    out: Annotated[Path, typer.Option("--out", help="Folder: one below it for each set held out, and the table.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the draw of dev and of the bootstrap.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda:0, or cuda:0,1 for several.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where --out stops.")] = False,
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
) -> None:
    """For each set: train on all others, measure on it. Copies across sets are left out first."""
    from detect.detectors.across import leave_one_out as run
    from detect.formats.tally import Tally

    tally = Tally()
    legs = run(config, data, out, seed=seed, device=device, resume=resume, rounds=rounds, tally=tally)
    print_tally(tally)
    heads = ("held out", "fields", "cells", "mAP50", "mAP50-95")
    rows = ((leg.held, leg.n_fields, leg.n_cells, leg.map50, leg.map50_95) for leg in legs)
    print_table("trained on the others", heads, rows)
    console.print(f"written to {out}")


@app.command()
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

    from detect import assets
    from detect.bundles.folder import add_metrics, open_bundle
    from detect.classify.bundled import BundleClassifier, softmax
    from detect.classify.export import metrics, raw_scores
    from detect.data.cards import load_card
    from detect.data.splits import cells_of, read_split
    from detect.data.typed import load_typed
    from detect.errors import DataError
    from detect.evaluate.classification import Answers, measure, write
    from detect.evaluate.plots import confusion
    from detect.formats.tally import Tally

    opened = open_bundle(bundle, "classifier")
    tally = Tally()
    own = opened.card.training.split if opened.card.training is not None else None
    split = split_file or own
    if split is None or (split_file is None and not assets.is_packaged(split, "configs/splits", ".csv")):
        what = f"the bundle's split '{own}' is not among the packaged ones"
        raise DataError(what, where=str(opened.path), remedy="give its file with --split-file")
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
    title = f"{opened.card.name} on {sets}, part {part}"
    flags = " ".join(f"--data {d}" for d in data)
    command = f"smear evaluate classifier {opened.card.name} {flags} --split {part} --seed {seed} --out DIR"
    about = {
        "bundle": opened.card.name,
        "bundle_hash": opened.hash,
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


@app.command()
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


@app.command()
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
    from detect.classify.export import raw_scores
    from detect.data.cards import load_card
    from detect.data.splits import cells_of, read_split
    from detect.data.typed import load_typed
    from detect.errors import DataError
    from detect.evaluate.conformal import coverage as run
    from detect.formats.tally import Tally

    opened = open_bundle(bundle, "classifier")
    split = split_file or (opened.card.training.split if opened.card.training is not None else None)
    if split is None:
        raise DataError("the bundle names no split", where=str(opened.path), remedy="give one with --split-file")
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
    print_table(f"asked: {1 - error_rate:.0%}", ("type", "cells", "held"), rows)
    console.print(
        f"{told.n_cells} cells, {told.n_groups} groups, {told.draws} draws (spread {told.spread:.3f}); one type "
        f"{told.single:.3f}, several {told.several:.3f}, none {told.none:.3f}"
    )


@app.command()
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
    from detect.errors import ConfigError, DataError
    from detect.evaluate import plots
    from detect.formats.tally import Tally
    from detect.images import decode

    if method not in METHODS:
        raise ConfigError(f"--method {method}: no such method", remedy=f"one of: {', '.join(METHODS)}")
    opened = open_bundle(bundle, "classifier")
    split = split_file or (opened.card.training.split if opened.card.training is not None else None)
    if split is None:
        raise DataError("the bundle names no split", where=str(opened.path), remedy="give one with --split-file")
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
    for name, chosen in (("right", True), ("wrong", False)):
        some = [e for e in explained if (e.truth == e.answer) == chosen][:24]
        if some:
            cv2.imwrite(str(out / f"{name}.png"), cv2.cvtColor(sheet(some), cv2.COLOR_RGB2BGR))
    curves = mean_curves(explained, [c.group for c in cells], rounds=rounds, seed=seed)
    title = f"{opened.card.name}, {method}: {len(cells)} cells, 95 % limits"
    plots.deletion(curves, out / "deletion.png", title)
    told = {"bundle": opened.card.name, "method": method, "part": part, "n_cells": len(cells)}
    figures = {name: asdict(v) for name, v in found.items()}
    (out / "metrics.json").write_text(json.dumps({**told, "figures": figures}, indent=1), "utf-8")
    print_table(f"{opened.card.name}, {method}, part {part}", ("figure", "value"), found.items())
    console.print(f"{len(cells)} cells, {len({c.group for c in cells})} groups; written to {out}")


@app.command()
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


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Folder of 'smear evaluate'; with --data a detector's bundle or run too.")],
    b: Annotated[str, typer.Argument(help="Another, of the same part of the same data.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for compare.json and compare.md.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Dataset card to measure bundles and runs on first.")
    ] = None,
    part: Annotated[str, typer.Option("--split", help="With --data: part of the card's split.")] = "val",
    split_file: Annotated[str | None, typer.Option("--split-file", help="With --data: another split.")] = None,
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of bootstrap and of swaps.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of both.")] = 1,
) -> None:
    """Two evaluations on the same fields: differences with intervals, paired bootstrap and swap test over groups."""
    from detect.errors import DataError
    from detect.evaluate.compare import compare_classifiers, compare_detectors, heads, rows, write
    from detect.evaluate.saved import read_answers, read_saved, task_of

    one, two = Path(a), Path(b)
    if data is not None:
        from detect.data.cards import load_card
        from detect.detectors.evaluate import Asked, measured

        asked = Asked(part, split_file, rounds=rounds, seed=seed)
        with fields_bar() as progress:
            card, sides = load_card(data), ((a, out / "a"), (b, out / "b"))
            one, two = (measured(given, card, folder, asked, progress=progress) for given, folder in sides)
    task = task_of(one)
    if task_of(two) != task:
        what = f"an evaluation of a {task_of(two)}, but {one} is one of a {task}"
        raise DataError(what, where=str(two), remedy="compare two detectors, or two classifiers")
    if task == "detector":
        result = compare_detectors(read_saved(one), read_saved(two), rounds=rounds, seed=seed)
    else:
        result = compare_classifiers(read_answers(one), read_answers(two), (one, two), rounds=rounds, seed=seed)
    write(result, out, {"a": str(one), "b": str(two), "bootstrap": {"rounds": rounds, "seed": seed, "over": "groups"}})
    print_table(f"{result.names[1]} against {result.names[0]}", heads(result), rows(result))
    console.print(f"{result.n_units} {result.unit}, {result.n_groups} groups; written to {out}")
