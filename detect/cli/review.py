"""`smear review`: curate labels in FiftyOne, and bring every edit back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.output import fields_bar, print_table, print_tally
from detect.cli.output import out as console

if TYPE_CHECKING:
    from detect.review.predictions import Predictions

app = typer.Typer(no_args_is_help=True, help="Curate labels in FiftyOne: open, edit in the App, pull.")

Name = Annotated[str, typer.Argument(help="The review, as 'open' named it: SNAPSHOT-ANNOTATOR. See 'list'.")]
Port = Annotated[int, typer.Option("--port", help="Port of the App.")]
Address = Annotated[str, typer.Option("--address", help="Where the App listens; 0.0.0.0 for other machines.")]
App = Annotated[bool, typer.Option("--app/--no-app", help="Start the App and wait until it is stopped.")]


@app.command("open")
def open_(
    data: Annotated[str, typer.Argument(help="Dataset card, or anything labelled that 'convert' reads, or pictures.")],
    annotator: Annotated[str, typer.Option("--annotator", help="Whose copy this is; goes into the change log.")],
    predictions: Annotated[
        str | None, typer.Option("--predictions", help="Folder of 'smear score' or 'evaluate', or a detector bundle.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option("--classifier", help="With a detector bundle: types the white cells it finds.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the snapshot; that of the set by default.")] = None,
    prelabel: Annotated[
        bool, typer.Option("--prelabel", help="Predictions become labels to correct, machine-made until confirmed.")
    ] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="Look for near duplicates: about 20 ms a picture on 2 cores.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, where it is elsewhere.")
    ] = None,
    start_app: App = True,
    port: Port = 5151,
    address: Address = "127.0.0.1",
) -> None:
    """Open a set for review: a snapshot of its labels, an annotator's own copy, views of what matters first."""
    from detect.errors import ConfigError
    from detect.formats.tally import Tally
    from detect.review import judge, views
    from detect.review.database import fiftyone
    from detect.review.open import create, snapshot_of
    from detect.review.prelabel import prelabel as add

    if prelabel and predictions is None:
        raise ConfigError("--prelabel has nothing to label with", remedy="name a bundle or a run with --predictions")
    fiftyone()  # nothing is written where it is missing
    tally = Tally()
    snapshot = snapshot_of(data, tally, name=name, images=images, copies=copies)
    print_tally(tally)
    with fields_bar() as progress:
        dataset = create(snapshot, annotator, progress)
    outcome = None
    if predictions is not None:
        found = _predictions(predictions, snapshot.classes, classifier)
        if prelabel:
            with fields_bar() as progress:
                made = add(dataset, found, snapshot.attributes, progress)
            console.print(f"{made} machine-made cells added: tag those that are right 'confirmed'")
        with fields_bar() as progress:
            outcome = judge.judge_all(dataset, snapshot, found, progress=progress)
    names = views.furnish(dataset, snapshot, outcome)
    counts = snapshot.about["counts"]
    console.print(f"review {dataset.name}: {counts['fields']} fields, {counts['cells']} cells")
    print_table(
        "saved views", ("view", "what it shows"), ((n, dataset.get_saved_view_info(n)["description"]) for n in names)
    )
    console.print(f"next: smear review pull {dataset.name} --out FOLDER")
    if start_app:
        _serve(dataset.name, address, port)


def _predictions(given: str, classes: tuple[str, ...], classifier: str | None) -> Predictions:
    from detect.review.predictions import open_predictions

    return open_predictions(given, classes, classifier)


@app.command("app")
def app_(name: Name, port: Port = 5151, address: Address = "127.0.0.1") -> None:
    """Start the App on a review, as it was left."""
    from detect.review.open import open_dataset

    dataset, *_ = open_dataset(name)
    _serve(dataset.name, address, port)


def _serve(name: str, address: str, port: int) -> None:
    from detect.review.serve import serve

    with serve(name, address, port) as (url, wait):
        console.print(f"the App: {url}  (stop it with Ctrl-C)", soft_wrap=True)
        wait()


@app.command()
def pull(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="Folder to write: COCO, YOLO, a card, the change log.")],
) -> None:
    """Write what was edited into COCO and YOLO again, with a change log. Exit 3 where an edit cannot be kept."""
    from detect.review.pull import pull as run

    with fields_bar() as progress:
        pulled = run(name, out, progress)
    print_table("changes", ("what", "cells"), pulled.changes.items())
    for problem in pulled.problems[:20]:
        console.print(f"not kept: {problem}", soft_wrap=True)
    if pulled.unconfirmed:
        console.print(f"{pulled.unconfirmed} machine-made cells are not confirmed, and not exported")
    console.print(f"{pulled.fields} fields, {pulled.cells} cells written to {pulled.out}")
    if pulled.unknown:
        console.print(
            f"no dataset card: {', '.join(pulled.unknown)}: no label of annotations/taxonomy.yaml. Rename these cells, "
            "or write a card whose class_map says what they are (see datasets/README.md)"
        )
    if pulled.problems:
        console.print(
            f"{len(pulled.problems)} edits cannot be kept: see {pulled.out}/problems.jsonl; the review has them"
        )
        raise typer.Exit(3)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="Folder of 'smear review pull', or a snapshot by name.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for differences, conflicts and agreement.")] = None,
    most: Annotated[int, typer.Option("--most", min=0, help="Rows to print of each table.")] = 20,
) -> None:
    """What differs between two versions, where two annotators contradict each other, how far they agree.

    Exit 1 where there are conflicts.
    """
    from collections import Counter

    from detect.review import changes

    one, two = changes.open_version(a), changes.open_version(b)
    if one.snapshot != two.snapshot:
        console.print("made from different snapshots: whether they contradict each other is not known")
    found = changes.differences(one, two)
    clashes = changes.conflicts(one, two) if one.snapshot == two.snapshot else []
    agreed = changes.agreement(one, two)
    kinds = Counter(", ".join(d.what) for d in found)
    print_table(f"{one.name} against {two.name}", ("what differs", "cells"), kinds.most_common())
    rows = ((d.field, d.cell, ", ".join(d.what), _short(d.a), _short(d.b)) for d in found[:most])
    print_table("differences", ("field", "cell", "what", "a", "b"), rows)
    if clashes:
        both = ((c.field, c.cell, c.what, c.a, c.b) for c in clashes[:most])
        print_table(f"{len(clashes)} conflicts", ("field", "cell", "what", "a", "b"), both)
    heads = ("cells", "in both", "only a", "only b", "kappa", "same label", "mean IoU")
    print_table("agreement", heads, ((g.of, g.cells, g.only_a, g.only_b, g.kappa, g.same, g.iou) for g in agreed))
    if out is not None:
        changes.write(out, found, clashes, agreed)
        console.print(f"written to {out}")
    if clashes:
        raise typer.Exit(1)


def _short(row: dict[str, object] | None) -> str:
    return "-" if row is None else f"{row['label']} {row['bbox']}"


@app.command()
def send(
    name: Name,
    backend: Annotated[str, typer.Option("--to", help="cvat or labelstudio, or another back end of FiftyOne's.")],
    view: Annotated[str | None, typer.Option("--view", help="Only the fields of a saved view.")] = None,
) -> None:
    """Send drawn cells to CVAT or Label Studio under our label configuration, through FiftyOne's back ends."""
    from detect.review.backends import send as run

    key, fields = run(name, backend, view=view)
    console.print(f"{fields} fields sent to {backend} as job {key}")
    console.print(f"next, when they are edited: smear review fetch {name} --job {key}")


@app.command()
def fetch(
    name: Name,
    job: Annotated[str | None, typer.Option("--job", help="As 'send' named it; the last one by default.")] = None,
) -> None:
    """Bring the labels of a sent job back into the review; 'pull' then finds what was edited."""
    from detect.review.backends import fetch as run

    key, cells = run(name, job)
    console.print(f"job {key} fetched: {cells} cells in {name}")
    console.print(f"next: smear review pull {name} --out FOLDER")


@app.command("list")
def list_() -> None:
    """Reviews and snapshots that there are."""
    from detect.review.open import open_dataset, reviews

    rows = []
    for name in reviews():
        dataset, snapshot, annotator = open_dataset(name)
        rows.append((name, snapshot.name, annotator, dataset.count(), dataset.last_modified_at))
    print_table("reviews", ("review", "snapshot", "annotator", "fields", "last change"), rows)
