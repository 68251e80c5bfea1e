"""COCO JSON: one file a set. Ids are kept whatever their gaps, and fields that we do not know are carried along.

`Dataset.extra` holds the categories as the file lists them, and every key of the file that we do not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect import geometry
from detect.errors import FormatError
from detect.formats import masks
from detect.formats.labels import ClassNames, Labels, box_fault, is_finite, load_json
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField, Rle

_IMAGE_KEYS = {"file_name", "width", "height"}
_ANNOTATION_KEYS = {"id", "image_id", "category_id", "bbox", "iscrowd", "area"}
_RECORDS = ("images", "annotations", "categories")
_WIDEST = 1_000_000  # pixels
_SAME = 2e-3  # pixels: records hold float32, which differ by less up to sides of 16,000 pixels


def read(
    path: Path,
    images: Path,
    class_map: ClassNames | None,
    tally: Tally,
    *,
    classes: ClassMap | None = None,
) -> Dataset:
    """A COCO file as records.

    Args:
        images: the folder that its `file_name`s start from.
        class_map: published category name to class name; None keeps the categories as they are.
        classes: the order of the classes; by default that of `class_map`.
    """
    data = _load(path)
    published = _categories(data["categories"], path, tally)
    categories = {identity: str(category["name"]) for identity, category in published.items()}
    if class_map is None:
        if not categories:
            raise FormatError("no categories", where=str(path), remedy="name the classes in 'categories'")
        class_map = {name: name for name in dict.fromkeys(categories.values())}
    classes = classes or ClassMap(tuple(dict.fromkeys(n for n in class_map.values() if n is not None)))
    labels = Labels(classes, class_map, tally)
    per_image = _images(data["images"], path, tally)
    rows: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in per_image}
    seen: set[Any] = set()
    free_id = 1 + max((a["id"] for a in data["annotations"] if isinstance(a.get("id"), int)), default=0)
    for a in data["annotations"]:
        where = f"{path}: annotation {a.get('id')}"
        if not isinstance(a.get("id"), int):
            tally.add("annotation id is no number", where, "numbered on", "repaired")
            a = {**a, "id": free_id}
            free_id += 1
        if a.get("id") in seen:
            tally.add("annotation id used twice", where, "", "repaired")
        seen.add(a.get("id"))
        if not _is_id(a.get("image_id")) or a["image_id"] not in rows:
            tally.add("annotation without an image", where, f"image_id {a.get('image_id')}", "dropped")
        elif not _is_id(a.get("category_id")) or a["category_id"] not in categories:
            tally.add("unknown category", where, f"category_id {a.get('category_id')}", "dropped")
        else:
            rows[a["image_id"]].append(a)
    fields = []
    for image_id, image in per_image.items():
        name = str(image["file_name"]).replace("\\", "/")
        field = Field(
            id=name,
            slide=_told(image, "slide") or Path(name).parent.as_posix(),
            path=images / name,
            width=int(image["width"]),
            height=int(image["height"]),
            patient=_told(image, "patient"),
            group=_told(image, "group"),
        )
        annotations = _annotations(rows[image_id], field, categories, labels, path, tally)
        kept = {k: v for k, v in image.items() if k not in _IMAGE_KEYS}
        fields.append(LabelledField(field, annotations, kept))
    tally.read["fields"] += len(fields)
    tally.read["cells"] += sum(len(f.annotations) for f in fields)
    targets = {name: labels.find(name) for name in categories.values()}
    names = {name: classes.names[index] for name, index in targets.items() if index is not None}
    rest = {k: v for k, v in data.items() if k not in _RECORDS}
    extra = {**rest, "categories": rename_categories([*published.values()], names)}
    return Dataset(path.stem, images, classes, tuple(fields), frozenset(classes.names), extra)


def _told(image: Mapping[str, Any], key: str) -> str | None:
    """What 'smear data prepare' and 'smear review pull' say of an image beyond COCO."""
    said = image.get(key)
    return said if isinstance(said, str) and said else None


def _load(path: Path) -> dict[str, Any]:
    data = load_json(path, "export the file again")
    for key in _RECORDS:
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise FormatError(f"not a COCO file: no list '{key}'", where=str(path), remedy="export it as COCO")
        wrong = next((i for i, entry in enumerate(entries) if not isinstance(entry, dict)), None)
        if wrong is not None:
            raise FormatError(f"{key}[{wrong}] is no mapping", where=str(path), remedy="export it as COCO")
    return dict(data)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _categories(categories: list[dict[str, Any]], path: Path, tally: Tally) -> dict[Any, dict[str, Any]]:
    out: dict[Any, dict[str, Any]] = {}
    owners: dict[str, Any] = {}
    for category in categories:
        identity, name = category.get("id"), category.get("name")
        where = f"{path}: category {identity}"
        if not _is_id(identity):
            tally.add("category without an id", where, str(name), "dropped")
        elif identity in out:
            tally.add("category id used twice", where, str(name), "dropped")
        elif name is None or not str(name).strip():
            tally.add("category without a name", where, "", "dropped")
        else:
            out[identity] = category
            owner = owners.setdefault(str(name), identity)
            if owner != identity:
                what = f"'{name}', as of category {owner}; their cells become one class"
                tally.add("category name used twice", where, what, "repaired")
    return out


def rename_categories(categories: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Categories of a source under other names, in their order; one whose name is not in `names` is left out.

    A category that keeps its name keeps all else. Of those that become one under a new name, what they say alike is
    kept, so that one alone keeps its id, and several are numbered anew by `to_dict`.

    Args:
        names: published name to new name.
    """
    families: dict[str, list[Mapping[str, Any]]] = {}
    for category in categories:
        name = str(category["name"])
        if name in names:
            families.setdefault(names[name], []).append(category)
    out = []
    for name, family in families.items():
        first = next((c for c in family if str(c["name"]) == name), None)
        alike = {k: v for k, v in family[0].items() if all(k in c and c[k] == v for c in family)}
        out.append(dict(first) if first is not None else {**alike, "name": name})
    return out


def _images(images: list[dict[str, Any]], path: Path, tally: Tally) -> dict[Any, dict[str, Any]]:
    out: dict[Any, dict[str, Any]] = {}
    names: dict[str, Any] = {}
    for image in images:
        where = f"{path}: image {image.get('id')}"
        if not _is_id(image.get("id")):
            tally.add("image without an id", where, str(image.get("file_name")), "dropped")
        elif image["id"] in out:
            tally.add("image id used twice", where, str(image.get("file_name")), "dropped")
        elif not image.get("file_name"):
            tally.add("image without a file name", where, "", "dropped")
        elif not all(isinstance(image.get(k), int) and 0 < image[k] <= _WIDEST for k in ("width", "height")):
            tally.add("image without a size", where, str(image.get("file_name")), "dropped")
        else:
            name = str(image["file_name"])
            if name in names:
                tally.add("file name used twice", where, f"'{name}', as of image {names[name]}", "noted")
            names[name] = image["id"]
            out[image["id"]] = image
    return out


def _annotations(
    rows: list[dict[str, Any]],
    field: Field,
    categories: Mapping[Any, str],
    labels: Labels,
    path: Path,
    tally: Tally,
) -> Annotations:
    kept: list[tuple[list[Any], int, int, bool, dict[str, Any], Rle | None]] = []
    for a in rows:
        where = f"{path}: annotation {a.get('id')}"
        box = a.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(is_finite(v) for v in box)):
            tally.add("not a box", where, str(box), "dropped")
            continue
        x, y, w, h = map(float, box)
        fault = box_fault(x, y, x + w, y + h, field.width, field.height)
        if fault is not None:
            tally.add(fault, where, str(box), "dropped")
            continue
        label = labels.get(categories[a["category_id"]], where)
        if label is None:
            continue
        overstepping = max(x + w - field.width, y + h - field.height, -x, -y) > 1
        if overstepping:
            tally.add("box oversteps the field", where, str(box), "repaired")
        extra = {k: v for k, v in a.items() if k not in _ANNOTATION_KEYS}
        mask = _mask(a.get("segmentation"), field, where, tally)
        if a.get("segmentation") and mask is None:
            del extra["segmentation"]  # or the way back would bring it again
        elif "area" in a and not is_finite(a["area"]):
            tally.add("area is no number", where, str(a["area"])[:40], "repaired")
        elif "area" in a and not overstepping:
            extra["area"] = a["area"]
        kept.append((box, label, int(a.get("id", 0)), bool(a.get("iscrowd", 0)), extra, mask))
    boxes = geometry.from_xywh(np.array([k[0] for k in kept], np.float64).reshape(-1, 4))
    boxes = geometry.clip(boxes, field.width, field.height)
    for xywh, (said, *_, extra, mask) in zip(geometry.to_xywh(boxes), kept, strict=True):
        if extra.get("area") == _area(xywh, mask):
            del extra["area"]  # it follows from the rest; tools that measure outlines in their own way say another
        if said != _rounded(xywh) and _is_there(said, xywh, field, least=1):
            extra["bbox"] = said  # as it was written: with more decimals than ours, or a little over the border
    return Annotations.of(
        boxes,
        [k[1] for k in kept],
        ids=[k[2] for k in kept],
        crowd=[k[3] for k in kept],
        extra=[k[4] for k in kept],
        masks=[k[5] for k in kept],
    )


def _mask(segmentation: Any, field: Field, where: str, tally: Tally) -> Rle | None:
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict) and list(segmentation["size"]) != [field.height, field.width]:
            raise ValueError(f"mask of another size, on a field of {[field.height, field.width]}")
        if isinstance(segmentation, list):
            return masks.from_polygons(segmentation, field.width, field.height)
        return masks.from_runs(segmentation["counts"], field.width, field.height)
    except Exception as error:  # pycocotools raises whatever its C code meets
        tally.add("mask cannot be read", where, str(error)[:80], "dropped")
        return None


def _rounded(xywh: NDArray[np.float64]) -> list[float]:
    return [round(float(v), 3) for v in xywh]


def _box(xywh: NDArray[np.float64], said: Any, field: Field) -> list[Any]:
    """The box as its source wrote it while it is still that box, else ours."""
    if isinstance(said, list) and len(said) == 4 and all(map(is_finite, said)) and _is_there(said, xywh, field):
        return said
    return _rounded(xywh)


def _is_there(said: list[Any], xywh: NDArray[np.float64], field: Field, *, least: float = np.inf) -> bool:
    """Whether a box as it was written is the box of the record, which ends at the border of the field.

    Args:
        least: pixels over the border from which a box counts as mended, and is no longer what was written.
    """
    x, y, w, h = map(float, said)
    if max(x + w - field.width, y + h - field.height, -x, -y) > least:
        return False
    kept = geometry.clip(geometry.from_xywh(np.array([[x, y, w, h]], np.float64)), field.width, field.height)
    return bool(np.abs(geometry.to_xywh(kept)[0] - xywh).max() <= _SAME)


def _area(xywh: NDArray[np.float64], mask: Rle | None) -> float:
    return float(rle.area(mask)) if mask is not None else round(float(xywh[2] * xywh[3]), 3)


def categories_of(dataset: Dataset) -> list[dict[str, Any]]:
    """The categories of a set: those that its source gave, where a class bears their name, then the rest.

    A class with no category, or with one that lost its id in a merger, gets an id beyond all of theirs.
    """
    known = dataset.extra.get("categories", ())
    free = 1 + max((c["id"] for c in known if isinstance(c.get("id"), int)), default=0)
    given = [c for c in known if str(c["name"]) in dataset.classes.names]
    named = {str(c["name"]) for c in given}
    out = []
    for category in [*given, *({"name": name} for name in dataset.classes.names if name not in named)]:
        if "id" not in category:
            category = {"id": free, **category}
            free += 1
        out.append(dict(category))
    return out


def rows(dataset: Dataset) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The image and the annotations of each field as COCO has them, in order.

    Ids that the source gave are kept where they are unique, else numbered on.
    """
    category_ids = {str(c["name"]): c["id"] for c in categories_of(dataset)}
    ids = [i for f in dataset.fields for i in f.annotations.ids]
    keep_ids = len(set(ids)) == len(ids)
    image_ids = [f.extra.get("id") for f in dataset.fields]
    keep_image_ids = None not in image_ids and len(set(image_ids)) == len(image_ids)
    count = 0
    for number, labelled in enumerate(dataset.fields, 1):
        field, cells = labelled.field, labelled.annotations
        image_id = labelled.extra["id"] if keep_image_ids else number
        size = {"file_name": field.id, "width": field.width, "height": field.height}
        boxes = geometry.to_xywh(cells.boxes)
        annotations = []
        for i in range(len(cells)):
            count += 1
            row: dict[str, Any] = {
                **cells.extra[i],
                "id": cells.ids[i] if keep_ids else count,
                "image_id": image_id,
                "category_id": category_ids[dataset.classes.names[cells.labels[i]]],
                "bbox": _box(boxes[i], cells.extra[i].get("bbox"), field),
                "area": said if is_finite(said := cells.extra[i].get("area")) else _area(boxes[i], cells.masks[i]),
                "iscrowd": int(cells.crowd[i]),
            }
            mask = cells.masks[i]
            if mask is not None and "segmentation" not in row:
                row["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
            annotations.append(row)
        yield {**labelled.extra, "id": image_id, **size}, annotations


def to_dict(dataset: Dataset) -> dict[str, Any]:
    """Records as a COCO mapping."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, cells in rows(dataset):
        images.append(image)
        annotations += cells
    return {**rest_of(dataset), "images": images, "annotations": annotations, "categories": categories_of(dataset)}


def rest_of(dataset: Dataset) -> dict[str, Any]:
    """What a COCO file says beside its images, annotations and categories."""
    return {k: v for k, v in dataset.extra.items() if k not in _RECORDS}


def write(dataset: Dataset, path: Path) -> None:
    """Records as a COCO file. Nothing is invented: no date or licence but the source's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_dict(dataset), indent=1, default=as_text), "utf-8")


def as_text(counts: bytes) -> str:
    """Runs of a mask that a source gave beside that of the cell, such as its nucleus."""
    return counts.decode("ascii")
