"""A snapshot to an annotator's own dataset in FiftyOne."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from detect import assets
from detect.data.load import with_groups
from detect.data.sources import Parts, fields_of, images_in, read, sniff
from detect.errors import FormatError, SmearError
from detect.formats.labels import load_json
from detect.formats.tally import Tally
from detect.review import documents
from detect.review.database import ReviewError, fiftyone, reached
from detect.review.snapshot import Entry, Snapshot, check_name, open_snapshot, take
from detect.types import Annotations, ClassMap, Dataset, LabelledField

INFO = "smear"  # key of `dataset.info` that says whose dataset it is, and of what
UNLABELLED = ("WBC", "RBC", "Platelet")  # classes that pictures without labels begin with
_SCHEMA = assets.ROOT / "annotations" / "fiftyone-label-schema.json"
Progress = Callable[[int, int], None]


def read_source(source: str, tally: Tally, images: Path | None) -> Parts:
    """A labelled set, or a folder of pictures without labels, to be drawn from nothing."""
    folder = Path(source)
    try:
        if folder.is_dir() and sniff(folder) == "folders":
            raise FormatError("pictures in folders, without boxes", where=source)  # slides, more likely than types
        return read(source, tally, images=images)
    except SmearError:
        if not folder.is_dir() or not (pictures := images_in(folder)):
            raise
        if any(p.suffix.lower() in {".json", ".xml", ".txt", ".csv", ".geojson"} for p in folder.rglob("*")):
            raise  # there are labels, and the reader said what is wrong with them
    nothing = Annotations.of([], [])
    fields = tuple(LabelledField(f, nothing) for f in fields_of(pictures, folder, tally))
    return {"all": Dataset(folder.name, folder, ClassMap(UNLABELLED), fields, frozenset())}


def name_of(snapshot: str, annotator: str) -> str:
    """The name of an annotator's dataset."""
    return f"{snapshot}-{check_name(annotator, 'not a name for an annotator:')}"


def create(snapshot: Snapshot, annotator: str, progress: Progress | None = None) -> Any:
    """The annotator's dataset, made now or as it was left: what was edited in it stays.

    It is built under another name and renamed at the end, so that one half made is never opened.
    """
    fo = fiftyone()
    name = name_of(snapshot.name, annotator)
    with reached():
        if fo.dataset_exists(name):
            dataset = fo.load_dataset(name)
            _check(dataset, snapshot)
            if dataset.info[INFO]["annotator"] != annotator:
                raise ReviewError(
                    f"'{name}' is the copy of {dataset.info[INFO]['annotator']}", remedy="take another name"
                )
            return dataset
        partial = f"{name}.partial"
        if fo.dataset_exists(partial):
            fo.delete_dataset(partial)
        dataset = fo.Dataset(partial)
        documents.declare(dataset, snapshot.attributes)
        dataset.media_type = "image"
        dataset.info[INFO] = {
            "snapshot": snapshot.name,
            "hash": snapshot.hash,
            "annotator": annotator,
            "opened": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        dataset.default_classes = list(snapshot.classes)
        _label_schema(dataset, snapshot)
        dataset.save()
        documents.insert(dataset, _samples(dataset, snapshot, progress))
        for index in ("field", "part", "slide"):
            dataset.create_index(index)
        dataset.persistent = True
        dataset.name = name
    return dataset


def _samples(dataset: Any, snapshot: Snapshot, progress: Progress | None) -> Iterator[Any]:
    names = {part: snapshot.names(part) for part in snapshot.about["parts"]}
    total = int(snapshot.about["counts"]["fields"])
    for entry in snapshot.entries():
        yield documents.sample(dataset, entry, truth_cells(entry, names[entry.part], snapshot.attributes))
        if progress is not None:
            progress(1, total)


def truth_cells(entry: Entry, names: dict[int, str], attributes: Mapping[str, type]) -> list[Any]:
    """The drawn cells of a field as documents, as they were when the snapshot was taken."""
    width, height = int(entry.image["width"]), int(entry.image["height"])
    return [documents.truth_cell(c, names[c["category_id"]], width, height, attributes) for c in entry.cells]


def _label_schema(dataset: Any, snapshot: Snapshot) -> None:
    """What the App offers when a cell is drawn: the classes of the set first, then the rest of the taxonomy."""
    schema = load_json(_SCHEMA, "install again")[documents.TRUTH]
    schema["attributes"] = [a for a in schema["attributes"] if a["name"] in snapshot.attributes]
    schema["classes"] = list(dict.fromkeys([*snapshot.classes, *schema["classes"]]))
    dataset.update_label_schema(documents.TRUTH, schema, allow_new_attrs=True)
    dataset.active_label_schemas = [documents.TRUTH]  # or the App would not let anyone draw


def _check(dataset: Any, snapshot: Snapshot) -> None:
    told = dataset.info.get(INFO, {})
    name = name_of(snapshot.name, str(told.get("annotator")))
    if told.get("hash") != snapshot.hash or told.get("snapshot") != snapshot.name or name != dataset.name:
        raise ReviewError(
            f"the dataset '{dataset.name}' was not made from the snapshot '{snapshot.name}'",
            remedy="open it under another --name or --annotator",
        )


def shown_attributes(dataset: Any) -> dict[str, type]:
    """What the App offers to say of a cell, and its type: an annotator may have added to it."""
    kinds: dict[str, type] = {"bool": bool, "str": str, "float": float, "int": float}
    schema = dict(dataset.label_schemas or {}).get(documents.TRUTH) or {}
    return {a["name"]: kinds[a["type"]] for a in schema.get("attributes", ()) if a.get("type") in kinds}


def open_dataset(name: str) -> tuple[Any, Snapshot, str]:
    """An annotator's dataset by name, the snapshot it was made from, and the annotator."""
    fo = fiftyone()
    with reached():
        ours = reviews()
        if name not in ours:
            raise ReviewError(
                f"no review '{name}'", remedy=f"there are: {', '.join(ours) or 'none'}; see 'smear review list'"
            )
        dataset = fo.load_dataset(name)
        told = dataset.info[INFO]
    snapshot = open_snapshot(told["snapshot"])
    _check(dataset, snapshot)
    return dataset, snapshot, str(told["annotator"])


def reviews() -> list[str]:
    """The names of all annotators' datasets."""
    fo = fiftyone()
    with reached():
        names = [n for n in fo.list_datasets() if not n.endswith(".partial")]
        return [n for n in names if INFO in fo.load_dataset(n).info]


def snapshot_of(
    source: str, tally: Tally, *, name: str | None = None, images: Path | None = None, copies: bool = False
) -> Snapshot:
    """The snapshot of a source, named after it unless told otherwise.

    Args:
        copies: look for near duplicates, and make them groups, where the source tells of no groups.
    """
    parts = read_source(source, tally, images)
    place = Path(source)
    # A card names its set; the file of some labels is called `annotations.json` too often to name anything.
    of_source = place.resolve().name if place.is_dir() else next(iter(parts.values())).name
    chosen = name or of_source
    if copies:
        parts = _grouped(parts)
    return take(chosen.replace(" ", "-").replace("/", "-"), parts, source, tally)


def _grouped(parts: Parts) -> Parts:
    from detect.data.copies import groups

    fields = [f.field for dataset in parts.values() for f in dataset.fields]
    numbers = groups([f.path for f in fields])
    of = {f.id: fields[n].id for f, n in zip(fields, numbers, strict=True)}
    return {part: with_groups(dataset, of) for part, dataset in parts.items()}
