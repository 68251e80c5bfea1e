"""`smear evaluate`: measure a bundle on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.evaluate_cells import classifier, coverage, explanations, segmenter, zoo
from detect.cli.options import ImageSize, RunDevice, RunPrecision, Runtime, ScaleChoice, engine_settings, looking
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
    image_size: ImageSize = None,
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
    from detect.errors import ConfigError
    from detect.formats.tally import Tally

    opened, card, tally = open_bundle(bundle, "detector"), load_card(data), Tally()
    run_by = engine_settings(engine, precision, device)
    if write_card and image_size not in (None, opened.detector.image_size):
        what = f"--write-card: the card is of an input of {opened.detector.image_size} px, not {image_size}"
        raise ConfigError(what, remedy="leave out --write-card or --image-size")
    asked = Asked(part, split_file, max_detections, image_size, looking(scale), run_by, rounds, seed)
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


for verb in (classifier, segmenter, coverage, explanations, zoo):
    app.command()(verb)
