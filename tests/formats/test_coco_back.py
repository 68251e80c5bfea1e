"""What a COCO file said comes back as it was given, whatever we do with the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.formats import coco
from detect.formats.tally import Tally
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests import data
from tests.formats.test_coco import read_content

CATEGORIES = [
    {"id": 90, "name": "RBC", "supercategory": "blood", "color": [255, 0, 0]},
    {"supercategory": "", "id": 7, "name": "WBC", "keypoints": ["nucleus"], "skeleton": [[1, 1]]},
    {"id": 12, "name": "Platelet"},  # which no annotation uses
]


TOP = {"info": {"year": 2024, "url": None}, "licenses": [{"id": 4, "name": "CC0"}], "x-tool": {"a": [1, 2]}}


def back_of(made: Dataset) -> dict[str, Any]:
    """What `made` is written as, through JSON."""
    content: dict[str, Any] = json.loads(json.dumps(coco.to_dict(made)))
    return content


def test_categories_and_whatever_else_the_file_says_come_back_unchanged(tmp_path: Path) -> None:
    rows = [data.coco_row(1, category=7), data.coco_row(2, category=90)]
    made = read_content(tmp_path, Tally(), categories=CATEGORIES, annotations=rows, **TOP)
    content = back_of(replace(made, name="another"))
    assert content["categories"] == CATEGORIES
    assert {k: content[k] for k in TOP} == TOP
    assert [a["category_id"] for a in content["annotations"]] == [7, 90]
    coco.write(made, tmp_path / "again.json")
    assert coco.read(tmp_path / "again.json", tmp_path, None, Tally()).extra == made.extra


@given(
    ids=st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True),
    classes=st.permutations(["WBC", "RBC", "Platelet", "Other"]),
    gone=st.integers(0, 6),
)
def test_category_ids_are_kept_and_new_ones_collide_with_none(ids: list[int], classes: list[str], gone: int) -> None:
    given_names = ["WBC", "RBC", "Platelet", "A", "B", "C"]
    categories = [{"id": i, "name": n, "supercategory": f"of {n}"} for i, n in zip(ids, given_names, strict=False)]
    known = ClassMap(tuple(classes))
    cells = Annotations.of([[1, 2, 3, 4]] * 4, range(4))
    field = LabelledField(Field("a.png", "s", Path("a.png"), 100, 80), cells)
    content = coco.to_dict(
        Dataset("tiny", Path(), known, (field,), frozenset(), {"categories": categories[: len(categories) - gone]})
    )
    kept = [c for c in categories[: max(0, len(categories) - gone)] if c["name"] in classes]
    assert content["categories"][: len(kept)] == kept
    by_id = {c["id"]: c["name"] for c in content["categories"]}
    assert len(by_id) == len(content["categories"])
    assert [by_id[a["category_id"]] for a in content["annotations"]] == classes


def test_a_class_under_another_name_keeps_what_is_still_true(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    categories = [*CATEGORIES, {"id": 3, "name": "Band", "supercategory": "WBC"}]
    categories += [{"id": 5, "name": "Segmented", "supercategory": "WBC", "color": "red"}, {"id": 99, "name": "Ghost"}]
    rows = [data.coco_row(n, category=i) for n, i in enumerate((3, 5, 12, 90), 1)]
    read_content(tmp_path, Tally(), categories=categories, annotations=rows)
    class_map = {"RBC": "RBC", "Platelet": "PLT", "Band": "Neutrophil", "Segmented": "Neutrophil"}
    content = back_of(coco.read(path, tmp_path, class_map, Tally()))
    assert content["categories"] == [
        CATEGORIES[0],
        {"id": 12, "name": "PLT"},
        {"id": 91, "supercategory": "WBC", "name": "Neutrophil"},  # two became one: an id of its own
    ]
    assert [a["category_id"] for a in content["annotations"]] == [91, 91, 12, 90]


def test_two_categories_of_one_name_are_told(tmp_path: Path) -> None:
    tally = Tally()
    rows = [data.coco_row(1, category=3), data.coco_row(2, category=8)]
    twice = [{"id": 3, "name": "WBC"}, {"id": 8, "name": "WBC", "supercategory": "other"}]
    made = read_content(tmp_path, tally, categories=twice, annotations=rows)
    assert tally.counts() == {"category name used twice, repaired": 1}
    assert "category 8" in tally.problems[0].where
    assert "'WBC', as of category 3" in tally.problems[0].detail
    assert {a["category_id"] for a in back_of(made)["annotations"]} == {3}


OUTLINE = [[10.25, 10, 30, 10.5, 30, 40, 10, 40.125], [12, 12, 14, 12, 14, 14]]


@pytest.mark.parametrize("area", [598.4375, 1, 0], ids=str)
@pytest.mark.parametrize("outline", [OUTLINE, [], None], ids=["outline", "no outline", "nothing"])
def test_outlines_and_areas_come_back_as_they_were_given(tmp_path: Path, area: float, outline: Any) -> None:
    more = {} if outline is None else {"segmentation": outline}
    made = read_content(tmp_path, Tally(), annotations=[data.coco_row(1, area=area, **more)])
    (row,) = back_of(made)["annotations"]
    assert row["area"] == area
    assert row.get("segmentation") == outline


@pytest.mark.parametrize(
    ("changed", "area"),
    [
        ({"bbox": [90, 10, 20, 30], "area": 600}, 300),  # cut at the border
        ({"area": None}, 600),
        ({"area": "600"}, 600),
        ({"area": 7, "segmentation": [[1, 2]]}, 600),  # the outline that it was taken from is dropped
    ],
    ids=["box over the border", "null", "text", "outline dropped"],
)
def test_the_area_of_a_repaired_cell_is_ours(tmp_path: Path, changed: dict[str, Any], area: float) -> None:
    tally = Tally()
    made = read_content(tmp_path, tally, annotations=[data.coco_row(1, **changed)])
    assert back_of(made)["annotations"][0]["area"] == area
    assert tally.problems


def test_an_area_that_follows_from_the_box_is_no_further_field(tmp_path: Path) -> None:
    made = read_content(tmp_path, Tally(), annotations=[data.coco_row(1, area=600)])
    assert made.fields[0].annotations.extra == ({},)


def test_a_box_of_many_decimals_comes_back_as_it_was_written(tmp_path: Path) -> None:
    said = [10.123456789, 10.5, 20.000049, 30.25]
    made = read_content(tmp_path, Tally(), annotations=[data.coco_row(1, bbox=said, area=605.1)])
    assert back_of(made)["annotations"][0]["bbox"] == said
    labelled = made.fields[0]
    moved = replace(labelled.annotations, boxes=labelled.annotations.boxes + 1)
    row = back_of(replace(made, fields=(replace(labelled, annotations=moved),)))["annotations"][0]
    assert row["bbox"] == pytest.approx([11.123, 11.5, 20.0, 30.25], abs=2e-3)


@pytest.mark.parametrize("said", [[-0.4, 10, 20.4, 20], [80.5, 60.25, 20, 20]])
def test_a_box_a_little_over_the_border_comes_back_as_it_was_written(tmp_path: Path, said: list[float]) -> None:
    tally = Tally()
    made = read_content(tmp_path, tally, annotations=[data.coco_row(1, bbox=said, area=400)])
    x0, y0, x1, y1 = made.fields[0].annotations.boxes[0]
    assert x0 >= 0
    assert y0 >= 0
    assert x1 <= 100
    assert y1 <= 80
    assert back_of(made)["annotations"][0]["bbox"] == said
    assert not tally.problems


def test_groups_and_patients_that_we_wrote_are_read_again(tmp_path: Path) -> None:
    image = {"id": 5, "file_name": "a.png", "width": 100, "height": 80, "group": "g7", "patient": "p1", "slide": "s"}
    made = read_content(tmp_path, Tally(), images=[image])
    field = made.fields[0].field
    assert (field.group, field.patient, field.slide) == ("g7", "p1", "s")
    assert back_of(made)["images"][0]["group"] == "g7"
