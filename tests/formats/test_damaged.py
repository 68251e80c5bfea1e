"""Damaged label files: each is refused by name or named in the tally, and no cell is lost without a word."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.data import check, sources
from detect.errors import ConfigError, DataError, FormatError, SmearError
from detect.formats.tally import Tally
from tests import data

CELLS = 4  # in every good set: three in the file that is damaged, one in another
# Drops that are not one cell: a whole file, an image, a category, or a mask whose box is kept.
NOT_CELLS = {
    "category id used twice",
    "category without a name",
    "category without an id",
    "image cannot be read",
    "image id used twice",
    "image without a file name",
    "image without a size",
    "image without an id",
    "label file is not text",
    "label file without an image",
    "mask cannot be read",
    "missing file",
    "not valid XML",
}
COCO: dict[str, Any] = {
    "images": [
        {"id": 5, "file_name": "a.png", "width": 100, "height": 80},
        {"id": 9, "file_name": "b.png", "width": 100, "height": 80},
    ],
    "categories": [{"id": 3, "name": "WBC"}, {"id": 4, "name": "RBC"}],
    "annotations": [
        data.coco_row(11),
        data.coco_row(12, category=4, box=[50, 10, 20, 30]),
        data.coco_row(13, box=[60, 40, 20, 30]),
        data.coco_row(14, image=9),
    ],
}
YOLO = "0 0.2 0.3 0.2 0.3\n1 0.6 0.3 0.2 0.3\n0 0.7 0.7 0.2 0.3\n"
YAML = "path: .\ntrain: images\nnames: [WBC, RBC]\n"
VOC = [
    data.voc_object("WBC", 10, 10, 30, 40),
    data.voc_object("RBC", 50, 10, 70, 40),
    data.voc_object("WBC", 60, 40, 80, 70),
]
CSV = "field,id,label,x0,y0,x1,y1\na.png,1,WBC,10,10,30,40\na.png,2,RBC,50,10,70,40\na.png,3,WBC,60,40,80,70\n"
SIZED = "field,width,height,id,label,x0,y0,x1,y1\na.png,{},1,WBC,10,10,30,40\n"
CSV_REST = "b.png,4,WBC,10,10,30,40\n"


def _feature(name: str, x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    properties = {"objectType": "annotation", "classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


GEOJSON: dict[str, Any] = {
    "type": "FeatureCollection",
    "features": [_feature("WBC", 10, 10, 30, 40), _feature("RBC", 50, 10, 70, 40), _feature("WBC", 60, 40, 80, 70)],
}
DAMAGED = {"coco": "labels.json", "yolo": "labels/a.txt", "yaml": "data.yaml", "voc": "Annotations/a.xml"}
DAMAGED |= {"csv": "labels.csv", "geojson": "labels/a.geojson"}
GOOD: dict[str, bytes] = {
    "coco": json.dumps(COCO).encode(),
    "yolo": YOLO.encode(),
    "yaml": YAML.encode(),
    "voc": f"<annotation>{''.join(VOC)}<size><width>100</width><height>80</height></size></annotation>".encode(),
    "csv": (CSV + CSV_REST).encode(),
    "geojson": json.dumps(GEOJSON).encode(),
}


@dataclass(frozen=True)
class Case:
    """A damaged file. `said`: a pattern that the refusal or a kind in the tally must show. `cells`: None if no number
    can be known."""

    format: str
    content: bytes
    said: str
    cells: int | None = CELLS


def good_set(folder: Path, kind: str) -> Path:
    """A good set of that kind, of two pictures and four cells; returns the file that is to be damaged."""
    images = {"voc": "JPEGImages"}.get(kind, "images")
    data.fields_in(folder / images, ["a", "b"])
    target = folder / DAMAGED[kind]
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(GOOD[kind])
    if kind in ("yolo", "yaml"):
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / "a.txt").write_text(YOLO)
        (folder / "labels" / "b.txt").write_text(YOLO.splitlines()[0])
        (folder / "data.yaml").write_text(YAML)
    elif kind == "voc":
        data.voc_file(target.with_name("b.xml"), VOC[0])
    elif kind == "geojson":
        (folder / "labels" / "b.geojson").write_text(json.dumps(GEOJSON["features"][:1]))
    return target


def read(folder: Path, kind: str, tally: Tally) -> int:
    """Cells read from the set."""
    place = folder / DAMAGED[kind] if kind in ("coco", "csv", "yaml") else folder
    parts = sources.read(place, tally, format="yolo" if kind == "yaml" else kind)
    check.check(parts, tally)
    return sum(len(f.annotations) for d in parts.values() for f in d.fields)


def coco(said: str, change: Callable[[dict[str, Any]], Any], cells: int | None = CELLS) -> Case:
    content = json.loads(json.dumps(COCO))
    changed = change(content)
    return Case("coco", json.dumps(changed if isinstance(changed, list) else content).encode(), said, cells)


def row(said: str, **changed: Any) -> Case:
    """COCO with another second annotation; a value of `...` takes the key away."""
    content = json.loads(json.dumps(COCO))
    content["annotations"][1] |= changed
    content["annotations"][1] = {k: v for k, v in content["annotations"][1].items() if v is not ...}
    return Case("coco", json.dumps(content).encode(), said)


def yolo(said: str, line: str, cells: int | None = CELLS + 1) -> Case:
    return Case("yolo", (YOLO + line).encode(), said, cells)


def voc(said: str, new: str, cells: int | None = CELLS) -> Case:
    return Case("voc", GOOD["voc"].replace(VOC[1].encode(), new.encode()), said, cells)


def csv(said: str, line: str, cells: int | None = CELLS + 1) -> Case:
    return Case("csv", (CSV + line + "\n" + CSV_REST).encode(), said, cells)


def shape(said: str, **changed: Any) -> Case:
    """GeoJSON with another second geometry."""
    content = json.loads(json.dumps(GEOJSON))
    content["features"][1]["geometry"] |= changed
    return Case("geojson", json.dumps(content).encode(), said)


CASES = {
    "coco empty": Case("coco", b"", "not valid JSON"),
    "coco cut off": Case("coco", GOOD["coco"][:-40], "not valid JSON"),
    "coco binary": Case("coco", b"\xff\xfe\x00{", "UTF-8|JSON"),
    "coco deep": Case("coco", b"[" * 100_000, "JSON"),
    "coco long number": Case("coco", GOOD["coco"].replace(b"60", b"6" * 5000), "JSON"),
    "coco a list": coco("no list", lambda c: [c]),
    "coco no categories": coco("categor", lambda c: c.update(categories=[])),
    "coco categories null": coco("no list 'categories'", lambda c: c.update(categories=None)),
    "coco category without a name": coco("categor", lambda c: c["categories"][1].pop("name")),
    "coco category id a list": coco("categor", lambda c: c["categories"][1].update(id=[4])),
    "coco category twice": coco("category id used twice", lambda c: c["categories"].append({"id": 3, "name": "X"})),
    "coco image a word": coco(r"images\[2\]", lambda c: c["images"].append("a.png")),
    "coco image id a list": coco("image without an id", lambda c: c["images"][1].update(id=[9])),
    "coco image id twice": coco("image id used twice", lambda c: c["images"][1].update(id=5)),
    "coco image without an id": coco("image without an id", lambda c: c["images"][1].pop("id")),
    "coco image without a name": coco("image without a file name", lambda c: c["images"][1].pop("file_name")),
    "coco image without a size": coco("image without a size", lambda c: c["images"][1].update(width=0)),
    "coco image gone": coco("missing file", lambda c: c["images"][1].update(file_name="gone.png")),
    "coco image of another size": coco("wrong size", lambda c: c["images"][1].update(width=90)),
    "coco annotation null": coco(r"annotations\[4\]", lambda c: c["annotations"].append(None)),
    "coco id twice": row("annotation id used twice", id=11),
    "coco id a word": row("annotation id is no number", id="x12"),
    "coco id missing": row("annotation id is no number", id=...),
    "coco no image of that id": row("annotation without an image", image_id=6),
    "coco image_id missing": row("annotation without an image", image_id=...),
    "coco image_id a list": row("annotation without an image", image_id=[5]),
    "coco no category of that id": row("unknown category", category_id=77),
    "coco category_id a mapping": row("unknown category", category_id={"id": 4}),
    "coco no box": row("not a box", bbox=...),
    "coco box of three": row("not a box", bbox=[1, 2, 3]),
    "coco box of words": row("not a box", bbox=["1", "2", "3", "4"]),
    "coco box nan": row("not a box", bbox=[1, float("nan"), 3, 4]),
    "coco box vast": row("not a box|outside|oversteps", bbox=[1, 2, 10**400, 4]),
    "coco box beyond single precision": row("not a box|outside|oversteps", bbox=[1, 2, 1e300, 4]),
    "coco box without area": row("box without area", bbox=[1, 2, 3, 0]),
    "coco box too thin to hold": row("box without area", bbox=[50, 2, 1e-9, 9]),
    "coco box inside out": row("box without area", bbox=[50, 50, -10, -10]),
    "coco box outside": row("box outside the field", bbox=[200, 50, 10, 10]),
    "coco box over the border": row("box oversteps the field", bbox=[90, 50, 30, 10]),
    "coco outline of words": row("mask cannot be read", segmentation=[["a", "b", "c", "d", "e", "f"]]),
    "coco outline of two points": row("mask cannot be read", segmentation=[[1, 2, 3, 4]]),
    "coco outline far away": row("mask cannot be read", segmentation=[[0, 0, 1e9, 0, 1e9, 50]]),
    "coco runs too long": row("mask cannot be read", segmentation={"size": [80, 100], "counts": [10, 90_000]}),
    "coco runs negative": row("mask cannot be read", segmentation={"size": [80, 100], "counts": [10, -5, 7995]}),
    "coco compressed runs too short": row("mask cannot be read", segmentation={"size": [80, 100], "counts": "1>2"}),
    "coco compressed runs cut off": row("mask cannot be read", segmentation={"size": [80, 100], "counts": "`k7P"}),
    "coco compressed runs negative": row("mask cannot be read", segmentation={"size": [80, 100], "counts": "O`j7"}),
    "coco compressed runs vast": row("mask cannot be read", segmentation={"size": [80, 100], "counts": "o" * 90 + "0"}),
    "coco key twice": Case("coco", GOOD["coco"].replace(b'"id": 12,', b'"id": 12, "id": 15,'), "'id' stands twice"),
    "coco list twice": Case("coco", b'{"images": [], ' + GOOD["coco"][1:], "'images' stands twice"),
    "coco category name twice": coco("category name used twice", lambda c: c["categories"][1].update(name="WBC")),
    "coco area a word": row("area is no number", area="large"),
    "coco mask a number": row("mask cannot be read", segmentation=7),
    "yolo binary": Case("yolo", b"\xff\xfe\x00\x81", "label file is not text", None),
    "yolo repeated": yolo("repeated box", YOLO.splitlines()[0]),
    "yolo word": yolo("not a number", "1 0.5 0.5 x 0.1"),
    "yolo decimal comma": yolo("not a number", "1 0,5 0,5 0,1 0,1"),
    "yolo nan": yolo("not a finite number", "1 nan 0.5 0.1 0.1"),
    "yolo too few": yolo("wrong number of values", "1 0.5 0.5 0.1"),
    "yolo with a score": yolo("wrong number of values", "1 0.5 0.5 0.1 0.1 0.98"),
    "yolo unknown class": yolo("unknown class number", "2 0.5 0.5 0.1 0.1"),
    "yolo negative class": yolo("unknown class number", "-1 0.5 0.5 0.1 0.1"),
    "yolo class and a half": yolo("unknown class number", "0.5 0.5 0.5 0.1 0.1"),
    "yolo vast class": yolo("unknown class number", "1e300 0.5 0.5 0.1 0.1"),
    "yolo without area": yolo("box without area", "1 0.5 0.5 0.1 0"),
    "yolo outside": yolo("box outside the field", "1 1.5 0.5 0.1 0.1"),
    "yolo in pixels": yolo("box outside the field|oversteps", "1 50 40 20 30"),
    "yolo outline far away": yolo("oversteps|mask", "1 0.1 0.1 1e9 0.1 1e9 0.5 0.1 0.6"),
    "voc empty": Case("voc", b"", "not valid XML", None),
    "voc cut off": Case("voc", GOOD["voc"][:-9], "not valid XML", None),
    "voc bad character": voc("not valid XML", "<object>\x01</object>", None),
    "voc encoding": Case("voc", b'<?xml version="1.0" encoding="no-such"?>' + GOOD["voc"], "not valid XML", None),
    "voc no box": voc("not a number", "<object><name>RBC</name></object>"),
    "voc corner missing": voc("not a number", data.voc_object("RBC", 1, 2, 3)),
    "voc word": voc("not a number", data.voc_object("RBC", 1, "two", 3, 4)),
    "voc nan": voc("not a finite number", data.voc_object("RBC", 1, "nan", 3, 4)),
    "voc no name": voc("unknown label", data.voc_object("", 1, 2, 3, 4)),
    "voc without area": voc("box without area", data.voc_object("RBC", 9, 2, 9, 4)),
    "voc outside": voc("box outside the field", data.voc_object("RBC", 900, 2, 909, 4)),
    "voc over the border": voc("box oversteps the field", data.voc_object("RBC", 90, 2, 109, 4)),
    "voc repeated": voc("repeated box", VOC[0]),
    "voc wrong size": Case("voc", GOOD["voc"].replace(b">100<", b">300<"), "wrong size"),
    "voc no size": Case("voc", GOOD["voc"].replace(b">100<", b">wide<"), "no size"),
    "csv empty": Case("csv", b"", "empty file"),
    "csv binary": Case("csv", b"\xff\xfe\x00", "UTF-8"),
    "csv no header": Case("csv", CSV.split("\n", 1)[1].encode(), "no column"),
    "csv quote never closed": csv("CSV|longer|not a number", 'a.png,9,"WBC,10,20,30,40' + "x" * 200_000, None),
    "csv old line ends": Case(
        "csv", GOOD["csv"].replace(b"\n", b"\r") + b"x,y\r", "CSV|without an image|missing file", None
    ),
    "csv repeated": csv("repeated box", CSV.splitlines()[1]),
    "csv word": csv("not a number", "a.png,9,WBC,ten,20,30,40"),
    "csv short row": csv("not a number", "a.png,9,WBC,10,20"),
    "csv long row": csv("wrong number of values", "a.png,9,WBC,10,5,20,7,30,5,40,2"),
    "csv infinite": csv("not a finite number", "a.png,9,WBC,10,20,inf,40"),
    "csv id twice": csv("annotation id used twice", "a.png,1,WBC,10,20,35,40"),
    "csv without area": csv("box without area", "a.png,9,WBC,30,20,10,40"),
    "csv outside": csv("box outside the field", "a.png,9,WBC,-30,20,-10,40"),
    "csv wrong size": Case("csv", SIZED.format("200,80").encode(), "wrong size", 1),
    "csv turned": Case("csv", SIZED.format("80,100").encode(), "labels ignore the EXIF rotation", 1),
    "csv size a word": Case("csv", SIZED.format("wide,80").encode(), "no size", 1),
    "csv no label": csv("unknown label", "a.png,9,,10,20,30,44"),
    "csv picture gone": csv("missing file", "gone.png,9,WBC,10,20,30,44"),
    "geojson empty": Case("geojson", b"", "not valid JSON"),
    "geojson cut off": Case("geojson", GOOD["geojson"][:-9], "not valid JSON"),
    "geojson binary": Case("geojson", b"\xff\xfe\x00", "UTF-8|JSON"),
    "geojson deep": Case("geojson", b"[" * 100_000, "JSON"),
    "geojson long number": Case("geojson", GOOD["geojson"].replace(b"60", b"6" * 5000), "JSON"),
    "geojson key twice": Case("geojson", b'{"features": [], ' + GOOD["geojson"][1:], "'features' stands twice"),
    "geojson topology": Case("geojson", b'{"type": "Topology"}', "not a GeoJSON"),
    "geojson numbers": Case("geojson", b"[1, 2]", "not a GeoJSON"),
    "geojson point": shape("not a polygon", type="Point", coordinates=[1, 2]),
    "geojson no coordinates": shape("not a polygon", coordinates=None),
    "geojson two points": shape("not a polygon", coordinates=[[[1, 2], [3, 4]]]),
    "geojson words": shape("not a polygon", coordinates=[[["a", "b"], [3, 4], [5, 6]]]),
    "geojson vast": shape("not a polygon", coordinates=[[[1, 2], [3, 10**400], [5, 6]]]),
    "geojson flat": shape("box without area", coordinates=[[[1, 2], [3, 2], [5, 2]]]),
    "geojson outside": shape("box outside the field", coordinates=[[[101, 2], [130, 2], [130, 20]]]),
    "geojson over the border": shape("oversteps", coordinates=[[[91, 2], [130, 2], [130, 20]]]),
    "yaml empty": Case("yaml", b"", "key: value"),
    "yaml open": Case("yaml", b"names: [WBC\ntrain: images", "not valid YAML"),
    "yaml binary": Case("yaml", b"\xff\xfe\x00", "cannot be read"),
    "yaml key twice": Case("yaml", f"{YAML}names: [RBC, WBC]\n".encode(), "'names' stands twice"),
    "yaml number twice": Case("yaml", b"train: images\nnames:\n  0: WBC\n  1: RBC\n  01: PLT\n", "'01' stands twice"),
    "yaml no names": Case("yaml", b"train: images\n", "no data.yaml|names"),
    "yaml names null": Case("yaml", b"train: images\nnames:\n", "names"),
    "yaml names by word": Case("yaml", b"train: images\nnames: {WBC: 0}\n", "names"),
    "yaml no parts": Case("yaml", b"names: [WBC, RBC]\n", "no labelled field"),
    "yaml part gone": Case("yaml", YAML.replace("images", "pictures").encode(), "pictures"),
    "yaml no such date": Case("yaml", f"made: 2024-13-45\n{YAML}".encode(), "not valid YAML"),
    "yaml too few names": Case("yaml", YAML.replace(", RBC", "").encode(), "unknown class number"),
    "yaml wrong number of names": Case("yaml", f"nc: 5\n{YAML}".encode(), "number of classes differs"),
}


def test_there_are_enough_kinds() -> None:
    assert len(CASES) >= 40
    assert {case.format for case in CASES.values()} == set(DAMAGED)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_good_set_is_read_without_a_problem(tmp_path: Path, kind: str) -> None:
    good_set(tmp_path, kind)
    tally = Tally()
    assert read(tmp_path, kind, tally) == CELLS
    assert [p for p in tally.problems if p.kind != "no size"] == []


@pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])
def test_a_damaged_file_is_refused_or_its_problem_named(tmp_path: Path, case: Case) -> None:
    path = good_set(tmp_path, case.format)
    path.write_bytes(case.content)
    tally = Tally()
    refused, cells = "", 0
    try:
        cells = read(tmp_path, case.format, tally)
    except (FormatError, ConfigError, DataError) as error:
        refused = str(error)
    if refused:
        assert path.name in refused or str(tmp_path) in refused
        assert re.search(case.said, refused), refused
        return
    assert any(re.search(case.said, p.kind) for p in tally.problems), tally.problems
    assert all(str(tmp_path) in p.where for p in tally.problems)
    if case.cells is not None:
        dropped = sum(p.action == "dropped" and p.kind not in NOT_CELLS for p in tally.problems)
        assert cells + dropped == case.cells


@pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])
def test_strict_reads_all_or_refuses(tmp_path: Path, case: Case) -> None:
    good_set(tmp_path, case.format).write_bytes(case.content)
    tally = Tally(strict=True)
    refused, cells = "", 0
    try:
        cells = read(tmp_path, case.format, tally)
    except SmearError as error:
        refused = str(error)
    assert refused or case.cells in (cells, None)
    assert not any(p.action == "dropped" for p in tally.problems)


WORDS = [
    b"",
    b"-",
    b"nan",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\n",
    b"\x00",
    b"\xff",
    b",",
    b";",
    b"<",
    b"&",
    b"1e999",
    b"9",
]
BITE = st.tuples(
    st.floats(0, 1), st.integers(0, 12), st.one_of(st.sampled_from(WORDS), st.binary(max_size=4)), st.booleans()
)


@given(kind=st.sampled_from([*DAMAGED]), bites=st.lists(BITE, min_size=1, max_size=4))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, bites: list[tuple[float, int, bytes, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = good_set(folder, kind)
    content = path.read_bytes()
    for place, length, new, twice in bites:
        at = int(place * len(content))
        content = content[:at] + (content[at : at + length] if twice else b"") + new + content[at + length :]
    path.write_bytes(content)
    tally, refused, cells = Tally(), "", 0
    try:
        cells = read(folder, kind, tally)
    except SmearError as error:
        refused = str(error)
    assert bool(refused) or cells >= 0
    assert str(folder) in refused or not refused
    assert cells == tally.read["cells"] or refused
