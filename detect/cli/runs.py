"""`smear runs`: how far a run is, runs made one, cells for other programs, what the tables hold."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from detect.cli.output import out as console

app = typer.Typer(no_args_is_help=True, help="Scoring runs: how far they are, merged, exported.")

Run = Annotated[Path, typer.Argument(help="Run folder.")]


@app.command()
def status(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False,
) -> None:
    """How far a run is, while it runs or after. Exit code 0 if it is finished or running, 1 if it was stopped."""
    from detect.score.status import status as look

    found = look(run)
    if as_json:
        console.print(json.dumps(asdict(found) | {"scored": found.scored}, ensure_ascii=False), soft_wrap=True)
    else:
        console.print(f"{found.state}: {found.scored} of {found.fields} fields are safe", style="bold")
        told = [f"{n} {name}" for name, n in sorted(found.done.items())]
        told += [f"{found.cells} cells", f"{found.white} white"]
        console.print(", ".join(told), soft_wrap=True)
        if found.rate is not None:
            left = "" if found.left is None else f", about {_span(found.left)} left"
            console.print(f"{found.rate:.1f} fields/s{left}")
        for field, why in found.killed.items():
            console.print(f"given up: {field}: {why}", soft_wrap=True)
        if found.state == "stopped":
            console.print("go on with smear score ... --resume")
    if found.state == "stopped":
        raise typer.Exit(1)


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders, of different fields of one folder.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")] = False,
) -> None:
    """Make several runs one: a night's work that was shared out, or the slides that `smear watch` scored."""
    from detect.score.merge import merge as join

    came = join(runs, out, overwrite=overwrite)
    console.print(f"{came.fields['found']} fields, {came.cells} cells, {len(came.slides)} slides", soft_wrap=True)
    console.print(f"report: {(out / 'report' / 'index.html').resolve()}", soft_wrap=True)


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="csv, coco, or geojson (one file a field, for QuPath).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File, or folder of geojson; by default in the run folder.")
    ] = None,
) -> None:
    """Write the cells of a finished run for other programs."""
    from detect.errors import ConfigError
    from detect.score import export as forms
    from detect.score.store import EXPORTS

    write = {"csv": forms.to_csv, "coco": forms.to_coco, "geojson": forms.to_geojson}.get(to)
    if write is None:
        raise ConfigError(f"--to {to}: no such form", remedy=f"one of: {', '.join(EXPORTS)}")
    target = out or run / EXPORTS[to]
    count = write(run, target)
    console.print(f"{count} cells: {target}", soft_wrap=True)


@app.command()
def schema(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """What the tables of a run hold: every column with its type, its unit and what it says."""
    from detect.score.schema import TABLES, about

    told = {
        name: {
            "about": about(table),
            "columns": [{"name": c.name, "type": str(c.type), "about": about(c)} for c in table],
        }
        for name, table in TABLES.items()
    }
    if as_json:
        console.print(json.dumps(told, indent=1), soft_wrap=True, highlight=False, markup=False)
        return
    for name, table in TABLES.items():
        console.print(f"{name}: {about(table)}", style="bold", soft_wrap=True)
        for column in table:
            console.print(f"  {column.name} ({column.type}): {about(column)}", soft_wrap=True, markup=False)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
