"""CSV: ours there and back, the shapes that are found in the field, and rows that cannot be what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.errors import FormatError
from detect.formats import table
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))
SAME = {name: name for name in CLASSES}
FIELD = Field("a.png", ".", Path("a.png"), 100, 80)
OURS = "field,width,height,id,label,x0,y0,x1,y1,crowd"


def read(path: Path, tally: Tally, *fields: Field) -> list[LabelledField]:
    return table.read(path, {f.id: f for f in fields or (FIELD,)}, SAME, CLASSES, tally)


def read_text(folder: Path, text: str, tally: Tally) -> Annotations:
    """The cells of `a.png` in a file of this text."""
    path = folder / "labels.csv"
    path.write_text(text, "utf-8", newline="")
    return read(path, tally)[0].annotations


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), max_size=12)
CELL = st.tuples(
    *[st.integers(0, 30_000)] * 2, *[st.integers(1, 30_000)] * 2, st.integers(0, 2), st.booleans(), WORDS, WORDS
)


@given(cells=st.lists(st.lists(CELL, max_size=6), min_size=1, max_size=3), start=st.integers(-5, 10**9))
def test_records_to_csv_and_back_are_equal(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[tuple[int, ...]]], start: int
) -> None:
    fields = []
    for n, mine in enumerate(cells):
        unique = {(c[4], *c[:4]): c for c in mine}.values()  # a repeated box is dropped, which is tested below
        boxes = [[x / 1000, y / 1000, (x + w) / 1000, (y + h) / 1000] for x, y, w, h, *_ in unique]
        ids = [start + 7 * i for i in range(len(boxes))]
        extra = [{"reader": c[6], "a note": f'{c[7]}, "so"\nhe said'} for c in unique]
        crowd = [c[5] for c in unique]
        made = Annotations.of(boxes, [c[4] for c in unique], ids=ids, crowd=crowd, extra=extra)
        start += 7 * len(boxes)
        fields.append(LabelledField(Field(f"s 1/ä,{n}.png", "s 1", Path(f"{n}.png"), 100, 80), made))
    path = tmp_path_factory.mktemp("csv") / "tiny.csv"
    table.write(Dataset("tiny", Path(), CLASSES, tuple(fields), frozenset()), path)
    tally = Tally()
    back = read(path, tally, *(f.field for f in fields))
    assert tally.counts() == {}
    assert [f.field for f in back] == [f.field for f in fields]
    for one, other in zip((f.annotations for f in back), (f.annotations for f in fields), strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.crowd, other.crowd)
        assert (one.ids, one.extra) == (other.ids, other.extra)


TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,100,80,WBC,10,20,30,40\n"
BCCD = "image,xmin,ymin,xmax,ymax,label\na.png,10,20,30,40,WBC\n"


@pytest.mark.parametrize(
    "text",
    [
        TENSORFLOW,
        BCCD,
        f"{OURS}\na.png,100,80,1,WBC,10,20,30,40,0\n",
        "Image_Path,Cell_Type,X_Min,Y_Min,X_Max,Y_Max\na.png,WBC,10,20,30,40\n",
        BCCD.replace(",", ";"),
        BCCD.replace(",", "\t"),
        BCCD.replace("\n", "\r\n"),
        "\ufeff" + BCCD,
        BCCD.replace(",", " , "),
        BCCD.replace("a.png", '"a.png"'),
        BCCD.rstrip("\n"),
    ],
    ids=["tensorflow", "bccd", "ours", "case", "semicolons", "tabs", "crlf", "bom", "spaces", "quotes", "no end"],
)
def test_shapes_that_are_found_in_the_field(tmp_path: Path, text: str) -> None:
    tally = Tally()
    cells = read_text(tmp_path, text, tally)
    assert cells.boxes.tolist() == [[10, 20, 30, 40]]
    assert cells.labels.tolist() == [0]
    assert tally.counts() == {}


def test_line_ends_of_an_old_mac_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(BCCD.replace("\n", "\r").encode())
    said, cells = "", 0
    try:
        cells = len(read(path, Tally())[0].annotations)
    except FormatError as error:
        said = str(error)
    assert cells == 1 or "labels.csv" in said


def test_a_field_without_cells_is_a_row(tmp_path: Path) -> None:
    tally = Tally()
    assert len(read_text(tmp_path, f"{OURS}\na.png,100,80,,,,,,,\n", tally)) == 0
    assert tally.counts() == {}
    assert tally.read == {"fields": 1, "cells": 0}


def test_every_fault_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = [
        "a.png,100,80,1,WBC,10,20,30,40,0",
        "a.png,100,80,2,WBC,10,20,30,40,0",
        "a.png,100,80,3,wbc,11,20,30,40,1",
        "a.png,100,80,4,Ghost,10,20,30,40,0",
        "a.png,100,80,5,WBC,ten,20,30,40,0",
        "a.png,100,80,6,WBC,10,20,nan,40,0",
        "a.png,100,80,7,WBC,10,20,10,40,0",
        "a.png,100,80,8,WBC,110,20,130,40,0",
        "a.png,100,80,9,RBC,90,20,130,40,0",
        "b.png,100,80,10,RBC,90,20,130,40,0",
        "a.png,100,80,11,RBC,90,20",
    ]
    tally = Tally()
    cells = read_text(tmp_path, "\n".join([OURS, *rows]), tally)
    assert tally.counts() == {
        "repeated box, dropped": 1,
        "case variant of a label, repaired": 1,
        "unknown label, dropped": 1,
        "not a number, dropped": 2,
        "not a finite number, dropped": 1,
        "box without area, dropped": 1,
        "box outside the field, dropped": 1,
        "box oversteps the field, repaired": 1,
        "annotation without an image, dropped": 1,
    }
    assert cells.boxes.tolist() == [[10, 20, 30, 40], [11, 20, 30, 40], [90, 20, 100, 40]]
    assert cells.ids == (1, 3, 9)
    assert cells.crowd.tolist() == [False, True, False]
    assert {p.kind: p.where for p in tally.problems}["repeated box"].endswith("labels.csv:3")


def test_problems_name_the_line_of_the_file(tmp_path: Path) -> None:
    tally = Tally()
    note = 'a.png,10,20,30,40,WBC,"two\nlines"'
    read_text(tmp_path, f"image,xmin,ymin,xmax,ymax,label,note\n\n{note}\na.png,ten,20,30,40,WBC,\n", tally)
    assert [p.where.rpartition(":")[2] for p in tally.problems] == ["5"]


def test_a_row_with_more_cells_than_the_header_is_named(tmp_path: Path) -> None:
    tally = Tally()
    # A decimal comma: read as it stands, the box would lie elsewhere.
    cells = read_text(tmp_path, TENSORFLOW + "a.png,100,80,WBC,10,5,20,7,30,5,40,2\n", tally)
    assert cells.boxes.tolist() == [[10, 20, 30, 40]]
    assert [p.action for p in tally.problems] == ["dropped"]
    assert tally.problems[0].where.endswith("labels.csv:3")


@pytest.mark.parametrize("name", ["label", "field", "x0", "crowd"])
def test_what_a_source_calls_as_we_call_ours_does_not_replace_it(tmp_path: Path, name: str) -> None:
    cells = Annotations.of([[10, 20, 30, 40]], [0], extra=[{name: "RBC", "reader": "A"}])
    path = tmp_path / "tiny.csv"
    table.write(Dataset("tiny", Path(), CLASSES, (LabelledField(FIELD, cells),), frozenset()), path)
    tally = Tally()
    back = read(path, tally)[0].annotations
    assert tally.counts() == {}
    assert back.boxes.tolist() == [[10, 20, 30, 40]]
    assert back.labels.tolist() == [0]
    assert back.crowd.tolist() == [False]
    assert back.extra[0]["reader"] == "A"


@pytest.mark.parametrize("number", ["²", "--5", "9" * 5000, "1.0", "x7"])
def test_an_id_that_is_no_whole_number_is_no_crash(tmp_path: Path, number: str) -> None:
    tally = Tally()
    cells = read_text(tmp_path, f"{OURS}\na.png,100,80,{number},WBC,10,20,30,40,0\n", tally)
    assert cells.boxes.tolist() == [[10, 20, 30, 40]]


def test_strict_stops_at_the_first_drop(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"labels\.csv:3: box without area"):
        read_text(tmp_path, BCCD + "a.png,10,20,10,40,WBC\na.png,1,2,3,4,Ghost\n", Tally(strict=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"\xff\xfeimage", "not UTF-8"),
        (b"image,xmin,ymin,xmax,ymax\n", "no column for 'label'"),
        (b"a.png,10,20,30,40,WBC\n", "no column for 'field'"),
        (b'image,xmin,ymin,xmax,ymax,label\n"' + b"a" * 200_000, "longer|limit|CSV"),
    ],
    ids=["empty", "utf-16", "column missing", "no header", "quote never closed"],
)
def test_files_that_are_no_table_of_cells(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=said) as caught:
        read(path, Tally())
    assert "labels.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "kinds"),
    [
        ("100,80", []),
        ("100.0,80", []),
        (",", []),
        ("0,0", []),
        ("200,160", ["wrong size"]),
        ("80,100", ["labels ignore the EXIF rotation"]),
        ("wide,80", ["no size"]),
        ("inf,80", ["no size"]),
        ("100,", ["no size"]),
    ],
)
@pytest.mark.parametrize("columns", ["width,height", "Width,HEIGHT"])
def test_a_size_that_is_not_the_images_is_named_once_a_field(
    tmp_path: Path, size: str, kinds: list[str], columns: str
) -> None:
    rows = "".join(f"a.png,{size},{n},WBC,{n},2,30,40,0\n" for n in (1, 2))
    tally = Tally()
    cells = read_text(tmp_path, f"field,{columns},id,label,x0,y0,x1,y1,crowd\n{rows}", tally)
    assert [(p.kind, p.action) for p in tally.problems] == [(k, "noted") for k in kinds]
    assert all("labels.csv:2" in p.where and "a.png" in p.detail for p in tally.problems)
    assert cells.boxes.tolist() == [[1, 2, 30, 40], [2, 2, 30, 40]]  # as they stand
    assert cells.extra == ({}, {})
