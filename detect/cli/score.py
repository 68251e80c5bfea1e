"""`smear score`: a folder of slides to a run folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.options import AutoPrecision, ImageSize, RunDevice, Runtime, ScaleChoice
from detect.cli.output import err
from detect.cli.output import error as say_error
from detect.cli.output import out as console
from detect.cli.stop import asked_to_stop

if TYPE_CHECKING:
    from detect.score.leader import Outcome


def score(
    folder: Annotated[str, typer.Argument(help="Folder with one sub-folder of images a slide; or its URL, as s3://…")],
    out: Annotated[str, typer.Option("--out", help="Run folder to write; or its URL.")],
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
    image_size: ImageSize = None,
    error_rate: Annotated[
        float | None,
        typer.Option("--error-rate", help="Share of cells whose likely types may lack their own, as 0.1."),
    ] = None,
    runtime: Runtime = "auto",
    precision: AutoPrecision = "auto",
    device: RunDevice = "cpu",
    engine: Annotated[str, typer.Option("--engine", help="local: this machine. ray: a Ray cluster.")] = "local",
    address: Annotated[
        str, typer.Option("--address", help="Of the Ray cluster, as ray://head:10001 or auto; none starts one here.")
    ] = "",
    batch: Annotated[int, typer.Option("--batch", help="Fields per batch.")] = 16,
    workers: Annotated[
        int, typer.Option("--workers", help="Processes side by side; 0 takes one per core, or per GPU.")
    ] = 0,
    time_limit: Annotated[
        float, typer.Option("--time-limit", help="Seconds that a field may take before it is given up.")
    ] = 300.0,
    memory_limit: Annotated[
        int | None, typer.Option("--memory-limit", help="MiB that a worker may hold before its field is given up.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="CSV with a row a slide: slide, patient, specimen, stain, scale (um/px)."),
    ] = None,
    stop_at: Annotated[
        int | None,
        typer.Option("--stop-at", help="White cells found in a slide after which its other fields are left out."),
    ] = None,
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
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Folder for copies of what lies at a URL; else a temporary one."),
    ] = None,
    log: Annotated[str, typer.Option("--log", help="bar, or json: a line of JSON for each thing done.")] = "bar",
    metrics: Annotated[
        Path | None, typer.Option("--metrics", help="File of figures for Prometheus, such as smear.prom.")
    ] = None,
    slide: Annotated[
        list[str] | None,
        typer.Option("--slide", help="Score this slide alone, by the name of its folder; may be repeated."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --out, with its own settings; begin it where there is none."
        ),
    ] = False,
) -> None:
    """Find and type the cells of every field, count a differential per slide, write a report.

    Exit code 0 where every field was read, 3 where some could not be (each is a row with its reason), 2 for bad
    arguments, 4 where the run could not go on, such as on a full disk, 130 where it was stopped: Ctrl-C or SIGTERM
    finish the parts in hand. After either, --resume goes on, and ends in the same bytes as a run that nothing stopped.
    """
    if engine == "local":
        from detect.score import forked

        forked.begin()  # it loads beside what is imported here

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from detect.config import parse
    from detect.errors import ConfigError, SmearError, StoppedRunError
    from detect.score import manifest as manifests
    from detect.score.remote import places
    from detect.score.run import score as run
    from detect.score.settings import ScoreSettings
    from detect.score.store import without_pandas
    from detect.score.telemetry import Metrics

    without_pandas()
    given: dict[str, object] = {
        "pipeline": _pipeline(pipeline, detector, classifier, image_size, error_rate),
        "runtime": runtime,
        "engine": engine,
        "address": address,
        "time_limit": time_limit,
        "memory_limit": memory_limit,
        "stop_at": stop_at,
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
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other", remedy="leave out one of them")
    if log not in ("bar", "json"):
        raise ConfigError(f"--log {log}: no such choice", remedy="one of: bar, json")
    known = manifests.NONE if manifest is None else manifests.read(manifest)
    at = places(folder, out, work)
    figures = None if metrics is None else Metrics(metrics, str(out))

    def watch(line: Mapping[str, object]) -> None:
        if log == "json":
            typer.echo(json.dumps(line, ensure_ascii=False), err=True)
        elif line["event"] == "refused":
            say_error(f"a worker could not begin, the others go on: {line['reason']}")
        if figures is not None:
            figures.line(line)

    with (
        at,
        asked_to_stop() as stop,
        Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=log == "json",
        ) as bar,
    ):
        task = bar.add_task("fields", total=None, rate="")

        def advance(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} fields/s" if speed else "")

        try:
            outcome = run(
                at.folder,
                at.out,
                settings,
                links=at.links,
                known=known,
                only=slide or (),
                overwrite=overwrite,
                resume=resume,
                start=lambda n, before: bar.update(task, total=n, completed=before),
                progress=advance,
                watch=watch,
                stop=stop,
            )
        except StoppedRunError as error:
            error_line = str(error)
            code = 130 if error.asked else 4
        except SmearError:
            if not (at.out / "run.yaml").is_file():  # nothing to go on with: no copy of a picture stays
                at.clear()
            raise
        else:
            code = 0
    if code:
        say_error(error_line)
        raise typer.Exit(code)
    _print(outcome, out if at.links.output else "")
    at.clear()
    if outcome.fields_failed:
        raise typer.Exit(3)


def _pipeline(
    name: str, detector: str | None, classifiers: list[str] | None, image_size: int | None, error: float | None
) -> dict[str, object]:
    """The pipeline of that name with what the options change."""
    from detect.pipeline.settings import load_pipeline

    told: dict[str, object] = load_pipeline(name).model_dump()
    if detector is not None:
        told["detector"] = _placed(detector)
    if classifiers is not None:
        told["nodes"] = [] if classifiers == ["none"] else [{"bundle": _placed(c)} for c in classifiers]
    if image_size is not None:
        told["image_size"] = image_size
    if error is not None:
        told["error_rate"] = error
    return told


def _placed(bundle: str) -> str:
    """A bundle by a name that means the same wherever a worker runs."""
    return str(Path(bundle).resolve()) if bundle.startswith(".") or "/" in bundle else bundle


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


def _print(outcome: Outcome, url: str = "") -> None:
    """The differentials, and where the report lies: at a URL, where there is one."""
    from rich.table import Table

    from detect.score.record import STATEMENT

    for slide in outcome.slides[:20]:
        failed = f", {slide.fields_failed} not read" if slide.fields_failed else ""
        failed += f", {slide.fields_skipped} left out" if slide.fields_skipped else ""
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
                about = "FAB type" if called.question == "FAB" else "pattern of the slide"
                console.print(f"{about}: {called.said} ({called.counted} cells, by {called.by})", soft_wrap=True)
    if outcome.synthetic:
        names = ", ".join(outcome.synthetic)
        console.print(f"{names}: learnt from drawn cells only, says nothing of patients", style="bold red")
    for node in outcome.not_asked:
        console.print(f"not asked: {node}", soft_wrap=True)
    if outcome.unknown:
        few = ", ".join(outcome.unknown[:5]) + (" ..." if len(outcome.unknown) > 5 else "")
        console.print(f"rows of the manifest that name no slide here: {few}", style="bold")
    if len(outcome.slides) > 20:
        place = f"{url.rstrip('/')}/slides.csv" if url else str(outcome.out / "slides.csv")
        console.print(f"... and {len(outcome.slides) - 20} more slides, see {place}")
    if outcome.others:
        kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in outcome.others)
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(6))
        console.print(f"{len(outcome.others)} files that are no pictures were left alone: {listed}", soft_wrap=True)
    total = outcome.fields["found"]
    by = f"{outcome.engine.name} {outcome.engine.precision}"
    console.print(f"{outcome.fields_ok} of {total} fields read in {outcome.seconds:.1f} s, by {by}", soft_wrap=True)
    if skipped := outcome.fields.get("skipped", 0):
        console.print(f"{skipped} fields left out: the report says why", soft_wrap=True)
    if outcome.fields_failed:
        console.print(f"{outcome.fields_failed} fields not read: the report says why", style="bold")
    console.print(f"{STATEMENT}", style="bold")
    place = f"{url.rstrip('/')}/report/index.html" if url else str(outcome.report.resolve())
    console.print(f"report: {place}", soft_wrap=True)
