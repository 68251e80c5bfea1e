"""VOC files: faults counted, sizes repaired, and files of other encodings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detect.errors import FormatError
from detect.formats import voc
from detect.formats.tally import Tally
from detect.types import ClassMap, Field, LabelledField
from tests import data

CLASSES = ClassMap(("WBC", "RBC"))
SAME = {"WBC": "WBC", "RBC": "RBC"}


def read(faulty: data.Faulty, tally: Tally) -> list[LabelledField]:
    return voc.read(faulty.fields, faulty.labels, faulty.class_map, ClassMap(faulty.classes), tally)


def read_one(folder: Path, tally: Tally) -> list[LabelledField]:
    """The records of `a.xml` for a field of 100 x 80."""
    return voc.read([Field("a.jpg", "s", folder / "a.jpg", 100, 80)], folder, SAME, CLASSES, tally)


def test_every_fault_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    faulty = data.faulty_voc(tmp_path)
    tally = Tally()
    records = read(faulty, tally)
    assert tally.counts() == faulty.expected
    assert tally.read == {"fields": 4, "cells": faulty.cells}
    by_stem = {r.field.path.stem: r.annotations for r in records}
    assert sorted(by_stem) == ["double", "faults", "none", "sizeless"]
    faults = by_stem["faults"]
    np.testing.assert_array_equal(faults.boxes, [[10, 10, 50, 60], [20, 20, 60, 70], [80, 10, 100, 60]])
    assert faults.labels.tolist() == [0, 0, 1]
    assert faults.ids == (1, 3, 6)
    assert faults.extra[0] == {"difficult": "1"}
    assert len(by_stem["none"]) == 0


def test_boxes_for_another_size_are_scaled(tmp_path: Path) -> None:
    records = read(data.faulty_voc(tmp_path), Tally())
    (scaled,) = (r.annotations.boxes for r in records if r.field.path.stem == "double")
    np.testing.assert_allclose(scaled, [[10, 20, 30, 40]])


def test_problems_name_the_file_and_object(tmp_path: Path) -> None:
    faulty = data.faulty_voc(tmp_path)
    tally = Tally()
    read(faulty, tally)
    where = {p.kind: p.where for p in tally.problems}
    assert where["box without area"] == f"{faulty.labels / 'faults.xml'}: object 4"
    assert where["not valid XML"] == f"{faulty.labels / 'broken.xml'}:3"


def test_strict_stops_at_the_first_drop(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"faults\.xml: object 2: repeated box"):
        read(data.faulty_voc(tmp_path), Tally(strict=True))


def test_no_folder_of_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such folder of labels"):
        voc.read([], tmp_path / "none", SAME, CLASSES, Tally())


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-16"])
def test_encodings_that_xml_knows(tmp_path: Path, encoding: str) -> None:
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    data.voc_file(tmp_path / "a.xml", data.voc_object("WBC", 1, 2, 3, 4, more="<pose>schräg</pose>"), head=head)
    text = (tmp_path / "a.xml").read_text("utf-8")
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    tally = Tally()
    (record,) = read_one(tmp_path, tally)
    assert record.annotations.extra[0] == {"pose": "schräg"}
    assert tally.counts() == {}


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "no-such"])
def test_an_encoding_that_xml_does_not_know_is_counted_not_a_crash(tmp_path: Path, encoding: str) -> None:
    data.voc_file(tmp_path / "a.xml", head=f'<?xml version="1.0" encoding="{encoding}"?>')
    tally = Tally()
    records = read_one(tmp_path, tally)
    assert len(tally.problems) == 1 or len(records) == 1
    assert all("a.xml" in p.where for p in tally.problems)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_a_corner_that_is_not_finite_is_dropped(tmp_path: Path, value: str) -> None:
    data.voc_file(tmp_path / "a.xml", data.voc_object("WBC", 1, 2, value, 40), data.voc_object("RBC", 1, 2, 3, 4))
    tally = Tally()
    (record,) = read_one(tmp_path, tally)
    assert record.annotations.boxes.tolist() == [[1, 2, 3, 4]]
    assert [p.action for p in tally.problems] == ["dropped"]


def test_names_in_the_file_are_not_trusted_for_paths(tmp_path: Path) -> None:
    data.voc_file(tmp_path / "a.xml", "<path>C:\\other\\machine.jpg</path><filename>b.jpg</filename>")
    (record,) = read_one(tmp_path, Tally())
    assert record.field.path == tmp_path / "a.jpg"


def test_a_bomb_of_entities_ends_quickly(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "cell">{levels}]><annotation><name>&e11;</name></annotation>'
    (tmp_path / "a.xml").write_text(bomb)
    tally = Tally()
    assert read_one(tmp_path, tally) == []
    assert tally.counts() == {"not valid XML, dropped": 1}
