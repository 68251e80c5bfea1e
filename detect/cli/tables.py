"""`smear evaluate table`: the comparisons of the literature, a command each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.output import err, print_table
from detect.cli.output import out as console

if TYPE_CHECKING:
    from detect.tables.written import Table

WHAT = ("detectors", "classifiers", "transfer")
_SHOWN = 6  # columns on the terminal; the files hold them all


def table(
    what: Annotated[str, typer.Argument(help="detectors, classifiers, or transfer (to labs that were never seen).")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the table; goes on where it stops.")],
    config: Annotated[
        str | None, typer.Option("--config", help="YAML of the table, or a packaged one; by default that of its name.")
    ] = None,
    row: Annotated[list[str] | None, typer.Option("--row", help="Make this row now; may be repeated.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda:0.")] = "auto",
    keep_stale: Annotated[
        bool, typer.Option("--keep-stale", help="Keep rows whose configuration, data or code has changed since.")
    ] = False,
) -> None:
    """Train and measure what the literature compares, on one split, row by row: Markdown, CSV, JSON and a picture."""
    from detect.errors import ConfigError

    if what not in WHAT:
        raise ConfigError(f"no table '{what}'", remedy=f"one of: {', '.join(WHAT)}")
    with err.status("reading") as status:
        made = _made(what, config or what, out, row or (), device, keep_stale, status.update)
    for one in made:
        heads = ("row", *(c.head for c in one.columns[:_SHOWN]))
        print_table(one.title, heads, ((title, *values[:_SHOWN]) for title, values in one.lines.items()))
    console.print(f"written to {out}")


def _made(
    what: str, config: str, out: Path, rows: Sequence[str], device: str, keep_stale: bool, say: Callable[[str], None]
) -> list[Table]:
    if what == "detectors":
        from detect.tables.detectors import detector_table

        return [detector_table(config, out, only=rows, device=device, keep_stale=keep_stale, say=say)]
    if what == "classifiers":
        from detect.tables.classifiers import classifier_table

        return [classifier_table(config, out, only=rows, device=device, keep_stale=keep_stale, say=say)]
    from detect.tables.labs import lab_table

    return lab_table(config, out, only=rows, device=device, keep_stale=keep_stale, say=say)
