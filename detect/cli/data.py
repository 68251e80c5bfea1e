"""`smear data`: labelled sets, and synthetic ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.output import out as console
from detect.cli.output import print_table, print_tally

if TYPE_CHECKING:
    from detect.data.check import Fault
    from detect.types import Dataset

app = typer.Typer(no_args_is_help=True, help="Work with labelled data.")


@app.command()
def split(
    sources: Annotated[list[str], typer.Argument(help="Dataset card, or anything labelled that 'convert' reads.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write, such as configs/splits/txl-pbc-release.csv.")],
    by: Annotated[str, typer.Option("--by", help="near-copies, patient, slide or field: what is never split.")] = (
        "near-copies"
    ),
    published: Annotated[
        bool, typer.Option("--published", help="Keep the published held-out parts; cut dev from train only.")
    ] = False,
    folds: Annotated[int, typer.Option("--folds", min=0, help="Parts fold0, fold1, ... for cross-validation.")] = 0,
    dev: Annotated[float, typer.Option("--dev", min=0, max=0.9, help="Fraction for choosing settings.")] = 0.15,
    test: Annotated[float, typer.Option("--test", min=0, max=0.9, help="Fraction held out.")] = 0.15,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 1,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="With several sets: one part a set, named for it.")
    ] = False,
    groups: Annotated[
        Path | None, typer.Option("--groups", help="groups.csv of 'smear data audit': what is never split.")
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the images.")] = None,
) -> None:
    """Split fields by group, classes in balance: holdout, k-fold, or the published parts made honest."""
    from detect.data.folds import across_sets, holdout, kfold, read_groups, units
    from detect.data.sources import merge, read
    from detect.data.splits import release_split
    from detect.errors import ConfigError
    from detect.formats.tally import Tally

    if (len(sources) > 1) != leave_one_out or (root is not None and len(sources) > 1):
        raise ConfigError(
            "several sets go with --leave-one-out, one set without", remedy="see 'smear data split --help'"
        )
    tally = Tally()
    parts = read(sources[0], tally, images=root)
    if leave_one_out:
        sets = [merge(parts), *(merge(read(source, tally)) for source in sources[1:])]
        made = across_sets(out.stem, sets)
    elif published:
        made = release_split(out.stem, parts, dev, seed)
    else:
        everything = merge(parts)
        members = units(everything, read_groups(groups, everything) if groups else by)
        made = kfold(out.stem, members, folds, seed) if folds else holdout(out.stem, members, dev, test, seed)
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
def synthesize(
    out: Annotated[Path, typer.Option("--out", help="Folder to write; new or empty.")],
    slides: Annotated[int, typer.Option("--slides", min=1, max=9999, help="Slides.")] = 4,
    fields: Annotated[int, typer.Option("--fields", min=1, max=9999, help="Fields of each slide.")] = 25,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same bytes.")] = 1,
    ranges: Annotated[str, typer.Option("--ranges", help="train, test (wider: measure on this), or a file.")] = "train",
    size: Annotated[int, typer.Option("--size", min=256, max=8192, help="Pixels a side of a field.")] = 1024,
    px_per_um: Annotated[
        float | None, typer.Option("--px-per-um", min=1, max=40, help="Magnification; of the ranges by default.")
    ] = None,
    disease: Annotated[str | None, typer.Option("--disease", help="The same for all slides, such as ALL-L1.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one a core by default.")] = None,
    name: Annotated[str, typer.Option("--name", help="Of the set.")] = "synthetic",
) -> None:
    """Draw slides of which every cell is known: box, mask, type, attributes, disease. Nothing on them ever lived."""
    from collections import Counter

    from detect.cli.output import fields_bar
    from detect.data.smear.settings import load_smear
    from detect.data.smear.write import Asked
    from detect.data.smear.write import synthesize as run
    from detect.runtime.base import cores

    settings = load_smear(ranges)
    if px_per_um is not None:
        settings = settings.at(px_per_um)
    if disease is not None:
        settings = settings.only(disease)
    asked = Asked(out, slides, fields, seed, size, size, workers or min(cores(), slides * fields), name)
    with fields_bar() as progress:
        dataset = run(settings, asked, progress)
    counts = Counter(dataset.classes.names[i] for f in dataset.fields for i in f.annotations.labels)
    print_table("cells", ("label", "drawn"), ((n, counts[n]) for n in dataset.classes.names if counts[n]))
    console.print(f"{len(dataset)} fields on {slides} slides in {out}: pictures in {out}/images")


Source = Annotated[str, typer.Argument(help="Dataset card, data.yaml, COCO or CSV file, or a labelled folder.")]
Format = Annotated[
    str | None, typer.Option("--format", help="coco, yolo, voc, csv, geojson, masks or folders; seen by default.")
]
Images = Annotated[Path | None, typer.Option("--images", help="Folder that image names start from.")]


@app.command()
def convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    to: Annotated[str, typer.Option("--to", help="coco, yolo, voc, csv, geojson, masks or folders.")],
    format: Format = None,  # noqa: A002
    images: Images = None,
    place: Annotated[str, typer.Option("--place", help="link, copy or none: what becomes of the pictures.")] = "link",
    taxonomy: Annotated[bool, typer.Option("--taxonomy", help="Rename labels to those of the taxonomy.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first label that would be dropped.")] = False,
) -> None:
    """Labels of one format to another; says what was dropped, repaired, and what the new format cannot hold."""
    from detect.data.convert import convert as write
    from detect.data.convert import to_taxonomy
    from detect.data.sources import read
    from detect.errors import ConfigError
    from detect.formats.tally import Tally

    if place not in ("link", "copy", "none"):
        raise ConfigError(f"--place {place}: no such choice", remedy="link, copy or none")
    tally = Tally(strict=strict)
    parts = read(source, tally, format=format, images=images)
    if taxonomy:
        parts, names = to_taxonomy(parts)
        for published, name in names.items():
            console.print(f"{published} -> {name or 'kept: the taxonomy does not know it'}")
    lost = write(parts, out, to, place)  # type: ignore[arg-type]
    print_tally(tally)
    fields, cells = (
        sum(len(d) for d in parts.values()),
        sum(len(f.annotations) for d in parts.values() for f in d.fields),
    )
    console.print(f"{fields} fields, {cells} cells in {len(parts)} parts written to {out} as {to}")
    for what in lost:
        console.print(f"{to} cannot hold: {what}", style="bold")


@app.command()
def stats(source: Source, format: Format = None, images: Images = None) -> None:  # noqa: A002
    """Fields, cells per class, and how large they are."""
    from detect.data.check import statistics
    from detect.data.sources import read
    from detect.formats.tally import Tally

    tally = Tally()
    found = statistics(read(source, tally, format=format, images=images))
    print_tally(tally)
    for part, s in found.items():
        low, middle, high = s["cells_per_field"]
        heading = f"{part}: {s['fields']} fields, {s['cells']} cells, {low} to {high} a field (median {middle:.0f})"
        rows = ((name, c["cells"], c["fields"], *(c["side_px"] or ("-", "-", "-"))) for name, c in s["classes"].items())
        print_table(heading, ("class", "cells", "fields", "side 5 %, px", "median", "95 %"), rows)
        console.print("field sizes: " + ", ".join(f"{size} ({n})" for size, n in s["field_sizes"].items()))


@app.command()
def check(
    source: Source,
    format: Format = None,  # noqa: A002
    images: Images = None,
    detector: Annotated[
        str, typer.Option("--detector", help="Bundle that looks for cells without a box; 'none' for none.")
    ] = "cells-yolov8n",
    most: Annotated[int, typer.Option("--most", min=1, help="Lines shown of each kind.")] = 5,
) -> None:
    """Find label faults. Exit code 1 if there are errors, 0 if there are warnings only."""
    from collections import Counter

    from detect.data.check import check as find
    from detect.data.check import readable
    from detect.data.sources import read
    from detect.formats.tally import Tally

    tally = Tally()
    parts = read(source, tally, format=format, images=images)
    faults = find(parts, tally)
    parts, unreadable = readable(parts)
    faults += unreadable
    if detector != "none":
        faults += _unboxed(parts, detector)
    shown: Counter[str] = Counter()
    for fault in sorted(faults, key=lambda f: (f.severity, f.kind)):
        shown[fault.kind] += 1
        if shown[fault.kind] <= most:
            console.print(str(fault), soft_wrap=True)
    counts = Counter((f.severity, f.kind) for f in faults)
    print_table(f"{source}", ("kind", "severity", "found"), ((k, s, n) for (s, k), n in sorted(counts.items())))
    if any(f.severity == "error" for f in faults):
        raise typer.Exit(1)


@app.command()
def audit(
    sources: Annotated[list[str], typer.Argument(help="One or several sets, as for 'convert'.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for index.html, audit.json and groups.csv; new or empty.")],
    max_difference: Annotated[
        int, typer.Option("--max-difference", min=0, max=128, help="Most signs of 256 that differ between copies.")
    ] = 60,
    parts: Annotated[
        bool, typer.Option("--parts/--whole", help="Also pictures that agree in part or are turned by any angle.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the search.")] = 1,
) -> None:
    """Copies within and across splits and sets, independent samples, balance, sizes, quality, colour."""
    from rich.progress import Progress

    from detect.cli.output import err
    from detect.data import audit as auditing
    from detect.data import copies
    from detect.data.audit_report import items_of, write
    from detect.data.sources import read
    from detect.formats.tally import Tally

    tally = Tally()
    sets = {Path(source).stem: read(source, tally) for source in sources}
    items = [item for name, published in sets.items() for item in items_of(name, published)]
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("pictures", total=len(items))
        seen = auditing.look(items, parts=parts, progress=lambda n: bar.advance(task, n))
        bar.add_task("copies", total=None)
        found = copies.find(seen.traces, max_difference, seed)
    about = write(sets, seen, found, out, max_difference, by_parts=parts)
    print_tally(tally)
    rows = ((place, n["pictures"], n["independent"]) for place, n in about["independent"].items())
    print_table("independent pictures", ("set and part", "pictures", "independent"), rows)
    print_table(
        "copies", ("between", "pairs of one group"), ((" and ".join(r["between"]), r["pairs"]) for r in about["pairs"])
    )
    console.print(f"page: {(out / 'index.html').resolve()}", soft_wrap=True)


def _unboxed(parts: dict[str, Dataset], detector: str) -> list[Fault]:
    from functools import partial

    from rich.progress import Progress

    from detect.bundles.folder import open_bundle
    from detect.cli.output import err
    from detect.data.check import without_a_box
    from detect.detectors.measure import predict_all
    from detect.detectors.opened import open_detector
    from detect.errors import DataError
    from detect.evaluate.align import align

    runner = open_detector(open_bundle(detector, "detector"))
    faults: list[Fault] = []
    with Progress(console=err, transient=True) as bar:
        for part, dataset in parts.items():
            try:
                known = align(dataset, runner.classes)
            except DataError as error:
                err.print(f"{part}: no look for cells without a box: {error.problem}", style="dim", soft_wrap=True)
                continue
            task = bar.add_task(part, total=len(known))
            found = predict_all(runner, known, measured=True, progress=partial(bar.advance, task))
            faults += without_a_box(known, found)
    return faults


@app.command()
def prepare(
    card: Annotated[str, typer.Argument(help="Dataset card: a path, or the name of a packaged one.")],
    source: Annotated[Path, typer.Option("--from", help="Folder that the set was unpacked into.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; new or empty.")],
) -> None:
    """Turn a download of a public set into COCO with groups, as its card says."""
    from detect.data.cards import load_card
    from detect.data.prepare import prepare as run
    from detect.formats.tally import Tally

    tally = Tally()
    found = load_card(card)
    counts = run(found, source, out, tally)
    print_tally(tally)
    print_table(found.title, ("part", "fields"), counts.items())
    console.print(f"patients: {found.grouping.patient}; licence: {found.licence}", soft_wrap=True)
    console.print(f"written to {out}")


@app.command()
def cards() -> None:
    """List the packaged dataset cards."""
    from detect import assets
    from detect.data.cards import load_card

    found = [load_card(p) for p in sorted((assets.ROOT / "datasets").glob("*.yaml"))]
    print_table(
        "dataset cards",
        ("card", "classes", "grouping", "licence", "reading checked on"),
        (
            (c.name, len(c.classes), c.grouping.key, c.licence[:40], "-" if c.unavailable else c.checked_on)
            for c in found
        ),
    )


@app.command()
def preview(
    config: Annotated[str, typer.Argument(help="Set of configs/transforms, or a training's configuration.")],
    image: Annotated[Path, typer.Argument(help="A field.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("sheet.png"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 1,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="YOLO label file of the field; looked for beside it by default.")
    ] = None,
) -> None:
    """Draw what each preprocessing step and augmentation of a configuration does to a field."""
    import cv2

    from detect.data import preview as sheets
    from detect.data.augment import load_set
    from detect.errors import StoreError

    chosen, where = load_set(config)
    drawn = sheets.sheet(sheets.read(image, labels), sheets.neighbours(image), chosen, where, seed)
    _, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    try:
        out.write_bytes(data.tobytes())
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", where=str(out), remedy="name another file") from error
    console.print(f"sheet: {out.resolve()}", soft_wrap=True)
