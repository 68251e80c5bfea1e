"""GeoJSON as QuPath has written it over the years, and ours there and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from detect.errors import FormatError
from detect.formats import geojson
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Field, LabelledField

CLASSES = ClassMap(("WBC", "RBC", "Unclassified"))
SAME = {name: name for name in CLASSES}
SQUARE = [[10, 20], [30, 20], [30, 40], [10, 40], [10, 20]]
NUCLEUS = {"type": "Polygon", "coordinates": [[[15, 25], [25, 25], [20, 35], [15, 25]]]}
UUID = "0d9f3c1e-6c1b-4b7e-9a55-2f1f3f3f0b11"


def feature(properties: dict[str, Any] | None = None, shape: Any = None, **more: Any) -> dict[str, Any]:
    """One object of QuPath: by default a box."""
    said = {"objectType": "annotation", "classification": {"name": "WBC", "color": [200, 0, 0]}}
    shape = {"type": "Polygon", "coordinates": [SQUARE]} if shape is None else shape
    return {"type": "Feature", "id": UUID, "geometry": shape, "properties": properties or said, **more}


def read(folder: Path, tally: Tally, *features: Any) -> LabelledField:
    """The records of a file of these features, on a field of 100 x 80."""
    path = folder / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}), "utf-8")
    return geojson.read(folder, [Field("a.png", ".", Path("a.png"), 100, 80)], SAME, CLASSES, tally)[0]


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        ({"objectType": "annotation", "classification": {"name": "WBC", "color": [200, 0, 0]}}, 0),
        ({"objectType": "detection", "classification": {"name": "RBC", "colorRGB": -3140401}}, 1),
        ({"object_type": "annotation", "classification": {"name": "RBC", "colorRGB": -1}, "isLocked": False}, 1),
        ({"objectType": "annotation", "classification": {"names": ["RBC"], "color": [1, 2, 3]}}, 1),
        ({"objectType": "annotation", "classification": "WBC"}, 0),
        ({"objectType": "annotation"}, 2),
        ({"objectType": "annotation", "classification": None}, 2),
    ],
    ids=["0.4", "0.2", "0.3", "0.4 names", "text", "unclassified", "null"],
)
def test_classes_as_every_version_writes_them(tmp_path: Path, properties: dict[str, Any], label: int) -> None:
    tally = Tally()
    cells = read(tmp_path, tally, feature(properties)).annotations
    assert cells.labels.tolist() == [label]
    assert cells.boxes.tolist() == [[10, 20, 30, 40]]
    assert cells.masks == (None,)  # four corners are a box
    assert tally.counts() == {}


def test_a_class_of_several_names_is_not_lost() -> None:
    # QuPath 0.4 and later write a derived class, "Tumor: Positive" on its screen, as an array.
    name = geojson.name_of({"properties": {"classification": {"names": ["WBC", "Blast"]}}})
    assert "WBC" in name
    assert "Blast" in name


MEASURED = [{"Area µm^2": 61.5, "Nucleus: Solidity": 0.91}, [{"name": "Area µm^2", "value": 61.5}]]


@pytest.mark.parametrize("measurements", MEASURED, ids=["mapping", "list"])
@pytest.mark.parametrize("kind", ["annotation", "detection", "cell"])
def test_what_qupath_keeps_of_an_object_goes_there_and_back(tmp_path: Path, kind: str, measurements: Any) -> None:
    properties = {
        "objectType": kind,
        "name": "cell 7",
        "isLocked": True,
        "classification": {"name": "WBC", "color": [200, 0, 0]},
        "measurements": measurements,
        "metadata": {"ANNOTATION_DESCRIPTION": "toxic granules"},
    }
    more = {"nucleusGeometry": NUCLEUS} if kind == "cell" else {}
    made = feature(properties, **more)
    (back,) = geojson.to_features(read(tmp_path, Tally(), made), CLASSES)["features"]
    assert back == made


@pytest.mark.parametrize("said", [{"plane": {"c": -1, "z": 3, "t": 0}}, {"isEllipse": True}], ids=["plane", "ellipse"])
def test_what_qupath_says_of_a_shape_goes_there_and_back(tmp_path: Path, said: dict[str, Any]) -> None:
    made = feature(shape={"type": "Polygon", "coordinates": [SQUARE], **said})
    (back,) = geojson.to_features(read(tmp_path, Tally(), made), CLASSES)["features"]
    assert back["geometry"] == made["geometry"]


def test_a_new_class_replaces_the_old_and_keeps_the_rest(tmp_path: Path) -> None:
    record = read(tmp_path, Tally(), feature())
    (back,) = geojson.to_features(record, ClassMap(("Lymphocyte", "RBC", "Other")))["features"]
    assert back["properties"]["classification"]["name"] == "Lymphocyte"
    assert back["id"] == UUID


def test_a_multipolygon_is_one_cell(tmp_path: Path) -> None:
    other = [[50, 50], [60, 50], [60, 55], [50, 55], [50, 50]]
    tally = Tally()
    cells = read(
        tmp_path, tally, feature(shape={"type": "MultiPolygon", "coordinates": [[SQUARE], [other]]})
    ).annotations
    assert cells.boxes.tolist() == [[10, 20, 60, 55]]
    drawn = rle.decode(cells.masks[0])
    assert drawn[20:40, 10:30].all()
    assert drawn[50:55, 50:60].all()
    assert drawn.sum() == 20 * 20 + 10 * 5


@pytest.mark.parametrize("form", ["collection", "list", "one"])
def test_forms_of_a_file(tmp_path: Path, form: str) -> None:
    content = {
        "collection": {"type": "FeatureCollection", "features": [feature()]},
        "list": [feature()],
        "one": feature(),
    }
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content[form]))
    assert [geojson.name_of(f) for f in geojson.load(path)] == ["WBC"]


BAD_SHAPES = {
    "point": {"type": "Point", "coordinates": [1, 2]},
    "line": {"type": "LineString", "coordinates": SQUARE},
    "none": {"type": "Polygon"},
    "empty": {"type": "Polygon", "coordinates": []},
    "two points": {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]},
    "text": {"type": "Polygon", "coordinates": [[["a", 2], [3, 4], [5, 6]]]},
    "ragged": {"type": "Polygon", "coordinates": [[[1, 2], [3], [5, 6]]]},
    "infinite": {"type": "Polygon", "coordinates": [[[1, 2], [3, float("inf")], [5, 6]]]},
    "vast": {"type": "Polygon", "coordinates": [[[1, 2], [3, 10**400], [5, 6]]]},
    "no mapping": [1, 2, 3],
}


@pytest.mark.parametrize("shape", BAD_SHAPES.values(), ids=[*BAD_SHAPES])
def test_what_is_no_polygon_is_named_and_the_rest_is_read(tmp_path: Path, shape: Any) -> None:
    tally = Tally()
    cells = read(tmp_path, tally, feature(shape=shape), feature()).annotations
    assert cells.boxes.tolist() == [[10, 20, 30, 40]]
    assert tally.counts() == {"not a polygon, dropped": 1}
    assert tally.problems[0].where.endswith("a.geojson: feature 1")


def test_heights_of_points_are_not_taken_for_places(tmp_path: Path) -> None:
    tally = Tally()
    deep = [[*point, 7] for point in SQUARE[:4]]  # GeoJSON allows a third number; four such points are six pairs
    cells = read(tmp_path, tally, feature(shape={"type": "Polygon", "coordinates": [deep]})).annotations
    assert cells.boxes.tolist() in ([[10, 20, 30, 40]], [])
    assert len(cells) + len(tally.problems) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits its memory as Linux does")
def test_an_outline_that_leaves_the_field_by_far_does_not_end_the_process(tmp_path: Path) -> None:
    shape = {"type": "Polygon", "coordinates": [[[0, 0], [1e8, 0], [1e8, 50], [0, 60], [0, 0]]]}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature(shape=shape)]))
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from pathlib import Path\n"
        "from detect.formats import geojson\n"
        "from detect.formats.tally import Tally\n"
        "from detect.types import ClassMap, Field\n"
        "tally = Tally()\n"
        "field = Field('a.png', '.', Path('a.png'), 100, 80)\n"
        "geojson.read(Path(sys.argv[1]), [field], {'WBC': 'WBC'}, ClassMap(('WBC',)), tally)\n"
        "print(len(tally.problems))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) >= 1


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"type": "Topology"}', b"5", b"\xff", b'[{"type":'])
def test_files_that_are_no_geojson(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.geojson"):
        geojson.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.geojson: no such file"):
        geojson.load(tmp_path / "none.geojson")


BOX = st.tuples(*[st.integers(0, 60_000)] * 2, *[st.integers(1, 19_000)] * 2, st.integers(0, 2))


@given(cells=st.lists(BOX, max_size=8))
def test_boxes_there_and_back_are_equal(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, ...]]) -> None:
    folder = tmp_path_factory.mktemp("geojson")
    boxes = [[x / 1000, y / 1000, (x + w) / 1000, (y + h) / 1000] for x, y, w, h, _ in cells]
    field = Field("s/a.png", "s", Path("a.png"), 100, 80)
    made = LabelledField(field, Annotations.of(boxes, [c[4] for c in cells]))
    (folder / "a.geojson").write_text(json.dumps(geojson.to_features(made, CLASSES)))
    tally = Tally()
    (back,) = geojson.read(folder, [field], SAME, CLASSES, tally)
    assert tally.counts() == {}
    np.testing.assert_array_equal(back.annotations.boxes, made.annotations.boxes)
    np.testing.assert_array_equal(back.annotations.labels, made.annotations.labels)
    assert set(back.annotations.masks) <= {None}


@given(
    radius=st.integers(8, 30),
    stretch=st.floats(0.5, 2),
    x=st.integers(0, 100),
    y=st.integers(0, 80),
    dent=st.booleans(),
)
def test_masks_there_and_back_are_nearly_equal(radius: int, stretch: float, x: int, y: int, dent: bool) -> None:
    drawn = np.zeros((80, 100), np.uint8)
    cv2.ellipse(drawn, (x, y), (radius, max(8, round(radius * stretch))), 30, 0, 360, 1, -1)
    if dent:
        cv2.circle(drawn, (x + radius, y), radius // 2, 0, -1)
    if drawn.sum() < 200:  # a sliver at the border is no blob
        return
    mask = rle.encode(np.asfortranarray(drawn))
    rows, columns = np.nonzero(drawn)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    field = Field("a.png", ".", Path("a.png"), 100, 80)
    made = LabelledField(field, Annotations.of([box], [0], masks=[mask]))
    (shape,) = (f["geometry"] for f in geojson.to_features(made, CLASSES)["features"])
    rings = [shape["coordinates"][0]] if shape["type"] == "Polygon" else [p[0] for p in shape["coordinates"]]
    assert all(ring[0] == ring[-1] for ring in rings)  # GeoJSON closes its rings
    outlines = [np.ravel(ring).tolist() for ring in rings]
    back = rle.merge(rle.frPyObjects(outlines, 80, 100))
    assert float(rle.iou([back], [mask], [0])[0, 0]) > 0.97
    points = np.concatenate([np.array(ring) for ring in rings])
    assert np.abs([*points.min(axis=0), *points.max(axis=0)] - np.array(box)).max() <= 0.5


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text('{"type": "Feature", "geometry": null, "id": "c1", "properties": {}, "properties": {"x": 1}}')
    with pytest.raises(FormatError, match=r"a\.geojson: the key 'properties' stands twice in one object .*id c1"):
        geojson.load(path)
