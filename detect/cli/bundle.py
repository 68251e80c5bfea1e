"""`smear bundle`: export a run, verify and show a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.output import out as console
from detect.cli.output import print_table

if TYPE_CHECKING:
    from detect.detectors.parity import Parity

app = typer.Typer(no_args_is_help=True, help="Export, verify and show bundles.")

FIELDS = 16  # that engines are compared on

BundleName = Annotated[str, typer.Argument(help="Bundle folder, or the name of a released one.")]


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of 'smear train'.")],
    out: Annotated[Path, typer.Option("--out", help="Bundle folder to write.")],
    name: Annotated[str | None, typer.Option("--name", help="Name on the card; the folder's by default.")] = None,
    title: Annotated[str | None, typer.Option("--title", help="One line on the card.")] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights.")] = "AGPL-3.0-or-later",
    limit: Annotated[list[str] | None, typer.Option("--limit", help="A limit for the card; may be repeated.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the images.")] = None,
    graph_only: Annotated[
        bool, typer.Option("--graph-only", help="Leave a detector's weights out, once its graph answers as they do.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Write bundle.yaml, weights.safetensors and model.onnx; thresholds are chosen on part dev."""
    from detect.bundles.draft import Description
    from detect.config import load_yaml
    from detect.errors import ConfigError, DataError

    if not (run / "run.yaml").is_file():
        raise DataError("not a finished run: no run.yaml", where=str(run), remedy="finish it with --resume")
    chosen = name or out.name
    about = Description(chosen, title or chosen, licence, tuple(limit or ()))
    task = load_yaml(run / "run.yaml").get("task")
    if graph_only and task in ("segmenter", "classifier"):
        raise ConfigError(
            f"--graph-only: this is a {task}", remedy="drop it, and then 'smear bundle pack --graph-only'"
        )
    if task == "segmenter":
        from detect.classify.segmenter_bundle import export as export_segmenter

        parts = export_segmenter(run, out, about, overwrite=overwrite)
        console.print(f"on dev: IoU of cells {parts.figures['cell IoU']}, of nuclei {parts.figures['nucleus IoU']}")
    elif task == "classifier":
        from detect.classify.export import export as export_classifier

        answers = export_classifier(run, out, about, overwrite=overwrite)
        console.print(f"on dev: macro F1 {answers.macro_f1}, answered {answers.answered}")
    else:
        from detect.detectors.export import export as export_detector

        report = export_detector(run, out, about, root=root, graph_only=graph_only, overwrite=overwrite)
        console.print(f"on dev: mAP50 {report.ap.map50}, mAP50-95 {report.ap.map50_95}")
    console.print(f"bundle written to {out}")
    console.print(f"next: smear bundle verify {out}")


@app.command()
def fuse(
    bundles: Annotated[list[str], typer.Argument(help="Detector bundles: folders, or names of released ones.")],
    out: Annotated[Path, typer.Option("--out", help="Bundle folder to write.")],
    data: Annotated[str, typer.Option("--data", help="Dataset card whose part dev chooses the thresholds.")],
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the card's.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the images.")] = None,
    weight: Annotated[
        list[float] | None, typer.Option("--weight", help="One for each bundle; equal by default.")
    ] = None,
    views: Annotated[str, typer.Option("--views", help="none; flips looks at the mirror images too.")] = "none",
    iou: Annotated[float, typer.Option("--iou", min=0.1, max=0.95, help="Overlap that makes two boxes one.")] = 0.6,
    beside: Annotated[
        bool, typer.Option("--beside", help="Bundles that lie beside --out are named, not copied.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="Name on the card; the folder's by default.")] = None,
    title: Annotated[str | None, typer.Option("--title", help="One line on the card.")] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the whole.")] = "AGPL-3.0-or-later",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Make one detector of several by weighted box fusion, or of one that looks at mirror images too."""
    from detect.bundles.draft import Description
    from detect.bundles.folder import open_bundle
    from detect.data.cards import load_card
    from detect.detectors.ensemble import EnsembleSettings, chosen_views
    from detect.detectors.fuse import fuse as run

    chosen = name or out.name
    opened = [open_bundle(b, "detector") for b in bundles]
    names = tuple(bundle.card.name for bundle in opened)
    settings = EnsembleSettings(
        members=names, weights=tuple(weight or ()), views=chosen_views(views), fuse_iou=iou, beside=beside
    )  # fmt: skip
    about = Description(chosen, title or chosen, licence)
    report = run(opened, settings, out, about, load_card(data), split=split_file, root=root, overwrite=overwrite)
    console.print(f"on dev: mAP50 {report.ap.map50}, mAP50-95 {report.ap.map50_95}")
    console.print(f"bundle written to {out}")


@app.command()
def verify(
    bundle: BundleName,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of fields to compare on; drawn fields by default.")
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Fields to compare on.")] = FIELDS,
) -> None:
    """Check hashes, and that each engine and the training framework give the same answers. Exit 1 if not."""
    from detect.bundles.card import GRAPH, MEMBERS, WEIGHTS
    from detect.bundles.folder import beside as cards_beside
    from detect.bundles.folder import open_bundle
    from detect.cli.samples import fields_or_drawn
    from detect.runtime.base import EngineSettings, installed

    opened = open_bundle(bundle)
    console.print(f"{opened.card.name}: hashes match the card")
    members = [(opened.path / name).parent for name in cards_beside(opened.card)]
    for member in members or sorted((opened.path / MEMBERS).glob("*")):
        verify(str(member), images, most)
    if GRAPH not in opened.card.files:
        console.print(f"{opened.card.name} has no graph, so there is nothing to compare between engines")
        return
    fields = fields_or_drawn(images, most)
    if opened.card.task == "detector":
        from detect.detectors.parity import parity
    else:
        from detect.classify.parity import parity
    rows = [parity(opened, fields, EngineSettings(name)) for name in installed()]
    against = "the training framework" if WEIGHTS in opened.card.files else "ONNX Runtime: the bundle has no weights"
    _print_parity(rows, f"against {against}, {len(fields)} fields")
    if not all(r.holds for r in rows):
        raise typer.Exit(1)


def _print_parity(rows: Sequence[Parity], title: str) -> None:
    columns = ("engine", "answers", "in one only", "apart", "box difference, px", "score difference", "parity")
    told = ((r.engine, r.cells, r.unmatched, r.apart, f"{r.box_pixels:.3f}", f"{r.score:.5f}") for r in rows)
    kept = ("holds" if r.holds else "BROKEN" for r in rows)
    print_table(title, columns, ((*row, word) for row, word in zip(told, kept, strict=True)))


@app.command()
def pack(
    bundle: BundleName,
    graph_only: Annotated[
        bool,
        typer.Option("--graph-only", help="Leave the weights out, once every engine was seen to answer as they do."),
    ] = False,
) -> None:
    """Make a bundle smaller: weights in half precision where no bit of them is lost. Its answers stay the same."""
    from detect.bundles.card import WEIGHTS
    from detect.bundles.folder import open_bundle
    from detect.bundles.pack import pack as run

    opened = open_bundle(bundle)
    if graph_only and WEIGHTS in opened.card.files:
        verify(bundle, None, FIELDS)
    saved = run(opened, graph_only=graph_only)
    console.print(f"{opened.card.name}: {saved / 1e6:.1f} MB less" if saved else f"{opened.card.name}: nothing to save")


@app.command()
def precisions(
    bundle: BundleName,
    data: Annotated[str, typer.Option("--data", help="Dataset card; dev measures, train sets the ranges of int8.")],
    split_file: Annotated[str | None, typer.Option("--split-file", help="Another split than the card's.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the images.")] = None,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Make and measure an int8 graph too.")] = True,
    images: Annotated[int, typer.Option("--images", min=1, help="Fields that set the ranges of int8.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Which fields.")] = 1,
) -> None:
    """Measure what bf16 and int8 lose against fp32, and put it on the card: scoring offers what loses little."""
    from detect.bundles.card import MOST_LOST
    from detect.bundles.folder import open_bundle
    from detect.data.cards import load_card
    from detect.detectors.quantize import check_precisions

    opened = open_bundle(bundle, "detector")
    checks = check_precisions(opened, load_card(data), split=split_file, root=root, int8=int8, images=images, seed=seed)
    rows = (
        (c.precision, c.engine, f"{c.map50_95:.4f}", f"{c.loss:+.2f}", "yes" if c.offered else "no") for c in checks
    )
    print_table(
        f"against fp32 on part dev of {data}", ("arithmetic", "engine", "mAP50-95", "points lost", "offered"), rows
    )
    console.print(f"offered: what loses less than {MOST_LOST} points; written to the card")


@app.command()
def show(bundle: BundleName) -> None:
    """Print a bundle's card."""
    from detect.bundles.folder import open_bundle
    from detect.config import dump

    typer.echo(dump(open_bundle(bundle).card), nl=False)
