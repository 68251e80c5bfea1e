"""Any labelled folder or file to records: the format is told or seen, images are found and measured."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detect.config import load_yaml
from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.errors import ConfigError, DataError, FormatError, ImageError
from detect.formats import coco, geojson, masks, table, voc, yolo
from detect.formats.labels import load_json, size_fault, stem_of
from detect.formats.tally import Tally
from detect.images import decode
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField

Parts = dict[str, Dataset]
_ENOUGH_NAMES = 100  # to see which folder a file's names start from


@dataclass(frozen=True)
class Source:
    """Something labelled on disk.

    Attributes:
        path: the file or folder. images: where file names start, None for the usual place of the format.
    """

    path: Path
    images: Path | None
    tally: Tally


def read(path: str | Path, tally: Tally, *, format: str | None = None, images: Path | None = None) -> Parts:  # noqa: A002
    """The parts of a labelled set, under its published class names.

    Args:
        path: a dataset card (by name or path), a COCO or CSV file, a `data.yaml`, or a folder.
        format: a key of `READERS`; None to see it from what is there.
    """
    place = Path(path)
    if format is None and (not place.exists() or _is_card(place)):
        return load_dataset(load_card(path), tally, images)
    if not place.exists():
        raise DataError("no such file or folder", where=str(place), remedy="check the path")
    chosen = format or sniff(place)
    if chosen not in READERS:
        raise ConfigError(f"no format '{chosen}'", remedy=f"the formats are: {', '.join(READERS)}")
    parts = READERS[chosen](Source(place, images, tally))
    if not any(len(d) for d in parts.values()):
        raise DataError(f"no labelled field in it, read as {chosen}", where=str(place), remedy="check --format")
    return parts


def merge(published: dict[str, Dataset]) -> Dataset:
    """All published parts of one set as one, under all their classes in the order of the first that names each.

    Of what else they say of the set, that in which all agree is kept.
    """
    first = next(iter(published.values()))
    classes = ClassMap(tuple(dict.fromkeys(n for d in published.values() for n in d.classes.names)))
    fields: list[LabelledField] = []
    for dataset in published.values():
        number = np.array([classes.index(name) for name in dataset.classes.names], np.int64)
        for labelled in dataset.fields:
            cells = labelled.annotations
            fields.append(replace(labelled, annotations=replace(cells, labels=number[cells.labels])))
    alike = {k: v for k, v in first.extra.items() if all(k in d.extra and d.extra[k] == v for d in published.values())}
    return replace(first, classes=classes, fields=tuple(fields), extra=alike)


def _is_card(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") and "class_map" in load_yaml(path)


def sniff(path: Path) -> str:
    """The format of what lies there; DataError says what was looked for."""
    if path.is_file():
        found = {".json": "coco", ".csv": "csv", ".tsv": "csv", ".yaml": "yolo", ".yml": "yolo"}.get(
            path.suffix.lower()
        )
        if found:
            return found
    elif path.is_dir():
        if (path / "masks").is_dir() and (path / "images").is_dir():
            return "masks"
        if any(path.glob("*.geojson")) or any(path.glob("labels/*.geojson")):
            return "geojson"
        if _data_yaml(path) or any(path.glob("labels/**/*.txt")) or any(path.glob("*.names")):
            return "yolo"
        if any(path.glob("Annotations/*.xml")) or any(path.glob("*.xml")):
            return "voc"
        if _coco_files(path):
            return "coco"
        if any(path.glob("*.csv")):
            return "csv"
        if any(p.suffix.lower() in decode.SUFFIXES for p in path.glob("*/*")):
            return "folders"
    raise DataError(
        "cannot see what format this is",
        where=str(path),
        remedy=f"name it with --format: {', '.join(READERS)}",
    )


def fields_of(paths: Iterable[Path], root: Path, tally: Tally) -> list[Field]:
    """Image files as fields with their sizes; one that cannot be read is tallied. Ids are relative to `root`."""
    fields = []
    for path in paths:
        identity = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        try:
            width, height = decode.size(path)
        except ImageError as error:
            tally.add("image cannot be read", str(path), error.problem, "dropped")
            continue
        fields.append(Field(identity, Path(identity).parent.as_posix(), path, width, height))
    return fields


def images_in(folder: Path) -> list[Path]:
    """Image files below a folder, in order of their paths."""
    if not folder.is_dir():
        raise DataError("no such folder of images", where=str(folder), remedy="name it with --images")
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in decode.SUFFIXES and p.is_file())


def _coco_files(path: Path) -> list[Path]:
    # Beside the images, in annotations/, or one a part as Roboflow writes them.
    places = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    found = sorted(p for place in places for p in path.glob(place) if p.is_file())
    return [p for p in found if _seems_coco(p.read_bytes())]


def _seems_coco(content: bytes) -> bool:
    """Even where it is cut off: such a file is to be refused, not passed over."""
    return b'"images"' in content and (b'"categories"' in content or b'"annotations"' in content)


def _part_of(file: Path) -> str:
    if file.name == "_annotations.coco.json":
        return file.parent.name
    return file.stem.removeprefix("instances_").removesuffix(".coco")


def _coco(source: Source) -> Parts:
    files = [source.path] if source.path.is_file() else _coco_files(source.path)
    parts = {}
    for file in files:
        home = source.images or _coco_images(file)
        dataset = coco.read(file, home, None, source.tally)
        for labelled in dataset.fields:
            _check_image(labelled.field, str(file), source.tally)
        part = _part_of(file) if len(files) > 1 else "all"
        if part in parts:
            what = f"a second file of the part '{part}'"
            raise FormatError(what, where=str(file), remedy="rename one of the two, or give them one by one")
        parts[part] = dataset
    return parts


def _coco_images(file: Path) -> Path:
    """The folder that the file's names start from: of the usual ones, that in which most of them are found.

    The usual ones are the file's own, `images` there or beside `annotations`, and CVAT's `images/<part>`.
    """
    content = load_json(file, "export the file again")
    images = content.get("images") if isinstance(content, dict) else None
    names = [str(i.get("file_name")).replace("\\", "/") for i in images or () if isinstance(i, dict)]
    near, above, part = file.parent, file.parent.parent, _part_of(file)
    homes = [near, near / "images", above / "images", above, above / "images" / part, near / "images" / part]
    return max(homes, key=lambda home: sum(_is_file(home / name) for name in names[:_ENOUGH_NAMES]))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _check_image(field: Field, where: str, tally: Tally) -> None:
    try:
        width, height = decode.size(field.path)
    except ImageError as error:
        tally.add("missing file", where, f"{field.id}: {error.problem}", "noted")
        return
    fault = size_fault(width, height, field)
    if fault is not None:
        what = f"{field.id}: labels for {field.width} x {field.height}, image is {width} x {height}"
        tally.add(fault, where, what, "noted")


def _data_yaml(folder: Path) -> Path | None:
    return next((p for p in sorted(folder.glob("*.y*ml")) if "names" in load_yaml(p)), None)


def _yolo(source: Source) -> Parts:
    path = source.path
    if path.is_dir():
        described = _data_yaml(path)
        if described is None:
            return _bare_yolo(source)
        path = described
    data = yolo.read_data_yaml(path, source.tally)
    names = list(dict.fromkeys(data.names.values()))
    classes = ClassMap(tuple(names))
    parts = {}
    for part, places in data.parts.items():
        paths = [p for place in places for p in (images_in(place) if place.is_dir() else yolo.listed_images(place))]
        fields = fields_of(paths, path.parent, source.tally)
        records = yolo.read(fields, None, data.names, {n: n for n in names}, classes, source.tally)
        parts[part] = Dataset(path.parent.name, path.parent, classes, tuple(records), frozenset(names))
    return parts


_LISTS = ("train.txt", "val.txt", "valid.txt", "test.txt")


def _bare_yolo(source: Source) -> Parts:
    """Label Studio's `images`, `labels` and `classes.txt`; CVAT's `obj.names`, and `train.txt` that lists pictures."""
    found = sorted(
        [*source.path.glob("classes.txt"), *source.path.glob("labels/classes.txt"), *source.path.glob("*.names")]
    )
    if not found:
        raise FormatError("no data.yaml and no classes.txt", where=str(source.path), remedy="add one: a name a line")
    names = {i: word for i, word in enumerate(yolo.lines_of(found[0])) if word}  # a blank line keeps its number
    if not names:
        raise FormatError("no names in it", where=str(found[0]), remedy="write a name a line")
    classes = ClassMap(tuple(dict.fromkeys(names.values())))
    home = source.images or (source.path / "images" if (source.path / "images").is_dir() else source.path)
    lists = {"val" if p.stem == "valid" else p.stem: p for p in map(source.path.joinpath, _LISTS) if p.is_file()}
    pictures = {part: yolo.listed_images(p) for part, p in lists.items()} or {"all": images_in(home)}
    parts = {}
    for part, paths in pictures.items():
        fields = fields_of(paths, source.path, source.tally)
        records = yolo.read(fields, None, names, {n: n for n in classes}, classes, source.tally)
        parts[part] = Dataset(source.path.name, source.path, classes, tuple(records), frozenset(classes.names))
    return parts


def _voc(source: Source) -> Parts:
    labels = source.path / "Annotations" if (source.path / "Annotations").is_dir() else source.path
    homes = [source.path / "JPEGImages", source.path / "images"]
    home = source.images or next((h for h in homes if h.is_dir()), source.path)
    names = voc.labels_in(labels, source.tally)
    fields = fields_of(images_in(home), home, source.tally)
    classes = ClassMap(tuple(names) or ("none",))
    records = voc.read(fields, labels, {n: n for n in names}, classes, source.tally)
    return {"all": Dataset(source.path.name, source.path, classes, tuple(records), frozenset(names))}


def _csv(source: Source) -> Parts:
    files = [source.path] if source.path.is_file() else sorted(source.path.glob("*.csv"))
    parts = {}
    for file in files:
        rows, columns = table.read_rows(file)
        home = source.images or (file.parent / "images" if (file.parent / "images").is_dir() else file.parent)
        names = list(dict.fromkeys(r.values.get(columns["field"], "").replace("\\", "/") for r in rows))
        fields: dict[str, Field] = {}
        for name in names:
            path = home / name
            if not _is_file(path):
                source.tally.add("missing file", str(file), name, "dropped")
                continue
            for field in fields_of([path], home, source.tally):
                fields[name] = field
        labels = table.labels_in(rows, columns)
        classes = ClassMap(tuple(labels) or ("none",))
        records = table.read(file, fields, {n: n for n in labels}, classes, source.tally)
        parts[file.stem if len(files) > 1 else "all"] = Dataset(
            file.stem, home, classes, tuple(records), frozenset(labels)
        )
    return parts


def _geojson(source: Source) -> Parts:
    labels = source.path / "labels" if (source.path / "labels").is_dir() else source.path
    home = source.images or (source.path / "images" if (source.path / "images").is_dir() else source.path)
    names = list(dict.fromkeys(geojson.name_of(f) for p in sorted(labels.glob("*.geojson")) for f in geojson.load(p)))
    fields = fields_of(images_in(home), home, source.tally)
    classes = ClassMap(tuple(names) or ("none",))
    records = geojson.read(labels, fields, {n: n for n in names}, classes, source.tally)
    return {"all": Dataset(source.path.name, home, classes, tuple(records), frozenset(names))}


def _folders(source: Source) -> Parts:
    """One folder a class: each picture is one cell that fills it."""
    if not source.path.is_dir():
        raise DataError("not a folder", where=str(source.path), remedy="give the folder of the class folders")
    kinds = sorted(p for p in source.path.iterdir() if p.is_dir())
    classes = ClassMap(tuple(p.name for p in kinds) or ("none",))
    records = []
    for kind in kinds:
        for field in fields_of(images_in(kind), source.path, source.tally):
            cell = Annotations.of([[0, 0, field.width, field.height]], [classes.index(kind.name)])
            records.append(LabelledField(field, cell))
    source.tally.read["fields"] += len(records)
    source.tally.read["cells"] += len(records)
    return {"all": Dataset(source.path.name, source.path, classes, tuple(records), frozenset())}


def _levels(source: Source) -> dict[tuple[str, int], str]:
    """Mask and grey level to label, from a `masks.csv` beside the masks; empty where there is none."""
    path = source.path / "masks.csv"
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"no CSV text: {error}", where=str(path), remedy="save it as UTF-8, or remove it") from error
    if rows and not {"mask", "level", "label"} <= set(rows[0]):
        what = f"expected the columns mask, level, label, got {list(rows[0])}"
        raise FormatError(what, where=f"{path}:1", remedy="name them so, or remove the file")
    out = {}
    for line, row in enumerate(rows, 2):
        level = row["level"] or ""
        if level.isascii() and level.isdecimal() and len(level) < 6 and row["label"]:
            out[row["mask"], int(level)] = row["label"]
        else:
            source.tally.add("not a number", f"{path}:{line}", f"level '{level[:20]}'", "dropped")
    return out


def _masks(source: Source) -> Parts:
    """`images/` and `masks/` of the same stems; the grey levels of a mask number its cells, `masks.csv` names them."""
    home = source.images or source.path / "images"
    folder = source.path / "masks"
    if not folder.is_dir():
        raise FormatError("no folder 'masks'", where=str(source.path), remedy="put images/ and masks/ into one folder")
    known = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in decode.SUFFIXES}
    named = _levels(source)
    classes = ClassMap(tuple(dict.fromkeys(named.values())) or ("Cell",))
    records = []
    for field in fields_of(images_in(home), home, source.tally):
        path = known.pop(stem_of(field.id), None) or known.pop(field.path.stem, None)
        if path is None:
            source.tally.add("unlabelled image", str(field.path), f"no mask {field.path.stem}", "noted")
            continue
        try:
            pixels = decode.levels(path)
        except ImageError as error:
            source.tally.add("image cannot be read", str(path), error.problem, "dropped")
            continue
        if pixels.shape != (field.height, field.width):
            what = f"mask {pixels.shape[1]} x {pixels.shape[0]}, image {field.width} x {field.height}"
            source.tally.add("wrong size", str(path), what, "dropped")
            continue
        cells = masks.from_instances(pixels, 0)
        if named:
            there = np.array([(path.stem, level) in named for level in cells.ids], bool)
            for level in np.array(cells.ids, int)[~there]:
                source.tally.add("unknown label", str(path), f"level {level} is not in masks.csv", "dropped")
            cells = cells.select(there)
            indices = [classes.index(named[path.stem, level]) for level in cells.ids]
            cells = replace(cells, labels=np.array(indices, np.int64))
        records.append(LabelledField(field, cells))
    for path in known.values():
        source.tally.add("label file without an image", str(path), "no image of that name", "dropped")
    source.tally.read["fields"] += len(records)
    source.tally.read["cells"] += sum(len(r.annotations) for r in records)
    return {"all": Dataset(source.path.name, home, classes, tuple(records), frozenset(classes.names))}


# Format name to its reader of whole sets.
READERS: Mapping[str, Callable[[Source], Parts]] = {
    "coco": _coco,
    "yolo": _yolo,
    "voc": _voc,
    "csv": _csv,
    "geojson": _geojson,
    "masks": _masks,
    "folders": _folders,
}
