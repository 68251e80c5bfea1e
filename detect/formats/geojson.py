"""GeoJSON as QuPath reads and writes it: one FeatureCollection a field, in pixels of the full image.

A feature is a polygon with `properties.objectType` and `properties.classification.name`; measurements and whatever else
QuPath keeps of an object go along unchanged. A box is written as its four corners, a mask as its outlines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from detect import geometry
from detect.errors import FormatError
from detect.formats import masks as mask_images
from detect.formats.labels import ClassNames, Labels, box_fault, is_finite, label_file, load_json, stem_of
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Field, LabelledField, Rle

_UNCLASSIFIED = "Unclassified"


def load(path: Path) -> list[dict[str, Any]]:
    """The features of a file: a FeatureCollection, a list of features, or one feature."""
    data = load_json(path, "export it from QuPath again")
    if isinstance(data, dict) and data.get("type") == "Feature":
        data = [data]
    features = data.get("features") if isinstance(data, dict) else data
    if not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
        raise FormatError("not a GeoJSON feature collection", where=str(path), remedy="export objects as GeoJSON")
    return features


def name_of(feature: Mapping[str, Any]) -> str:
    """The class of a feature, by name. QuPath 0.4 and later writes a derived class as `names`, and shows "A: B"."""
    properties = feature.get("properties")
    kind = properties.get("classification") if isinstance(properties, dict) else None
    name = kind.get("name") if isinstance(kind, dict) else kind
    if isinstance(kind, dict) and not name and isinstance(kind.get("names"), list):
        name = ": ".join(map(str, kind["names"]))
    return str(name) if name else _UNCLASSIFIED


def read_field(path: Path, field: Field, labels: Labels, tally: Tally) -> LabelledField:
    """The cells of one field, with known width and height."""
    boxes, indices, extra, masks = [], [], [], []
    for number, feature in enumerate(load(path), 1):
        where = f"{path}: feature {number}"
        rings = _rings(feature.get("geometry"))
        if rings is None:
            kind = feature.get("geometry")
            what = kind.get("type") if isinstance(kind, dict) else kind
            tally.add("not a polygon", where, str(what), "dropped")
            continue
        points = np.concatenate(rings)
        x0, y0 = points.min(axis=0).tolist()
        x1, y1 = points.max(axis=0).tolist()
        fault = box_fault(x0, y0, x1, y1, field.width, field.height)
        if fault is not None:
            tally.add(fault, where, f"{x0}, {y0}, {x1}, {y1}", "dropped")
            continue
        label = labels.get(name_of(feature), where)
        if label is None:
            continue
        if min(x0, y0) < -1 or x1 > field.width + 1 or y1 > field.height + 1:
            tally.add("box oversteps the field", where, f"{x0}, {y0}, {x1}, {y1}", "repaired")
        boxes.append([x0, y0, x1, y1])
        indices.append(label)
        kept: dict[str, Any] = {"feature": {k: v for k, v in feature.items() if k != "geometry"}}
        shape = {k: v for k, v in feature["geometry"].items() if k not in ("type", "coordinates")}
        extra.append(kept | {"shape": shape} if shape else kept)
        masks.append(None if _is_box(rings) else _mask(rings, field, where, tally))
    clipped = geometry.clip(np.array(boxes, np.float32).reshape(-1, 4), field.width, field.height)
    return LabelledField(field, Annotations.of(clipped, indices, extra=extra, masks=masks))


def _rings(shape: Any) -> list[np.ndarray] | None:
    """Outer rings, each (n, 2); holes are filled, as a cell has none."""
    if not isinstance(shape, dict):
        return None
    try:
        if shape.get("type") == "Polygon":
            outer = [shape["coordinates"][0]]
        elif shape.get("type") == "MultiPolygon":
            outer = [polygon[0] for polygon in shape["coordinates"]]
        else:
            return None
        rings = [np.array(ring, np.float64) for ring in outer]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
    if any(r.ndim != 2 or r.shape[1] < 2 for r in rings):
        return None
    rings = [r[:, :2] for r in rings]  # a third number is a height
    if not rings or any(len(r) < 3 for r in rings) or not all(is_finite(v) for r in rings for v in r.ravel()):
        return None
    return rings


def _is_box(rings: Sequence[np.ndarray]) -> bool:
    if len(rings) != 1 or len(np.unique(rings[0], axis=0)) != 4:
        return False
    return all(len(np.unique(rings[0][:, axis])) == 2 for axis in (0, 1))


def _mask(rings: Sequence[np.ndarray], field: Field, where: str, tally: Tally) -> Rle | None:
    try:
        return mask_images.from_polygons([r.ravel().tolist() for r in rings], field.width, field.height)
    except ValueError as error:
        tally.add("mask cannot be read", where, str(error), "dropped")
        return None


def read(
    folder: Path, fields: Sequence[Field], class_map: ClassNames, classes: ClassMap, tally: Tally
) -> list[LabelledField]:
    """Labels of `fields`, each found in `folder` by its id with '/' as '__', or by its stem."""
    labels = Labels(classes, class_map, tally)
    out = []
    known = set()
    for field in fields:
        path = label_file(folder, field, ".geojson")
        known.add(path.name)
        if not path.is_file():
            tally.add("unlabelled image", str(field.path), f"no {path.name}", "noted")
            continue
        out.append(read_field(path, field, labels, tally))
    for path in sorted(folder.glob("*.geojson")):
        if path.name not in known:
            tally.add("label file without an image", str(path), "no image of that name", "dropped")
    tally.read["fields"] += len(out)
    tally.read["cells"] += sum(len(f.annotations) for f in out)
    return out


def to_features(labelled: LabelledField, classes: ClassMap) -> dict[str, Any]:
    """One field as a FeatureCollection."""
    cells = labelled.annotations
    features = []
    for i in range(len(cells)):
        kept = dict(cells.extra[i].get("feature", {}))
        properties = dict(kept.get("properties") or {"objectType": "annotation"})
        name = classes.names[cells.labels[i]]
        if name_of({"properties": properties}) != name:
            properties["classification"] = {"name": name}
        mask = cells.masks[i]
        shape = box_polygon(cells.boxes[i]) if mask is None else outline(mask)
        shape |= cells.extra[i].get("shape", {})
        features.append({"type": "Feature", **kept, "geometry": shape, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def box_polygon(box: np.ndarray) -> dict[str, Any]:
    """A box as a closed ring of its corners."""
    x0, y0, x1, y1 = (round(float(v), 3) for v in box)
    return {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]}


def outline(mask: Rle) -> dict[str, Any]:
    """The outer outlines of a mask, along the edges of its pixels, in pixels of the field."""
    # Each pixel becomes 2 x 2, so that a contour through pixel centres runs within half a pixel of the true edge.
    pixels = np.kron(rle.decode(mask), np.ones((2, 2), np.uint8))
    found, _ = cv2.findContours(np.pad(pixels, 1), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = []
    for contour in found:
        points = (contour[:, 0, :].astype(np.float64) - 1 + 0.5) / 2
        if len(points) >= 3:
            rings.append([*points.tolist(), points[0].tolist()])
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}


def write(fields: Sequence[LabelledField], classes: ClassMap, folder: Path) -> None:
    """One file a field, named by its id with '/' as '__'."""
    folder.mkdir(parents=True, exist_ok=True)
    for labelled in fields:
        (folder / f"{stem_of(labelled.field.id)}.geojson").write_text(
            json.dumps(to_features(labelled, classes), indent=1), "utf-8"
        )
