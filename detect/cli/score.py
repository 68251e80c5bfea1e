"""`smear score`: a folder of slides to a run folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.options import RunDevice, RunPrecision, Runtime, ScaleChoice
from detect.cli.output import err
from detect.cli.output import out as console

if TYPE_CHECKING:
    from detect.score.run import Outcome


def score(
    folder: Annotated[Path, typer.Argument(help="Folder with one sub-folder of images a slide.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    pipeline: Annotated[
        str, typer.Option("--pipeline", help="YAML of a pipeline, or the name of a packaged one.")
    ] = "default",
    detector: Annotated[
        str | None, typer.Option("--detector", help="Detector bundle, in place of the pipeline's.")
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option("--classifier", help="Classifier bundle in place of the pipeline's; may be repeated; or 'none'."),
    ] = None,
    error_rate: Annotated[
        float | None,
        typer.Option("--error-rate", help="Share of cells whose likely types may lack their own, as 0.1."),
    ] = None,
    engine: Runtime = "auto",
    precision: RunPrecision = "fp32",
    device: RunDevice = "cpu",
    batch: Annotated[int, typer.Option("--batch", help="Fields per batch.")] = 16,
    workers: Annotated[int, typer.Option("--workers", help="Batches at once; 0 takes one per core.")] = 0,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Replace the detector's thresholds, for evaluation.")
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option("--threshold", help="Least score of a class, such as WBC=0.5; may be repeated."),
    ] = None,
    scale: ScaleChoice = "auto",
    mpp: Annotated[float | None, typer.Option("--mpp", help="Micrometres a pixel, in place of --scale auto.")] = None,
    cell_diameter_px: Annotated[
        float | None, typer.Option("--cell-diameter-px", help="Diameter of a red cell, in place of --scale auto.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")] = False,
) -> None:
    """Find and type the cells of every field, count a differential per slide, write a report.

    Exit code 0 where every field was read, 3 where some could not be (each is a row with its reason), 2 for bad
    arguments.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from detect.config import parse
    from detect.score.run import score as run
    from detect.score.settings import ScoreSettings

    given: dict[str, object] = {
        "pipeline": _pipeline(pipeline, detector, classifier, error_rate),
        "engine": engine,
        "precision": precision,
        "device": device,
        "batch": batch,
        "workers": workers,
        "min_score": min_score,
        "thresholds": thresholds(threshold or []),
        "scale": scale,
        "mpp": mpp,
        "cell_diameter_px": cell_diameter_px,
    }
    settings = parse(ScoreSettings, given, "options")
    with Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    ) as bar:
        task = bar.add_task("fields", total=None, rate="")

        def advance(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} fields/s" if speed else "")

        outcome = run(
            folder,
            out,
            settings,
            overwrite=overwrite,
            start=lambda n: bar.update(task, total=n),
            progress=advance,
        )
    _print(outcome)
    if outcome.fields_failed:
        raise typer.Exit(3)


def _pipeline(name: str, detector: str | None, classifiers: list[str] | None, error: float | None) -> dict[str, object]:
    """The pipeline of that name with what the options change."""
    from detect.pipeline.settings import load_pipeline

    told: dict[str, object] = load_pipeline(name).model_dump()
    if detector is not None:
        told["detector"] = detector
    if classifiers is not None:
        told["nodes"] = [] if classifiers == ["none"] else [{"bundle": c} for c in classifiers]
    if error is not None:
        told["error_rate"] = error
    return told


def thresholds(given: list[str]) -> dict[str, str]:
    """CLASS=VALUE, several times, by class."""
    from detect.errors import ConfigError

    out = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--threshold {text}: expected CLASS=VALUE", remedy="such as --threshold WBC=0.5")
        if name.strip() in out:
            raise ConfigError(f"--threshold {name.strip()} is given twice", remedy="give one for each class")
        out[name.strip()] = value.strip()
    return out


def _print(outcome: Outcome) -> None:
    from rich.table import Table

    from detect.score.run import STATEMENT

    for slide in outcome.slides[:20]:
        failed = f", {slide.fields_failed} not read" if slide.fields_failed else ""
        heading = f"{slide.name}: {slide.fields_ok} fields{failed}, {slide.white} white cells"
        table = Table(title=heading, title_justify="left", title_style="bold")
        for name in ("cell", "counted", "%", "95 % limits"):
            table.add_column(name, justify="left" if name == "cell" else "right")
        for line in slide.differential:
            share = line.share
            limits = ("-", "-")
            if share is not None and slide.white:
                limits = (f"{100 * share.value:.1f}", f"{100 * share.low:.1f} - {100 * share.high:.1f}")
            table.add_row(line.name, str(line.count), *limits)
        for line in slide.beside:
            table.add_row(line.name, str(line.count), "", "", style="dim")
        console.print(table)
        if slide.scale_unsure:
            console.print("the size of its cells was not clear; see --mpp and --cell-diameter-px", soft_wrap=True)
        for called in outcome.called:
            if called.slide == slide.name:
                about = "FAB type" if called.question == "FAB" else called.question
                console.print(f"{about}: {called.said} ({called.counted} cells, by {called.by})", soft_wrap=True)
    if outcome.synthetic:
        names = ", ".join(outcome.synthetic)
        console.print(f"{names}: learnt from drawn cells only, says nothing of patients", style="bold red")
    for node in outcome.not_asked:
        console.print(f"not asked: {node}", soft_wrap=True)
    if len(outcome.slides) > 20:
        console.print(f"... and {len(outcome.slides) - 20} more slides, see {outcome.out / 'slides.csv'}")
    if outcome.others:
        kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in outcome.others)
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(6))
        console.print(f"{len(outcome.others)} files that are no pictures were left alone: {listed}", soft_wrap=True)
    total = outcome.fields_ok + outcome.fields_failed
    console.print(f"{outcome.fields_ok} of {total} fields read in {outcome.seconds:.1f} s", soft_wrap=True)
    if outcome.fields_failed:
        console.print(f"{outcome.fields_failed} fields not read: the report says why", style="bold")
    console.print(f"{STATEMENT}", style="bold")
    console.print(f"report: {outcome.report.resolve()}", soft_wrap=True)
