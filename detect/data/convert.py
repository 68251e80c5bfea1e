"""Records of a whole set to files of another format, and what that format could not hold."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.data.sources import Parts
from detect.errors import ConfigError, FormatError, StoreError
from detect.formats import coco, geojson, masks, table, voc, yolo
from detect.formats.labels import stem_of
from detect.images import decode
from detect.taxonomy import taxonomy
from detect.types import ClassMap, Dataset

Images = Literal["link", "copy", "none"]
FLAT = ("voc", "geojson", "masks", "folders")  # all labels in one folder, named by the field's id with '/' as '__'


def convert(parts: Parts, out: Path, to: str, images: Images = "link") -> list[str]:
    """Write every part of a set.

    Args:
        out: an empty or new folder.
        to: a key of `WRITERS`.
        images: whether pictures are linked, copied, or left where they are.

    Returns:
        What the format could not hold, in words, with counts.
    """
    if to not in WRITERS:
        raise ConfigError(f"no format '{to}'", remedy=f"the formats are: {', '.join(WRITERS)}")
    if out.exists() and any(out.iterdir()):
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    if to != "coco" or not all("categories" in d.extra for d in parts.values()):  # COCO numbers each part as it came
        names = dict.fromkeys(n for d in parts.values() for n in d.classes.names)
        parts = {part: _under(d, {n: n for n in names}) for part, d in parts.items()}
    if images != "none":
        parts = {part: _inside(d) for part, d in parts.items()}
    if to != "yolo":  # which keeps its parts in folders of their own
        _refuse_collisions(parts, to, out, images)
    out.mkdir(parents=True, exist_ok=True)
    WRITERS[to](parts, out)
    if images != "none" and to not in ("yolo", "folders"):
        for dataset in parts.values():
            _place_images(dataset, out / "images", images, flat=to in FLAT)
    if images == "copy" and to == "yolo":
        for path in (out / "images").rglob("*"):
            if path.is_symlink():
                source = path.resolve()
                path.unlink()
                if source.is_file():
                    shutil.copyfile(source, path)
    return _losses(parts, to, images)


def _inside(dataset: Dataset) -> Dataset:
    """The same fields under ids that stay within a folder: a name such as /data/a.png would lead out of it."""
    fields = []
    for f in dataset.fields:
        path = Path(f.field.id)
        kept = "/".join(p for p in path.parts if p not in (path.anchor, ".."))
        fields.append(replace(f, field=replace(f.field, id=kept)))
    return replace(dataset, fields=tuple(fields))


def _refuse_collisions(parts: Parts, to: str, out: Path, images: Images) -> None:
    """FormatError where two fields would share a label file, or two pictures a name."""
    flat = to in FLAT
    owners: dict[str, tuple[str, str, Path]] = {}
    for part, dataset in parts.items():
        for labelled in dataset.fields:
            field = labelled.field
            mine = (part, field.id, field.path)
            one, identity, path = owners.setdefault(stem_of(field.id) if flat else field.id, mine)
            if (flat and (one, identity) != mine[:2]) or (images != "none" and path != field.path):
                what = f"'{identity}' of {one} and '{field.id}' of {part} would share a file"
                raise FormatError(what, where=str(out), remedy="rename one of the two, or convert the parts one by one")


def _place_images(dataset: Dataset, folder: Path, how: Images, *, flat: bool) -> None:
    for labelled in dataset.fields:
        name = labelled.field.id.replace("/", "__") if flat else labelled.field.id
        target = folder / name
        if not labelled.field.path.is_file():
            continue  # counted in `_losses`
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "link":
            yolo.link(labelled.field.path, target)
        else:
            shutil.copyfile(labelled.field.path, target)


def _coco(parts: Parts, out: Path) -> None:
    for part, dataset in parts.items():
        coco.write(dataset, out / "annotations" / f"instances_{part}.json")


def _yolo(parts: Parts, out: Path) -> None:
    first = next(iter(parts.values()))
    yolo.write(first, out, {part: d.fields for part, d in parts.items()})


def _voc(parts: Parts, out: Path) -> None:
    for dataset in parts.values():
        voc.write(dataset.fields, dataset.classes, out / "Annotations")


def _csv(parts: Parts, out: Path) -> None:
    for part, dataset in parts.items():
        table.write(dataset, out / f"{part}.csv")


def _geojson(parts: Parts, out: Path) -> None:
    for dataset in parts.values():
        geojson.write(dataset.fields, dataset.classes, out / "labels")


def _masks(parts: Parts, out: Path) -> None:
    """16-bit PNGs whose grey levels number the cells; `masks.csv` says which level is what."""
    (out / "masks").mkdir(parents=True)
    rows: list[tuple[str, int, str]] = []
    for dataset in parts.values():
        for labelled in dataset.fields:
            field, cells = labelled.field, labelled.annotations
            if len(cells) > np.iinfo(np.uint16).max:
                raise ConfigError(f"'{field.id}' has more cells than a 16-bit mask can number", remedy="use coco")
            canvas, _ = masks.to_instances(cells, field.width, field.height)
            stem = stem_of(field.id)
            _write_png(out / "masks" / f"{stem}.png", canvas)
            rows += [(stem, i + 1, dataset.classes.names[k]) for i, k in enumerate(cells.labels)]
    with (out / "masks.csv").open("w", newline="", encoding="utf-8") as file:
        table_of_levels = csv.writer(file, lineterminator="\n")
        table_of_levels.writerow(("mask", "level", "label"))
        table_of_levels.writerows(rows)


def _write_png(path: Path, pixels: NDArray[Any]) -> None:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise StoreError("could not be written as PNG", where=str(path))
    path.write_bytes(data.tobytes())


def _folders(parts: Parts, out: Path) -> None:
    """One folder a class, one PNG a cell, cut at its box."""
    for dataset in parts.values():
        for labelled in dataset.fields:
            pixels = decode.read(labelled.field.path)
            stem = stem_of(labelled.field.id)
            for i, box in enumerate(labelled.annotations.boxes):
                x0, y0, x1, y1 = np.round(box).astype(int)
                cut = pixels[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
                # A label may hold anything; a folder name must stay within `out`.
                name = dataset.classes.names[labelled.annotations.labels[i]].replace("/", "__").replace("\\", "__")
                folder = out / (name.strip(". ") or "unnamed")
                folder.mkdir(exist_ok=True)
                _write_png(folder / f"{stem}__{i + 1}.png", cut[:, :, ::-1])


# Format name to its writer of whole sets.
WRITERS: Mapping[str, Callable[[Parts, Path], None]] = {
    "coco": _coco,
    "yolo": _yolo,
    "voc": _voc,
    "csv": _csv,
    "geojson": _geojson,
    "masks": _masks,
    "folders": _folders,
}


def _holds(to: str, key: str, value: Any) -> bool:
    """Whether a format keeps this further field of a cell."""
    if to == "geojson":
        return key in ("feature", "shape")
    return to == "coco" or (to == "voc" and voc.holds(key, value)) or (to == "csv" and table.holds(key, value))


def _losses(parts: Parts, to: str, images: Images) -> list[str]:
    lost: Counter[str] = Counter()
    if to in FLAT and len(parts) > 1:
        lost["parts, which are one now"] = len(parts)
    for dataset in parts.values():
        if to != "coco":
            lost.update(f"further fields of the set, '{key}'" for key in dataset.extra if key != "categories")
            lost["further fields of a class"] += sum(
                key not in ("id", "name") for category in dataset.extra.get("categories", ()) for key in category
            )
        for labelled in dataset.fields:
            cells = labelled.annotations
            if to == "folders":
                lost["places of cells in their fields"] += len(cells)
            if to == "masks":
                _, hidden = masks.to_instances(cells, labelled.field.width, labelled.field.height)
                lost["cells wholly under others"] += hidden
                lost["boxes without a mask, drawn as rectangles"] += sum(m is None for m in cells.masks)
            if to in ("yolo", "voc", "csv", "folders"):
                lost["masks, of which the boxes are kept"] += sum(m is not None for m in cells.masks)
            if to in ("yolo", "voc", "geojson", "masks", "folders"):
                lost["crowd marks"] += int(cells.crowd.sum())
            lost["further fields of a cell"] += sum(not _holds(to, k, v) for e in cells.extra for k, v in e.items())
            if to != "coco":
                lost["further fields of an image"] += sum(key != "id" for key in labelled.extra)
            if images != "none":
                lost["pictures, which are missing"] += not labelled.field.path.is_file()
    return [f"{n} {what}" for what, n in lost.items() if n]


def to_taxonomy(parts: Parts) -> tuple[Parts, dict[str, str | None]]:
    """The same set under the names of `annotations/taxonomy.yaml`; names that it does not know are kept.

    Returns:
        The set, and published name to taxonomy name, None where there is none.
    """
    tree = taxonomy()
    names = list(dict.fromkeys(n for d in parts.values() for n in d.classes.names))
    mapped = {n: tree.resolve(n) for n in names}
    out = {part: _under(d, {n: mapped[n] or n for n in d.classes.names}) for part, d in parts.items()}
    return out, mapped


def _under(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    """The same fields with every label renamed, under the classes that `names` leads to, in its order."""
    classes = ClassMap(tuple(dict.fromkeys(names.values())))
    index = np.array([classes.index(names[n]) for n in dataset.classes.names], np.int64)
    fields = tuple(
        replace(f, annotations=replace(f.annotations, labels=index[f.annotations.labels])) for f in dataset.fields
    )
    exhaustive = frozenset(names.get(n, n) for n in dataset.exhaustive_for)
    extra = dict(dataset.extra)
    if "categories" in extra:
        extra["categories"] = coco.rename_categories(extra["categories"], names)
    return replace(dataset, classes=classes, fields=fields, exhaustive_for=exhaustive, extra=extra)
