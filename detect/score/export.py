"""A run's cells in the forms that other programs read: CSV, COCO, and GeoJSON for QuPath."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from detect.formats import coco, geojson
from detect.images import wholeslide
from detect.score import overlaps
from detect.score.store import Store, finished, rle_of
from detect.types import Rle

# QuPath's colours of classes: as the report outlines them.
_COLOURS = {"WBC": [0, 60, 200], "RBC": [150, 150, 150], "Platelet": [230, 110, 0]}
_PLAIN = ("slide", "field", "cell", "x0", "y0", "x1", "y1", "label", "score", "type", "type_score")
REPEATED = "counted in another field"
_KNOWN = ("patient", "specimen", "stain")


def to_csv(run: Path, path: Path) -> int:
    """One row a cell, in the order of the results; returns how many. Candidates and flags are parted by '; '."""
    finished(run)
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow([*_PLAIN, "candidates", "flags", "attributes", "fab", *_KNOWN])
        for cell in _cells(run):
            told = "; ".join(f"{name}={value:.6g}" for name, value in cell["attributes"])
            row = [*(cell[name] for name in _PLAIN), "; ".join(cell["candidates"]), "; ".join(cell["flags"])]
            out.writerow([*row, told, cell["fab"], *(cell[k] for k in _KNOWN)])
            count += 1
    return count


def to_coco(run: Path, path: Path) -> int:
    """One COCO file of the run, by the type of each cell where it has one; returns the number of cells.

    Every field that was read is an image, with cells or without; boxes are in its pixels, also of regions. What COCO
    has no place for is in `attributes`.
    """
    finished(run)
    rows = [row for row in Store(run).fields().to_pylist() if row["status"] == "ok"]
    images = {row["field"]: number for number, row in enumerate(rows, 1)}
    names = sorted({_name(cell) for cell in _cells(run)})
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "smear-detect: morphology, for research use, not a diagnosis"},\n')
        listed = [
            {"id": images[row["field"]], "file_name": row["field"], "width": row["width"], "height": row["height"]}
            for row in rows
        ]
        file.write(f'"images": {json.dumps(listed, ensure_ascii=False)},\n')
        kinds = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        file.write(f'"categories": {json.dumps(kinds, ensure_ascii=False)},\n"annotations": [\n')
        count = _annotations(file, run, images, {name: number for number, name in enumerate(names, 1)})
        file.write("]}\n")
    return count


def _annotations(file: TextIO, run: Path, images: Mapping[str, int], categories: Mapping[str, int]) -> int:
    count, corners = 0, _corners(run)
    for count, cell in enumerate(_cells(run), 1):
        left, top = corners.get(cell["field"], (0, 0))
        x0, x1 = round(cell["x0"] - left, 3), round(cell["x1"] - left, 3)
        y0, y1 = round(cell["y0"] - top, 3), round(cell["y1"] - top, 3)
        one: dict[str, Any] = {
            "id": count,
            "image_id": images[cell["field"]],
            "category_id": categories[_name(cell)],
            "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
            "area": round((x1 - x0) * (y1 - y0), 3),
            "iscrowd": 0,
            "score": round(cell["score"], 5),
            "attributes": {
                "label": cell["label"],
                "cell": cell["cell"],
                "type_score": cell["type_score"],
                "candidates": cell["candidates"],
                "flags": cell["flags"],
                **dict(cell["attributes"]),
                **({"fab": cell["fab"]} if cell["fab"] else {}),
            },
        }
        mask = _mask(cell)
        if mask is not None:
            one["segmentation"] = {"size": mask["size"], "counts": coco.as_text(mask["counts"])}
        file.write((",\n" if count > 1 else "") + json.dumps(one, ensure_ascii=False))
    return count


def to_geojson(run: Path, folder: Path) -> int:
    """One FeatureCollection a field with cells, or one a whole slide; returns the number of cells.

    Named by the id with '/' as '__'.
    QuPath takes each as a detection object with its class, its score and its attributes as measurements.
    """
    finished(run)
    folder.mkdir(parents=True, exist_ok=True)
    corners = _corners(run)
    count, names = 0, set()
    for picture, cells in groupby(_cells(run), _picture):
        features = [_feature(cell, corners.get(cell["field"], (0, 0))) for cell in cells]
        name = picture.replace("/", "__")
        while name in names:  # a/b and a__b
            name += "_"
        names.add(name)
        text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
        (folder / f"{name}.geojson").write_text(text, "utf-8")
        count += len(features)
    return count


def _picture(cell: Mapping[str, Any]) -> str:
    """The file that a cell is in: of regions their slide."""
    return str(cell["slide"] if wholeslide.is_region(cell["field"], cell["slide"]) else cell["field"])


def _corners(run: Path) -> dict[str, tuple[int, int]]:
    """Where the pictures of regions begin in their slides."""
    told = Store(run).fields().select(["field", "x", "y"]).to_pylist()
    return {row["field"]: (row["x"], row["y"]) for row in told if row["x"] or row["y"]}


def _feature(cell: Mapping[str, Any], corner: tuple[int, int]) -> dict[str, Any]:
    mask, box = _mask(cell), np.array([cell[k] for k in ("x0", "y0", "x1", "y1")])
    shape = geojson.box_polygon(box) if mask is None else _moved(geojson.outline(mask), corner)
    measured = {"score": round(cell["score"], 5), **{k: round(v, 5) for k, v in cell["attributes"]}}
    if cell["type_score"] is not None:
        measured["type score"] = round(cell["type_score"], 5)
    if REPEATED in cell["flags"]:
        measured[REPEATED] = 1.0
    kind = {"name": _name(cell), "color": _COLOURS.get(cell["label"], [120, 0, 120])}
    properties = {"objectType": "detection", "classification": kind, "measurements": measured}
    properties["name"] = f"{cell['field']}#{cell['cell']}"
    told = {"flags": "; ".join(cell["flags"]), "candidates": " or ".join(cell["candidates"] or ()), "fab": cell["fab"]}
    told = {name: text for name, text in told.items() if text}
    if told:
        properties["metadata"] = told
    return {"type": "Feature", "geometry": shape, "properties": properties}


def _moved(shape: dict[str, Any], corner: tuple[int, int]) -> dict[str, Any]:
    """An outline in pixels of a region's picture as one in pixels of its slide."""

    def place(points: Any) -> Any:
        if isinstance(points[0], list):
            return [place(p) for p in points]
        return [points[0] + corner[0], points[1] + corner[1]]

    return shape | {"coordinates": place(shape["coordinates"])}


def _cells(run: Path) -> Iterator[dict[str, Any]]:
    """Every cell; one that is counted in another field has a flag more."""
    elsewhere = overlaps.read(run)
    for table in Store(run).cells():
        for cell in table.to_pylist():
            cell["fab"] = cell.get("fab") or ""  # a run of an earlier version has none
            if cell["cell"] in elsewhere.get(cell["field"], ()):
                cell["flags"] = [*cell["flags"], REPEATED]
            yield cell


def _name(cell: Mapping[str, Any]) -> str:
    return str(cell["type"] or cell["label"])


def _mask(cell: Mapping[str, Any]) -> Rle | None:
    return None if cell["mask"] is None else rle_of(cell["mask"])
