"""`smear data synthesize`: the same bytes with any number of workers, whole or not at all, and it trains."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools import mask as rle
from pycocotools.coco import COCO

from detect.data.cards import load_card
from detect.data.load import load_dataset
from detect.data.smear.settings import load_smear
from detect.data.sources import merge
from detect.data.splits import read_split
from detect.formats.tally import Tally
from tests.cli.command import inside
from tests.cli.test_verbs import digests as hashes


def drawn(out: Path, *more: object) -> Path:
    size = ("--slides", 3, "--fields", 2, "--size", 320, "--seed", 4)
    answer = inside("data", "synthesize", "--out", out, *size, *more)
    assert answer.code == 0, answer.err
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides of two fields, drawn by one process."""
    return drawn(tmp_path_factory.mktemp("synthetic") / "one", "--workers", 1)


def test_workers_and_runs_do_not_change_a_byte(folder: Path, tmp_path: Path) -> None:
    assert hashes(folder) == hashes(drawn(tmp_path / "two", "--workers", 2))
    assert hashes(folder) != hashes(drawn(tmp_path / "other", "--workers", 1, "--seed", 5))


def test_labels_are_read_by_pycocotools_and_boxes_bound_their_masks(folder: Path) -> None:
    coco = COCO(str(folder / "annotations.json"))
    cells = coco.loadAnns(coco.getAnnIds())
    assert len(cells) > 50
    for cell in cells:
        mask = coco.annToMask(cell)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x0, y0 = columns[0], rows[0]
        assert cell["bbox"] == [x0, y0, columns[-1] + 1 - x0, rows[-1] + 1 - y0]
        assert cell["area"] == mask.sum()
        assert cell["attributes"]["diameter_um"] > 0
        if "nucleus" in cell:
            nucleus = rle.decode({**cell["nucleus"], "counts": cell["nucleus"]["counts"].encode()})
            assert not (nucleus & ~mask & 1).any()
            assert nucleus.any()


def test_a_slide_has_a_disease_a_scale_and_counts(folder: Path) -> None:
    with (folder / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    told = json.loads((folder / "annotations.json").read_text("utf-8"))
    names = {c["id"]: c["name"] for c in told["categories"]}
    slide_of = {i["id"]: i["slide"] for i in told["images"]}
    assert [r["slide"] for r in rows] == ["slide-01", "slide-02", "slide-03"]
    assert len({r["disease"] for r in rows}) == 3
    for row in rows:
        mine = [names[c["category_id"]] for c in told["annotations"] if slide_of[c["image_id"]] == row["slide"]]
        assert {n: int(row[n]) for n in set(mine)} == {n: mine.count(n) for n in set(mine)}
        assert {i["px_per_um"] for i in told["images"] if i["slide"] == row["slide"]} == {float(row["px_per_um"])}


def test_its_cards_load_without_a_word_and_slides_are_never_split(folder: Path) -> None:
    for name, classes in (("synthetic", {"WBC", "RBC", "Platelet"}), ("synthetic-types", None)):
        card = load_card(folder / f"{name}.yaml")
        tally = Tally()
        dataset = merge(load_dataset(card, tally))
        assert not tally.counts(), tally.counts()
        if classes is not None:
            assert set(dataset.classes.names) == classes
        split = read_split(str(card.split))
        assert {row.group for row in split.rows if row.part == "train"} == {"slide-01", "slide-02"}
        assert {row.group for row in split.rows if row.part == "dev"} == {"slide-03"}
        assert len(split.part(dataset, "train")) == 4
    told = json.loads((folder / "annotations.json").read_text("utf-8"))
    names = {c["id"]: c["name"] for c in told["categories"]}
    left_out = sum(names[c["category_id"]] in ("Artefact", "Smudge cell") for c in told["annotations"])
    cells = merge(load_dataset(load_card(folder / "synthetic.yaml"), Tally()))
    assert sum(len(f.annotations) for f in cells.fields) == len(told["annotations"]) - left_out


def test_one_disease_one_magnification_and_a_wider_range(tmp_path: Path) -> None:
    out = drawn(tmp_path / "all", "--disease", "ALL-L1", "--px-per-um", 6, "--ranges", "test", "--name", "mine")
    with (out / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["disease"] for r in rows} == {"ALL-L1"}
    assert {r["px_per_um"] for r in rows} == {"6.0"}
    about = yaml.safe_load((out / "smear.yaml").read_text("utf-8"))
    assert about["ranges"]["name"] == "test"
    assert load_card(out / "mine.yaml").name == "mine"


def test_mistakes_are_named_and_nothing_is_left(tmp_path: Path, folder: Path) -> None:
    answer = inside("data", "synthesize", "--out", folder)
    assert answer.code == 2
    assert "not empty" in answer.err
    answer = inside("data", "synthesize", "--out", tmp_path / "x", "--disease", "flu")
    assert answer.code == 2
    assert "no disease 'flu'" in answer.err
    assert "CML" in answer.err
    answer = inside("data", "synthesize", "--out", tmp_path / "x", "--ranges", "moon")
    assert answer.code == 2
    assert "moon" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_cut_short_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detect.data.smear import write

    real, seen = write._one, []

    def fails(job: object) -> object:
        seen.append(job)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(job)  # type: ignore[arg-type]

    monkeypatch.setattr(write, "_one", fails)
    asked = write.Asked(tmp_path / "cut", slides=2, fields=3, width=256, height=256)
    with pytest.raises(KeyboardInterrupt):
        write.synthesize(load_smear("train"), asked)
    assert list(tmp_path.iterdir()) == []
