"""The command `smear`. Verbs import what they need when they are called, so that `smear --help` is quick."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from detect import __version__
from detect.cli import bundle, data, doctor, evaluate, explain, review, runs, score, tables, train, watch, web
from detect.cli.output import error
from detect.errors import SmearError

app = typer.Typer(
    name="smear",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Find and type the cells of blood smear fields, count the differential. "
    "Morphology, for research use, not a diagnosis.",
)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
evaluate.app.command("table")(tables.table)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(bundle.app, name="bundle")
app.add_typer(review.app, name="review")
app.command("score")(score.score)
app.command("watch")(watch.watch)
app.add_typer(runs.app, name="runs")
app.command("web")(web.web)
app.command("explain")(explain.explain)
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"smear-detect {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """See the verbs below."""


def run() -> None:
    """Entry point: errors that we raise on purpose become one message and exit code 2."""
    try:
        app()
    except SmearError as problem:
        error(str(problem))
        sys.exit(2)
