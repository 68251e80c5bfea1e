"""`smear data`: splits and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detect.cli.output import out as console
from detect.cli.output import print_table, print_tally

app = typer.Typer(no_args_is_help=True, help="Work with labelled data.")


@app.command()
def split(
    card: Annotated[str, typer.Argument(help="Dataset card: a path, or the name of a packaged one.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write, such as configs/splits/txl-pbc-release.csv.")],
    dev: Annotated[float, typer.Option("--dev", min=0.01, max=0.5, help="Fraction of train for choosing.")] = 0.15,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 1,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the images.")] = None,
) -> None:
    """Make the published parts of a set honest: near copies grouped, copies of held-out fields left out of train."""
    from detect.data.cards import load_card, load_dataset
    from detect.data.splits import release_split
    from detect.formats.tally import Tally

    tally = Tally()
    made = release_split(out.stem, load_dataset(load_card(card), tally, root), dev, seed)
    made.write(out)
    print_tally(tally)
    print_table(f"{out}", ("part", "fields", "groups"), ((p, f, g) for p, (f, g) in made.counts().items()))
    console.print("every group stands in one part only")


@app.command("split-cells")
def split_cells(
    cards: Annotated[list[str], typer.Argument(help="Dataset cards that give cell types.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write.")],
    dev: Annotated[float, typer.Option("--dev", min=0.01, max=0.5, help="Fraction of groups for choosing.")] = 0.15,
    test: Annotated[float, typer.Option("--test", min=0.01, max=0.5, help="Fraction held out.")] = 0.25,
    min_groups: Annotated[int, typer.Option("--min-groups", min=2, help="Types with fewer are left out.")] = 15,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 1,
) -> None:
    """Split single typed cells by group, stratified by type and source."""
    from detect.data.cards import load_card
    from detect.data.splits import typed_split
    from detect.data.typed import load_typed
    from detect.formats.tally import Tally

    tally = Tally()
    cells = load_typed([load_card(c) for c in cards], tally)
    made, rare = typed_split(out.stem, cells, dev, test, min_groups, seed)
    made.write(out)
    print_tally(tally)
    print_table(f"{out}", ("part", "cells", "groups"), ((p, f, g) for p, (f, g) in made.counts().items()))
    for kind, groups in rare.items():
        console.print(f"left out: {kind}, {groups} groups, fewer than {min_groups}")


@app.command()
def sample(
    out: Annotated[Path, typer.Option("--out", help="Folder to write slides into.")],
    fields: Annotated[int, typer.Option("--fields", min=1, max=99, help="Fields per slide.")] = 12,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the drawing.")] = 1,
) -> None:
    """Draw a small sample of slides: drawings, for a first look, never for figures."""
    from detect.data.sample import write_slides
    from detect.errors import StoreError

    if out.exists() and any(out.iterdir()):
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    files = write_slides(out, fields, seed)
    console.print(f"{len(files)} drawn fields on {len({f.parent for f in files})} slides in {out}")
