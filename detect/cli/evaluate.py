"""`smear evaluate`: measure a bundle on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.output import err, print_table, print_tally
from detect.cli.output import out as console

if TYPE_CHECKING:
    from detect.evaluate.coco_ap import Ap
    from detect.evaluate.detection import DetectionReport

app = typer.Typer(no_args_is_help=True, help="Measure a bundle on labelled data, with intervals.")


@app.callback()
def verbs() -> None:
    """Measure a bundle on labelled data, with intervals."""


@app.command()
def detector(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or the name of a released one.")],
    data: Annotated[str, typer.Option("--data", help="Dataset card: a path, or the name of a packaged one.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, metrics.md and pictures.")],
    part: Annotated[str, typer.Option("--split", help="Part of the card's split, such as val; 'all' for all.")] = "val",
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the card's.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the images.")] = None,
    max_detections: Annotated[
        int | None, typer.Option("--max-detections", min=1, help="Most cells of a field; the bundle's own by default.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, openvino or onnxruntime.")] = "auto",
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 1,
    write_card: Annotated[bool, typer.Option("--write-card", help="Put the figures on the bundle's card.")] = False,
) -> None:
    """AP by pycocotools, precision, recall and F1 at the bundle's thresholds, confusion, curves."""
    from rich.progress import Progress

    from detect.bundles.folder import add_metrics, open_bundle
    from detect.data.cards import load_card
    from detect.data.load import load_dataset
    from detect.data.sources import merge
    from detect.detectors.bundled import BundleDetector
    from detect.detectors.export import metrics
    from detect.detectors.measure import MIN_SCORE, predict_all
    from detect.detectors.train import split_parts
    from detect.evaluate.align import align
    from detect.evaluate.detection import measure, write
    from detect.formats.tally import Tally
    from detect.runtime.base import EngineSettings

    opened = open_bundle(bundle, "detector")
    card = load_card(data)
    tally = Tally()
    if part == "all":
        dataset = merge(load_dataset(card, tally, root))
    else:
        dataset, *_ = split_parts(card, split_file, root, tally, part)
    print_tally(tally)
    runner = BundleDetector(
        opened,
        EngineSettings(engine),
        thresholds=dict.fromkeys(opened.card.classes, MIN_SCORE),
        max_detections=max_detections,
    )
    dataset = align(dataset, runner.classes)
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("fields", total=len(dataset))
        found = predict_all(runner, dataset, progress=lambda n: bar.advance(task, n))
    thresholds = runner.settings.thresholds
    most = max_detections or runner.settings.max_detections
    report, ap = measure(dataset, found, thresholds, cap=most, rounds=rounds, seed=seed)
    split = split_file or card.split if part != "all" else None
    title = f"{opened.card.name} on {card.name}, part {part}"
    command = f"smear evaluate detector {opened.card.name} --data {card.name} --split {part} --seed {seed} --out DIR"
    command += f" --split-file {split_file}" if split_file else ""
    command += f" --max-detections {max_detections}" if max_detections else ""
    command += f" --bootstrap {rounds}" if rounds != 1000 else ""
    about = {
        "bundle": opened.card.name,
        "bundle_hash": opened.hash,
        "data": card.name,
        "split": split,
        "part": part,
        "engine": EngineSettings(engine).resolved().name,
        "bootstrap": {"rounds": rounds, "seed": seed, "over": "groups"},
        "command": command,
        "label_problems": tally.counts(),
    }
    write(report, out, title, about)
    _show_detector(report, ap, out, title)
    if write_card:
        add_metrics(opened.path, metrics(report, card.name, split, part, command))
    console.print(f"written to {out}")


def _show_detector(report: DetectionReport, ap: Ap, out: Path, title: str) -> None:
    """Pictures into the folder, a table to the terminal."""
    from detect.evaluate.plots import confusion, precision_recall

    precision_recall({n: ap.curve(n)[0] for n in report.ap.per_class}, out / "precision-recall.png", title)
    heads = [*report.classes, "background"]
    confusion(report.confusion, heads, heads, out / "confusion.png", title)
    rows = (
        (n, c.truths, *report.ap.per_class.get(n, ("-", "-")), c.precision or "-", c.recall, c.f1 or "-")
        for n, c in report.classes.items()
    )
    print_table(title, ("class", "cells", "AP50", "AP50-95", "precision", "recall", "F1"), rows)
    console.print(
        f"mAP50 {report.ap.map50}, mAP50-95 {report.ap.map50_95}; {report.n_fields} fields, {report.n_groups} groups"
    )
    if report.ap.capped_fields:
        console.print(f"warning: {report.ap.capped_fields} fields reached the cap of {report.ap.cap} detections")


@app.command()
def classifier(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or the name of a released one.")],
    data: Annotated[list[str], typer.Option("--data", help="Dataset card with typed cells; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json, metrics.md and pictures.")],
    part: Annotated[str, typer.Option("--split", help="Part of the bundle's split.")] = "test",
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the bundle's.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, openvino or onnxruntime.")] = "auto",
    rounds: Annotated[int, typer.Option("--bootstrap", min=10, help="Rounds of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 1,
    write_card: Annotated[bool, typer.Option("--write-card", help="Put the figures on the bundle's card.")] = False,
) -> None:
    """Accuracy, macro F1, confusion, and what abstaining does, on cells of known type."""
    from detect import assets
    from detect.bundles.folder import add_metrics, open_bundle
    from detect.classify.bundled import BundleClassifier, softmax
    from detect.classify.export import metrics, raw_scores
    from detect.data.cards import load_card
    from detect.data.splits import cells_of, read_split
    from detect.data.typed import load_typed
    from detect.errors import DataError
    from detect.evaluate.classification import measure, write
    from detect.evaluate.plots import confusion
    from detect.formats.tally import Tally
    from detect.runtime.base import EngineSettings

    opened = open_bundle(bundle, "classifier")
    tally = Tally()
    split = split_file or opened.card.training.split
    if split_file is None and not assets.is_packaged(split, "configs/splits", ".csv"):
        what = f"the bundle's split '{split}' is not among the packaged ones"
        raise DataError(what, where=str(opened.path), remedy="give its file with --split-file")
    cells = cells_of(read_split(split), load_typed([load_card(d) for d in data], tally), part)
    print_tally(tally)
    runner = BundleClassifier(opened, EngineSettings(engine))
    scores, truth = raw_scores(runner, cells)
    least = runner.settings.min_probability
    probabilities = softmax(scores, runner.settings.temperature)
    groups = [c.group for c in cells]
    report = measure(runner.classes.names, truth, probabilities, groups, least, rounds=rounds, seed=seed)
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
    confusion(report.confusion, report.types, report.types, out / "confusion.png", title)
    print_table(
        title,
        ("type", "cells", "F1"),
        ((n, report.confusion[i].sum(), report.f1[n]) for i, n in enumerate(report.types)),
    )
    console.print(
        f"macro F1 {report.macro_f1}, accuracy {report.accuracy}; {report.n_cells} cells, {report.n_groups} groups"
    )
    console.print(f"answered {report.answered}, right among them {report.accuracy_answered}")
    if write_card:
        add_metrics(opened.path, metrics(report, sets, split, part, command))
    console.print(f"written to {out}")
