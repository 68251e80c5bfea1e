"""Edits of one field against its snapshot: found exactly, and nothing else is touched. No database is needed."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("bson", reason="pymongo is not installed")

from detect.review import documents
from detect.review.documents import TRUTH, as_made
from detect.review.edits import Categories, edits
from detect.review.snapshot import Entry, Row

WIDTH, HEIGHT = 640, 480
NAMES = {3: "WBC", 7: "RBC", 9: "Platelet"}
ATTRIBUTES: dict[str, type] = {"doubtful": bool, "comment": str, "focus": float}
NOW = "2026-11-20T12:00:00+00:00"


def cell(identity: int, rng: np.random.Generator) -> Row:
    x, y = rng.uniform(0, WIDTH - 80), rng.uniform(0, HEIGHT - 80)
    w, h = rng.uniform(5, 80, 2)
    row: Row = {"drawn_by": "B", "id": identity, "image_id": 4, "category_id": int(rng.choice([3, 7, 9]))}
    row |= {"bbox": [round(v, 3) for v in (x, y, w, h)], "area": round(w * h, 3), "iscrowd": 0}
    if rng.random() < 0.3:
        row["attributes"] = {"doubtful": True, "comment": "x", "focus": 0.5, "unknown": {"a": 1}}
    return row


def entry(seed: int, n: int = 12) -> Entry:
    rng = np.random.default_rng(seed)
    image = {"id": 4, "file_name": "a/b.png", "width": WIDTH, "height": HEIGHT, "stain": "Giemsa"}
    cells = tuple(cell(5 + 3 * i, rng) for i in range(n))
    return Entry("a/b.png", "train", Path("/x/a/b.png"), "a", None, image, cells)


def document(of: Entry) -> Row:
    """The field as FiftyOne would hold it after it was opened."""
    rows = [documents.truth_cell(c, NAMES[c["category_id"]], WIDTH, HEIGHT, ATTRIBUTES) for c in of.cells]
    return {TRUTH: {"detections": rows}, "last_modified_at": datetime(2026, 11, 20, 9, 30, tzinfo=UTC)}


def categories() -> Categories:
    return Categories([{"id": k, "name": v} for k, v in NAMES.items()], 1000, {}, 9)


def run(of: Entry, row: Row | None) -> Any:
    return edits(of, row, categories(), ATTRIBUTES, "anna", NOW)


def test_nothing_edited_is_nothing_changed() -> None:
    of = entry(1)
    made, changes, problems = run(of, document(of))
    assert made == of
    assert json.dumps(made.cells) == json.dumps(of.cells)
    assert changes == problems == []


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.sampled_from(["label", "box", "delete", "add", "tag", "attribute"]), min_size=1, max_size=9),
)
def test_random_edits_are_found_exactly_and_the_rest_is_untouched(seed: int, kinds: list[str]) -> None:
    of = entry(seed)
    rng = np.random.default_rng(seed + 1)
    row = document(of)
    cells = row[TRUTH]["detections"]
    free = list(rng.permutation(len(of.cells)))
    expected: dict[int, Row | None] = {c["id"]: copy.deepcopy(c) for c in of.cells}
    what: dict[int, str] = {}
    added = []
    for kind in kinds:
        if kind == "add":
            box = [round(float(v), 4) for v in (rng.uniform(0, 0.8), rng.uniform(0, 0.8), rng.uniform(0.02, 0.2), 0.1)]
            new = documents.cell("Eosinophil" if rng.random() < 0.5 else "WBC", (0, 0, 9, 9), WIDTH, HEIGHT)
            cells.append(new | {"bounding_box": box})
            pixels = [box[0] * WIDTH, box[1] * HEIGHT, box[2] * WIDTH, box[3] * HEIGHT]
            added.append((new["label"], [round(v, 3) for v in pixels]))
            continue
        at = int(free.pop())
        told = of.cells[at]
        there = (
            next(c for c in cells if c["cell"] == str(told["id"]))
            if any(c.get("cell") == str(told["id"]) for c in cells)
            else None
        )
        assert there is not None
        after = expected[told["id"]]
        assert after is not None
        what[told["id"]] = {
            "label": "label",
            "box": "box",
            "delete": "deleted",
            "tag": "tags",
            "attribute": "attributes",
        }[kind]
        if kind == "label":
            there["label"] = next(n for n in NAMES.values() if n != there["label"])
            after["category_id"] = next(k for k, n in NAMES.items() if n == there["label"])
        elif kind == "box":
            box = [
                float(v)
                for v in (rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0.02, 0.4), rng.uniform(0.02, 0.4))
            ]
            there["bounding_box"] = box
            x, y, w, h = box[0] * WIDTH, box[1] * HEIGHT, box[2] * WIDTH, box[3] * HEIGHT
            after |= {"bbox": [round(v, 3) for v in (x, y, min(x + w, WIDTH) - x, min(y + h, HEIGHT) - y)]}
            after["area"] = round((min(x + w, WIDTH) - x) * (min(y + h, HEIGHT) - y), 3)
        elif kind == "delete":
            cells.remove(there)
            expected[told["id"]] = None
        elif kind == "tag":
            there["tags"] = ["look again"]
            after["tags"] = ["look again"]
        else:
            there["comment"] = "new"
            after["attributes"] = {**told.get("attributes", {}), "comment": "new"}
    made, changes, problems = run(of, row)
    assert problems == []
    kept = {c["id"]: c for c in made.cells}
    for identity, after in expected.items():
        assert kept.get(identity) == after, what.get(identity)
        if identity not in what:  # untouched: the very bytes
            assert json.dumps(kept[identity]) == json.dumps(next(c for c in of.cells if c["id"] == identity))
    news = [c for c in made.cells if c["id"] > 1000]
    assert [c["bbox"] for c in news] == [box for _, box in added]
    assert {c.cell: c.what for c in changes if c.before is not None} == {k: (v,) for k, v in what.items()}
    assert sum(c.what == ("added",) for c in changes) == len(added)
    assert {c.who for c in changes} <= {"anna"}
    assert {c.when for c in changes} <= {"2026-11-20T09:30:00.000+00:00"}


def test_a_field_that_was_removed_is_said_to_be() -> None:
    made, changes, _ = run(entry(1), None)
    assert made is None
    assert [(c.cell, c.what, c.after) for c in changes] == [(None, ("field removed",), None)]


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([0.2, 0.2, 0.0, 0.1], "box without area"),
        ([1.2, 0.2, 0.1, 0.1], "box outside the field"),
        ([0.2, float("nan"), 0.1, 0.1], "not a box"),
    ],
)
def test_a_box_that_cannot_be_kept_is_a_problem_and_the_old_one_stays(box: list[float], said: str) -> None:
    of = entry(1)
    row = document(of)
    row[TRUTH]["detections"][2]["bounding_box"] = box
    made, changes, problems = run(of, row)
    assert made.cells == of.cells
    assert changes == []
    assert [p.cell for p in problems] == [str(of.cells[2]["id"])]
    assert said in problems[0].what


def test_a_box_over_the_border_is_cut() -> None:
    of = entry(1)
    row = document(of)
    row[TRUTH]["detections"][0]["bounding_box"] = [-0.1, 0.9, 0.3, 0.3]
    made, *_ = run(of, row)
    assert made.cells[0]["bbox"] == pytest.approx([0, 432, 128, 48])


def test_machine_made_cells_are_not_exported_until_a_person_says_so() -> None:
    of = entry(1, 2)
    row = document(of)
    made = [documents.cell("WBC", (10 + 50 * i, 10, 40, 40), WIDTH, HEIGHT) | {"machine": True} for i in range(3)]
    for one in made:
        one["made_as"] = as_made(one, ATTRIBUTES)
    row[TRUTH]["detections"] += made
    assert run(of, row)[0] == of
    made[0]["tags"] = ["confirmed"]
    made[1]["label"] = "RBC"
    now, changes, _ = run(of, row)
    assert [c["category_id"] for c in now.cells[2:]] == [3, 7]
    assert "tags" not in now.cells[2]  # the tag said what it had to
    assert [c.what for c in changes] == [("confirmed",), ("confirmed",)]


def test_masks_move_with_their_boxes() -> None:
    of = entry(1, 1)
    square = {"segmentation": [[100.0, 100.0, 140.0, 100.0, 140.0, 140.0, 100.0, 140.0]]}
    told = {**of.cells[0], **square, "bbox": [100.0, 100.0, 40.0, 40.0], "area": 1600.0}
    of = Entry(of.field, of.part, of.path, of.slide, of.group, of.image, (told,))
    row = document(of)
    assert run(of, row)[0] == of
    row[TRUTH]["detections"][0]["label"] = "WBC" if NAMES[told["category_id"]] != "WBC" else "RBC"
    assert run(of, row)[0].cells[0]["segmentation"] == told["segmentation"]  # renamed, not redrawn
    row[TRUTH]["detections"][0]["bounding_box"] = [200 / WIDTH, 200 / HEIGHT, 80 / WIDTH, 40 / HEIGHT]
    moved = run(of, row)[0].cells[0]
    from pycocotools import mask as rle

    drawn = rle.decode(documents.runs(moved["segmentation"], WIDTH, HEIGHT))
    assert drawn.sum() == 80 * 40
    assert drawn[200:240, 200:280].all()
    assert moved["area"] == 3200


def test_a_pasted_copy_of_a_cell_is_a_new_one() -> None:
    of = entry(1, 3)
    row = document(of)
    pasted = copy.deepcopy(row[TRUTH]["detections"][1]) | {"bounding_box": [0.5, 0.5, 0.1, 0.1]}
    row[TRUTH]["detections"].append(pasted)
    made, changes, _ = run(of, row)
    assert made.cells[:3] == of.cells
    assert made.cells[3]["id"] == 1001
    assert [c.what for c in changes] == [("added",)]
