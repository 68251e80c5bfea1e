"""`data.yaml` in its published shapes, read through to the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detect.data import sources
from detect.errors import ConfigError, FormatError
from detect.formats import yolo
from detect.formats.tally import Tally
from tests import data

NAMES = ["WBC", "RBC", "Platelet"]
LINE = "1 0.5 0.5 0.2 0.25\n"


def make(folder: Path, content: dict[str, Any], *parts: str) -> Path:
    """A `data.yaml` of that content; for each part, a picture in `<part>` and its labels in the usual place."""
    for part in parts:
        for field in data.fields_in(folder / part, [part.replace("/", "-").strip("-.")]):
            label = yolo.label_path(field.path)
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(LINE)
    path = folder / "data.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def cells(path: Path, tally: Tally | None = None) -> dict[str, list[str]]:
    """Part to the names of its cells, as `smear data` reads it."""
    parts = sources.read(path, tally if tally is not None else Tally(), format="yolo")
    return {
        part: [d.classes.names[k] for f in d.fields for k in f.annotations.labels.tolist()] for part, d in parts.items()
    }


@pytest.mark.parametrize("names", [NAMES, dict(enumerate(NAMES))], ids=["list", "mapping"])
def test_names_as_a_list_or_a_mapping(tmp_path: Path, names: Any) -> None:
    path = make(tmp_path, {"train": "images/train", "nc": 3, "names": names}, "images/train")
    tally = Tally()
    assert yolo.read_data_yaml(path, tally).names == dict(enumerate(NAMES))
    assert cells(path, tally) == {"train": ["RBC"]}
    assert tally.counts() == {}


def test_names_that_leave_numbers_out(tmp_path: Path) -> None:
    path = make(tmp_path, {"train": "images/train", "names": {5: "WBC", 1: "RBC"}}, "images/train")
    assert yolo.read_data_yaml(path, Tally()).names == {1: "RBC", 5: "WBC"}
    assert cells(path) == {"train": ["RBC"]}


@pytest.mark.parametrize("told", ["/home/somebody/datasets/cells", "C:\\Users\\somebody\\cells", "../datasets/cells"])
def test_a_path_that_leads_to_another_machine(tmp_path: Path, told: str) -> None:
    path = make(tmp_path, {"path": told, "train": "images/train", "names": NAMES}, "images/train")
    tally = Tally()
    assert cells(path, tally) == {"train": ["RBC"]}
    assert tally.counts() == {"path leads nowhere, repaired": 1}
    assert str(path) in tally.problems[0].where


@pytest.mark.parametrize("told", [".", "./", "", None, "set"], ids=["dot", "dot slash", "empty", "null", "folder"])
def test_a_path_that_leads_somewhere(tmp_path: Path, told: str | None) -> None:
    home = "set/" if told == "set" else ""
    path = make(tmp_path, {"path": told, "train": "images/train", "names": NAMES}, f"{home}images/train")
    tally = Tally()
    assert cells(path, tally) == {"train": ["RBC"]}
    assert tally.counts() == {}


def test_an_absolute_path_of_this_machine(tmp_path: Path) -> None:
    content = {"path": str(tmp_path / "elsewhere"), "train": "images/train", "names": NAMES}
    make(tmp_path / "elsewhere", content, "images/train")
    assert cells(make(tmp_path / "here", content)) == {"train": ["RBC"]}


def test_roboflow(tmp_path: Path) -> None:
    content = {
        "train": "../train/images",
        "val": "../valid/images",
        "test": "../test/images",
        "nc": 3,
        "names": NAMES,
        "roboflow": {"workspace": "smears", "project": "cells", "version": 1, "license": "CC BY 4.0"},
    }
    tally = Tally()
    path = make(tmp_path, content, "train/images", "valid/images", "test/images")
    assert cells(path, tally) == {"train": ["RBC"], "val": ["RBC"], "test": ["RBC"]}
    assert tally.counts() == {}


@pytest.mark.parametrize("word", ["val", "valid"])
def test_both_words_for_validation(tmp_path: Path, word: str) -> None:
    content = {"train": "images/train", word: "images/valid", "names": NAMES}
    assert cells(make(tmp_path, content, "images/train", "images/valid")) == {"train": ["RBC"], "val": ["RBC"]}


def test_both_words_at_once_lose_neither(tmp_path: Path) -> None:
    content = {"val": "images/a", "valid": "images/b", "names": NAMES}
    read = cells(make(tmp_path, content, "images/a", "images/b"))
    assert [name for names in read.values() for name in names] == ["RBC", "RBC"]


def test_a_list_of_folders(tmp_path: Path) -> None:
    content = {"train": ["images/a", "images/b"], "names": NAMES}
    assert cells(make(tmp_path, content, "images/a", "images/b")) == {"train": ["RBC", "RBC"]}


@pytest.mark.parametrize("start", ["./images/train/", "images/train/", None], ids=["dot", "relative", "absolute"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_a_text_file_that_lists_images(tmp_path: Path, start: str | None, end: str) -> None:
    path = make(tmp_path, {"train": "train.txt", "names": NAMES}, "images/train")
    lead = f"{tmp_path}/images/train/" if start is None else start
    (tmp_path / "train.txt").write_bytes(f"{lead}images-train.png{end}{end}".encode())
    tally = Tally()
    assert cells(path, tally) == {"train": ["RBC"]}
    assert tally.counts() == {}


def test_a_folder_and_a_text_file(tmp_path: Path) -> None:
    path = make(tmp_path, {"train": ["images/a", "b.txt"], "names": NAMES}, "images/a", "images/b")
    (tmp_path / "b.txt").write_text("./images/b/images-b.png\n")
    assert cells(path) == {"train": ["RBC", "RBC"]}


def test_a_listed_image_that_is_missing_is_counted(tmp_path: Path) -> None:
    path = make(tmp_path, {"train": "train.txt", "names": NAMES}, "images/train")
    (tmp_path / "train.txt").write_text("images/train/images-train.png\nimages/train/gone.png\n")
    tally = Tally()
    assert cells(path, tally) == {"train": ["RBC"]}
    assert [(p.kind, p.action) for p in tally.problems] == [("image cannot be read", "dropped")]
    assert "gone.png" in tally.problems[0].where


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", data.jpeg(data.smear())], ids=["utf-16", "a picture"])
def test_a_list_of_images_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    path = make(tmp_path, {"train": "train.txt", "names": NAMES}, "images/train")
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(FormatError, match=r"train\.txt"):
        cells(path)


def test_a_number_of_classes_that_differs_is_noted(tmp_path: Path) -> None:
    path = make(tmp_path, {"train": "images/train", "nc": 4, "names": NAMES}, "images/train")
    tally = Tally()
    assert cells(path, tally) == {"train": ["RBC"]}
    assert [(p.kind, p.where) for p in tally.problems] == [("number of classes differs", str(path))]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"train": "images/train"}, "names"),
        ({"train": "images/train", "names": []}, "names"),
        ({"train": "images/train", "names": {"WBC": 0}}, "names"),
        ({"train": "images/train", "names": "WBC"}, "names"),
        ({"train": "images/gone", "names": NAMES}, "images/gone"),
        ({"train": 5, "names": NAMES}, "train"),
        ({"train": {"folder": "images/train"}, "names": NAMES}, "train"),
        ({"train": "x" * 300, "names": NAMES}, "train"),
        ({"path": "x" * 300, "train": "images/gone", "names": NAMES}, "images/gone"),
    ],
)
def test_what_cannot_be_read_names_the_file(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    path = make(tmp_path, content, "images/train")
    with pytest.raises((FormatError, ConfigError), match=said) as caught:
        cells(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"names: [WBC\ntrain: images",
        b"- WBC\n- RBC\n",
        b"\xff\xfe",
        b"",
        b"names: {[1]: WBC}\n",
        b"exported: 2024-13-45\nnames: [WBC]\n",
        b"version: !!int one\nnames: [WBC]\n",
        b"names: &n [*n, WBC\n",
    ],
    ids=["open", "list", "utf-16", "empty", "key", "no such date", "no number", "alias"],
)
def test_yaml_that_is_damaged_names_the_file(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(text)
    with pytest.raises((FormatError, ConfigError), match=r"data\.yaml"):
        yolo.read_data_yaml(path, Tally())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: images\nnames: [WBC]\ntrain: images\n", 3),
        ("train: images\nnames:\n  0: WBC\n  1: RBC\n  0: Platelet\n", 5),
        ("train: images\nnames: {0: WBC, 0x0: RBC}\n", 2),
        ("train: images\nnames: [WBC]\nroboflow:\n  - {version: 1, version: 2}\n", 4),
    ],
    ids=["at the top", "among the names", "one number written twice", "deep"],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"data\.yaml:{line}: the key '\w+' stands twice"):
        yolo.read_data_yaml(tmp_path / "data.yaml", Tally())


def test_aliases_and_merges_are_no_key_twice(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    text = "one: &a {x: 1}\ntwo: {<<: *a, x: 2}\nround: &r [*r]\n1: a\n'1': b\ntrain: images\nnames: [WBC]\n"
    (tmp_path / "data.yaml").write_text(text)
    assert yolo.read_data_yaml(tmp_path / "data.yaml", Tally()).names == {0: "WBC"}
