"""Cards: what they refuse, where they look, and what the real sets hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detect.config import parse
from detect.data.cards import Card, load_card
from detect.data.load import find_root, load_dataset, with_groups
from detect.errors import ConfigError, DataError
from detect.formats.tally import Tally
from detect.types import Dataset
from tests import data


def card(**changed: Any) -> Card:
    """A card of a small YOLO set, with some of its keys changed."""
    values: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "licence": "MIT",
        "citation": "none",
        "source": "none",
        "how_to_get": "make it",
        "folder": "tiny",
        "classes": ["WBC", "RBC", "Platelet"],
        "class_map": {"WBC": "WBC", "RBC": "RBC", "Platelets": "Platelet"},
        "exhaustive_for": ["WBC", "RBC"],
        "grouping": {"key": "near-copies"},
        "layout": {
            "format": "yolo",
            "names": ["WBC", "RBC", "platelets", "Ghost"],
            "parts": {"all": {"images": "images", "labels": "labels"}},
        },
    }
    return parse(Card, {**values, **changed}, "tiny.yaml")


def cells(dataset: Dataset) -> list[int]:
    """Annotations per class."""
    labels = np.concatenate([f.annotations.labels for f in dataset.fields])
    return np.bincount(labels, minlength=len(dataset.classes)).tolist()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ["WBC", "Person"], "class_map": {}}, "'Person' is no label"),
        ({"class_map": {"WBC": "Neutrophil"}}, "'WBC' goes to 'Neutrophil', which is not among the classes"),
        ({"exhaustive_for": ["WBC", "Rbc"]}, "Rbc"),
        ({"grouping": {"key": "nobody"}}, "grouping.key"),
        ({"layout": {"format": "tfrecord", "parts": {}}}, "layout.format"),
        ({"license": "MIT"}, "did you mean 'licence'"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        card(**changed)


def test_a_set_with_faults_is_read_through_its_card(tmp_path: Path) -> None:
    faulty = data.faulty_yolo(tmp_path)
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "images" / "folder.jpg").mkdir()
    (tmp_path / "images" / "notes.csv").write_text("a,b")
    tally = Tally()
    made = load_dataset(card(), tally, tmp_path)["all"]
    assert [f.field.id for f in made.fields] == sorted(f.id for f in faulty.fields if "unlabelled" not in f.id)
    assert {(f.field.width, f.field.height) for f in made.fields} == {(100, 80)}
    assert cells(made) == [1, 3, 1]
    assert made.exhaustive_for == {"WBC", "RBC"}
    assert tally.counts() == {**faulty.expected, "image cannot be read, dropped": 2}


def test_the_size_of_a_field_is_that_after_exif_rotation(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(data.jpeg(data.smear(), orientation=6))
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
    (only,) = load_dataset(card(), Tally(), tmp_path)["all"].fields
    assert (only.field.width, only.field.height) == (data.WIDTH, data.HEIGHT)
    assert only.annotations.boxes.tolist() == [[0, 0, data.WIDTH, data.HEIGHT]]


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMEAR_DATA", "elsewhere")
    with pytest.raises(DataError, match=r"(?s)images of tiny are not here.*elsewhere/tiny.*make it.*SMEAR_DATA"):
        find_root(card())
    with pytest.raises(DataError, match="no such folder"):
        find_root(card(), tmp_path / "none")


def test_the_environment_comes_before_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMEAR_DATA", raising=False)
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    assert find_root(card()) == Path("data/tiny")
    (tmp_path / "own" / "tiny").mkdir(parents=True)
    monkeypatch.setenv("SMEAR_DATA", str(tmp_path / "own"))
    assert find_root(card()) == tmp_path / "own" / "tiny"
    assert find_root(card(), tmp_path) == tmp_path


def test_missing_folders_of_a_set_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of images"):
        load_dataset(card(), Tally(), tmp_path)
    with pytest.raises(DataError, match="no boxed fields"):
        load_dataset(card(layout=None), Tally(), tmp_path)


def test_groups_are_given_by_field_id(tmp_path: Path) -> None:
    data.faulty_yolo(tmp_path)
    made = load_dataset(card(), Tally(), tmp_path)["all"]
    grouped = with_groups(made, {"images/good.png": "g1"})
    groups = {f.field.id: f.field.group for f in grouped.fields}
    assert groups["images/good.png"] == "g1"
    assert groups["images/none.png"] is None
    assert [f.annotations for f in grouped.fields] == [f.annotations for f in made.fields]


def test_txl_pbc_as_published(shared_data: Path) -> None:
    tally = Tally()
    parts = load_dataset(load_card("txl-pbc"), tally, shared_data / "txl-pbc")
    assert {name: len(part) for name, part in parts.items()} == {"train": 1008, "val": 288}
    assert tally.counts() == {
        "not a label file, noted": 2,
        "class name differs, noted": 2,
        "repeated box, dropped": 2,
    }
    assert {Path(p.where).name for p in tally.problems if p.kind == "not a label file"} == {"classes.txt"}
    published = 0
    for path in (shared_data / "txl-pbc" / "labels").rglob("*.txt"):
        published += 0 if path.name == "classes.txt" else len(path.read_text().split()) // 5
    assert sum(sum(cells(part)) for part in parts.values()) == published - 2 == tally.read["cells"]


def test_bccd_as_published(shared_data: Path) -> None:
    tally = Tally()
    parts = load_dataset(load_card("bccd"), tally, shared_data / "bccd")
    made = parts["all"]
    assert len(made) == 334
    assert made.classes.names == ("WBC", "RBC", "Platelet")
    assert cells(made) == [342, 3792 - 2, 345]  # two red cells have boxes without area
    assert tally.counts() == {
        "blank type, dropped": 44,
        "several types, dropped": 15,
        "box without area, dropped": 2,
        "column without a name, noted": 1,
    }
    assert all((f.field.width, f.field.height) == (640, 480) for f in made.fields)
    for labelled in made.fields:
        boxes = labelled.annotations.boxes
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((boxes >= 0) & (boxes <= [640, 480, 640, 480])).all()
