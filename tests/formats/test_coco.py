"""COCO files: faults counted, nothing lost on the way back, readable by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO

from detect.errors import FormatError
from detect.formats import coco, masks
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests import data

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))


def read(faulty: data.Faulty, tally: Tally) -> Dataset:
    return coco.read(faulty.labels, faulty.fields[0].path.parent, faulty.class_map, tally)


def read_content(folder: Path, tally: Tally, **changed: Any) -> Dataset:
    """Records of a small good file, with some of its lists changed."""
    content: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": [{"id": 3, "name": "WBC"}],
        "annotations": [data.coco_row(1)],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps({**content, **changed}))
    return coco.read(path, folder, None, tally)


def test_every_fault_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    faulty = data.faulty_coco(tmp_path)
    tally = Tally()
    made = read(faulty, tally)
    assert tally.counts() == faulty.expected
    assert tally.read == {"fields": 2, "cells": faulty.cells}
    first, second = (f.annotations for f in made.fields)
    assert first.ids == (11, 12)
    np.testing.assert_array_equal(first.boxes, [[10, 10, 30, 40]] * 2)
    assert first.labels.tolist() == [0, 1]
    assert first.crowd.tolist() == [False, True]
    assert first.extra[0]["reader"] == "A"
    assert made.fields[0].extra == {"id": 5, "stain": "Giemsa"}
    assert second.masks == (None, None)


def test_masks_are_read_in_every_form(tmp_path: Path) -> None:
    made = read(data.faulty_coco(tmp_path), Tally())
    polygon, runs = (rle.decode(m) for m in made.fields[0].annotations.masks)
    assert polygon.sum() == 20 * 30
    assert polygon[10:40, 10:30].all()
    assert runs.T.ravel().nonzero()[0].tolist() == list(range(100, 150))


def test_strict_stops_at_the_first_drop(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="category id used twice"):
        read(data.faulty_coco(tmp_path), Tally(strict=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"images": [],\n "annotations": [}', r"labels\.json:2: not valid JSON"),
        (b'{"images": [], "annotations": []}', "no list 'categories'"),
        (b'{"images": {}, "annotations": [], "categories": []}', "no list 'images'"),
        (b"[1, 2]", "no list 'images'"),
        (b"", "not valid JSON"),
        (b'{"images": "\xff"}', "not UTF-8"),
    ],
)
def test_files_that_are_no_coco(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=said):
        coco.read(path, tmp_path, None, Tally())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        coco.read(tmp_path / "none.json", tmp_path, None, Tally())


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_an_entry_that_is_no_mapping_is_counted_or_refused_not_a_crash(tmp_path: Path, key: str) -> None:
    tally = Tally()
    refused = ""
    try:
        read_content(tmp_path, tally, **{key: ["cell", 7, None]})
    except FormatError as error:
        refused = str(error)
    assert "labels.json" in refused or tally.problems


@pytest.mark.parametrize("number", ["a17", None], ids=str)
def test_an_annotation_id_that_is_no_number_is_counted_or_refused_not_a_crash(tmp_path: Path, number: Any) -> None:
    tally = Tally()
    refused = ""
    try:
        read_content(tmp_path, tally, annotations=[data.coco_row(number), data.coco_row(2)])
    except FormatError as error:
        refused = str(error)
    assert "labels.json" in refused or tally.problems


def test_image_ids_that_are_words_are_kept(tmp_path: Path) -> None:
    image = {"id": "f1", "file_name": "a.png", "width": 100, "height": 80}
    made = read_content(tmp_path, Tally(), images=[image], annotations=[data.coco_row(1, image="f1")])
    content = coco.to_dict(made)
    assert content["images"][0]["id"] == content["annotations"][0]["image_id"] == "f1"


def test_windows_paths_and_a_byte_order_mark(tmp_path: Path) -> None:
    image = {"id": 5, "file_name": "slide\\a.png", "width": 100, "height": 80}
    made = read_content(tmp_path, Tally(), images=[image])
    assert (made.fields[0].field.id, made.fields[0].field.slide) == ("slide/a.png", "slide")
    path = tmp_path / "labels.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(coco.read(path, tmp_path, None, Tally())) == 1


LARGE = rle.encode(np.ones((200, 200), np.uint8, order="F"))["counts"].decode()


@pytest.mark.parametrize("counts", ["!!!!", "äö", LARGE], ids=["no runs", "no ascii", "runs beyond the mask"])
def test_a_mask_that_cannot_be_decoded_is_counted(tmp_path: Path, counts: str) -> None:
    tally = Tally()
    row = data.coco_row(1, segmentation={"size": [80, 100], "counts": counts})
    made = read_content(tmp_path, tally, annotations=[row])
    assert made.fields[0].annotations.masks == (None,)
    assert tally.counts() == {"mask cannot be read, dropped": 1}


@given(counts=st.text(st.characters(min_codepoint=47, max_codepoint=112), max_size=12))
def test_any_compressed_text_is_a_mask_of_its_field_or_counted(
    tmp_path_factory: pytest.TempPathFactory, counts: str
) -> None:
    assume(counts)
    tally = Tally()
    row = data.coco_row(1, segmentation={"size": [80, 100], "counts": counts})
    (mask,) = read_content(tmp_path_factory.mktemp("runs"), tally, annotations=[row]).fields[0].annotations.masks
    if mask is None:
        assert tally.counts() == {"mask cannot be read, dropped": 1}
    else:
        assert rle.decode(mask).shape == (80, 100)
        assert masks.run_lengths(mask["counts"]).sum() == 80 * 100


@given(seed=st.integers(0, 10_000), by=st.integers(-8000, 8000).filter(bool))
def test_compressed_runs_that_do_not_fill_the_field_are_counted(
    tmp_path_factory: pytest.TempPathFactory, seed: int, by: int
) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.random((80, 100)) < rng.random()
    whole = np.diff(np.flatnonzero(np.diff(drawn.T.ravel(), prepend=False, append=not drawn[-1, -1])), prepend=0)
    wrong = [int(n) for n in whole]
    wrong[-1] = max(0, wrong[-1] + by)
    assume(sum(wrong) != 8000)
    segmentation = rle.frPyObjects({"size": [80, 100], "counts": wrong}, 80, 100)
    segmentation["counts"] = segmentation["counts"].decode()
    tally = Tally()
    row = data.coco_row(1, segmentation=segmentation)
    made = read_content(tmp_path_factory.mktemp("runs"), tally, annotations=[row])
    assert made.fields[0].annotations.masks == (None,)
    assert len(made.fields[0].annotations) == 1  # the box is kept
    assert tally.counts() == {"mask cannot be read, dropped": 1}
    assert "segmentation" not in coco.to_dict(made)["annotations"][0]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mask_of_another_size_than_its_field_is_counted(tmp_path: Path, compressed: bool) -> None:
    tally = Tally()
    counts = LARGE if compressed else [0, 40_000]
    row = data.coco_row(1, segmentation={"size": [200, 200], "counts": counts})
    made = read_content(tmp_path, tally, annotations=[row])
    assert made.fields[0].annotations.masks == (None,)  # masks are in field coordinates, 100 x 80 here
    assert [p.action for p in tally.problems] == ["dropped"]


def random_dataset(seed: int) -> Dataset:
    """Fields with boxes on quarter pixels, gaps in the ids, crowds, extras and masks."""
    rng = np.random.default_rng(seed)
    fields, number = [], 10
    for name in ("s1/a.jpg", "s1/b.jpg", "s2/c.jpg"):
        n = int(rng.integers(0, 5))
        corner = rng.integers(0, 200, (n, 2)) / 4
        boxes = np.concatenate([corner, corner + rng.integers(4, 100, (n, 2)) / 4], axis=1)
        masks = []
        for x0, y0, x1, y1 in boxes.round().astype(int):
            drawn = np.zeros((80, 100), np.uint8, order="F")
            drawn[y0:y1, x0:x1] = 1
            masks.append(rle.encode(drawn) if rng.random() < 0.5 else None)
        ids = [number := number + int(rng.integers(1, 9)) for _ in range(n)]
        labels, crowd = rng.integers(0, 3, n), rng.random(n) < 0.3
        extra = [{"reader": f"r{i}"} for i in ids]
        cells = Annotations.of(boxes, labels, ids=ids, crowd=crowd, extra=extra, masks=masks)
        number += 1
        field = Field(name, name[:2], Path("images") / name, 100, 80)
        fields.append(LabelledField(field, cells, {"id": number, "stain": "MGG"}))
    return Dataset("tiny", Path("images"), CLASSES, tuple(fields), frozenset(CLASSES.names))


@given(seed=st.integers(0, 10_000))
def test_records_to_coco_and_back_lose_nothing(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    made = random_dataset(seed)
    path = tmp_path_factory.mktemp("coco") / "tiny.json"
    coco.write(made, path)
    tally = Tally()
    back = coco.read(path, Path("images"), None, tally)
    assert tally.counts() == {}
    assert back.classes == made.classes
    assert [f.field for f in back.fields] == [f.field for f in made.fields]
    for one, other in zip(back.fields, made.fields, strict=True):
        assert one.extra == other.extra
        np.testing.assert_array_equal(one.annotations.boxes, other.annotations.boxes)
        np.testing.assert_array_equal(one.annotations.labels, other.annotations.labels)
        np.testing.assert_array_equal(one.annotations.crowd, other.annotations.crowd)
        assert one.annotations.ids == other.annotations.ids
        assert one.annotations.masks == other.annotations.masks
        assert [e["reader"] for e in one.annotations.extra] == [e["reader"] for e in other.annotations.extra]


@given(seed=st.integers(0, 10_000))
def test_pycocotools_reads_what_we_write(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    made = random_dataset(seed)
    path = tmp_path_factory.mktemp("coco") / "tiny.json"
    coco.write(made, path)
    theirs = COCO(str(path))
    assert [c["name"] for c in theirs.loadCats(theirs.getCatIds())] == list(CLASSES.names)
    assert len(theirs.getImgIds()) == len(made)
    for labelled in made.fields:
        rows = theirs.loadAnns(theirs.getAnnIds(imgIds=[labelled.extra["id"]], iscrowd=None))
        assert [r["id"] for r in rows] == list(labelled.annotations.ids)
        for i, row in enumerate(rows):
            assert theirs.cats[row["category_id"]]["name"] == CLASSES.names[labelled.annotations.labels[i]]
            mask = labelled.annotations.masks[i]
            x0, y0, x1, y1 = labelled.annotations.boxes[i].astype(float)
            area = (x1 - x0) * (y1 - y0) if mask is None else rle.area(mask)
            assert row["area"] == pytest.approx(area, abs=1e-3)  # three decimals
            if mask is not None:
                np.testing.assert_array_equal(theirs.annToMask(row), rle.decode(mask))


def test_a_file_read_and_written_twice_stays_the_same(tmp_path: Path) -> None:
    made = read(data.faulty_coco(tmp_path), Tally())
    coco.write(made, tmp_path / "one" / "a.json")
    again = coco.read(tmp_path / "one" / "a.json", tmp_path, None, Tally())
    coco.write(again, tmp_path / "two" / "a.json")
    assert (tmp_path / "one" / "a.json").read_bytes() == (tmp_path / "two" / "a.json").read_bytes()


def test_ids_that_are_used_twice_are_numbered_anew() -> None:
    fields = [
        LabelledField(Field(f"{n}.jpg", "s", Path(f"{n}.jpg"), 100, 80), Annotations.of([[1, 2, 3, 4]], [0], ids=[7]))
        for n in "ab"
    ]
    content = coco.to_dict(Dataset("tiny", Path(), CLASSES, tuple(fields), frozenset()))
    assert [a["id"] for a in content["annotations"]] == [1, 2]
    assert [a["image_id"] for a in content["annotations"]] == [i["id"] for i in content["images"]] == [1, 2]


def test_nothing_is_invented() -> None:
    assert set(coco.to_dict(random_dataset(1))) == {"images", "annotations", "categories"}
