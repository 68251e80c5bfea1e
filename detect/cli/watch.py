"""`smear watch`: slides scored as the scanner delivers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detect.cli.options import AutoPrecision, RunDevice, Runtime
from detect.cli.output import error
from detect.cli.output import out as console
from detect.cli.stop import asked_to_stop


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that the scanner writes into: one sub-folder a slide.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for one run folder a slide.")],
    pipeline: Annotated[
        str, typer.Option("--pipeline", help="YAML of a pipeline, or the name of a packaged one.")
    ] = "default",
    settle: Annotated[
        float, typer.Option("--settle", help="Seconds without any change after which a slide is complete.")
    ] = 30.0,
    mark: Annotated[
        str | None, typer.Option("--mark", help="Name of a file that says, in a slide's folder, that it is complete.")
    ] = None,
    every: Annotated[float, typer.Option("--every", help="Seconds between looks at the folder.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="End when every slide that is there is scored.")] = False,
    runtime: Runtime = "auto",
    precision: AutoPrecision = "auto",
    device: RunDevice = "cpu",
    workers: Annotated[
        int, typer.Option("--workers", help="Processes side by side; 0 takes one per core, or per GPU.")
    ] = 0,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="CSV with a row a slide, as for smear score.")
    ] = None,
    stop_at: Annotated[
        int | None,
        typer.Option("--stop-at", help="White cells found in a slide after which its other fields are left out."),
    ] = None,
) -> None:
    """Score each slide of a folder once, when it is complete; Ctrl-C or SIGTERM finish the parts in hand.

    Started again, it goes on where it was. `smear runs merge` makes one run of the slides' runs. Exit code 0, or 3
    where a slide could not be scored, or fields of one came after it was.
    """
    from detect.config import parse
    from detect.score import manifest as manifests
    from detect.score.settings import ScoreSettings
    from detect.score.watch import Delivery
    from detect.score.watch import watch as follow

    given = {"runtime": runtime, "precision": precision, "device": device, "workers": workers, "stop_at": stop_at}
    settings = parse(ScoreSettings, given | {"pipeline": _pipeline(pipeline)}, "options")

    def known() -> manifests.Manifest:
        return manifests.NONE if manifest is None else manifests.read(manifest)

    known()  # what is wrong with it is told at once
    wrong = 0
    with asked_to_stop() as stop:
        delivery = Delivery(settle, mark)
        for one in follow(folder, out, settings, delivery=delivery, known=known, every=every, once=once, stop=stop):
            if one.outcome is None:
                wrong += 1
                error(f"{one.slide}: {one.wrong}")
                continue
            came = one.outcome
            white = sum(slide.white for slide in came.slides)
            failed = f", {came.fields_failed} not read" if came.fields_failed else ""
            said = f"{one.slide}: {came.fields_ok} fields{failed}, {white} white cells, {came.seconds:.1f} s"
            console.print(said, soft_wrap=True)
    if wrong:
        raise typer.Exit(3)


def _pipeline(name: str) -> dict[str, object]:
    from detect.pipeline.settings import load_pipeline

    return load_pipeline(name).model_dump()
