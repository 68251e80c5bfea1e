"""What is kept of an evaluation: read back the same, and readable by pycocotools."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detect.errors import DataError
from detect.evaluate.classification import Answers
from detect.evaluate.detection import measure
from detect.evaluate.saved import PREDICTIONS, TRUTH, pack, read_answers, read_saved, save, task_of
from detect.evaluate.tables import write
from tests.evaluate.records import CLASSES, random_set
from tests.evaluate.test_coco_ap import with_masks

HALF = dict.fromkeys(CLASSES.names, 0.5)
INFO = {"data": "random", "split": "s", "part": "val", "fingerprint": "f"}


def test_the_same_figures_come_from_the_folder(tmp_path: Path) -> None:
    data, found = random_set(2, 8, crowds=0.1, groups=4, exhaustive=("WBC", "RBC"))
    report, _ = measure(data, found, HALF, cap=50, rounds=10)
    write(report, tmp_path, "title", INFO | {"bundle": "b"})
    save(data, found, tmp_path, INFO)
    got = read_saved(tmp_path)
    assert (got.name, got.cap, got.thresholds) == ("b", 50, HALF)
    assert got.dataset.exhaustive_for == {"WBC", "RBC"}
    for f, g, d, e in zip(data.fields, got.dataset.fields, found, got.found, strict=True):
        assert np.array_equal(f.annotations.boxes, g.annotations.boxes)
        assert np.array_equal(f.annotations.crowd, g.annotations.crowd)
        assert np.array_equal(d.boxes, e.boxes)
        assert np.array_equal(d.scores, e.scores)
        assert np.array_equal(d.labels, e.labels)
        assert f.field.group == g.field.group
    pack(tmp_path)
    assert not (tmp_path / PREDICTIONS).exists()
    packed = read_saved(tmp_path)
    assert all(np.array_equal(d.boxes, e.boxes) for d, e in zip(packed.found, got.found, strict=True))
    again, _ = measure(got.dataset, got.found, got.thresholds, cap=got.cap, rounds=10)
    assert again.ap == report.ap
    assert again.classes == report.classes


def test_pycocotools_reads_both_files(tmp_path: Path) -> None:
    data, found = random_set(3, 6)
    save(data, found, tmp_path, INFO)
    truth = COCO(str(tmp_path / TRUTH))
    evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / PREDICTIONS)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    report, _ = measure(data, found, HALF, cap=100, rounds=5)
    assert evaluator.stats[0] == pytest.approx(report.ap.map50_95.value, abs=1e-6)
    assert evaluator.stats[1] == pytest.approx(report.ap.map50.value, abs=1e-6)


def test_masks_go_there_and_back(tmp_path: Path) -> None:
    data, found = with_masks(1)
    found[1] = replace(found[1].select([]), masks=None)
    report, _ = measure(data, found, HALF, rounds=5)
    write(report, tmp_path, "title", INFO | {"bundle": "b"})
    save(data, found, tmp_path, INFO)
    got = read_saved(tmp_path)
    again, _ = measure(got.dataset, got.found, HALF, rounds=5)
    assert report.masks is not None
    assert again.masks == report.masks


@pytest.mark.parametrize("name", [TRUTH, PREDICTIONS, "metrics.json"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, name: str) -> None:
    data, found = random_set(3, 2)
    report, _ = measure(data, found, HALF, rounds=5)
    write(report, tmp_path, "title", INFO | {"bundle": "b"})
    save(data, found, tmp_path, INFO)
    (tmp_path / name).write_text("{")
    with pytest.raises(DataError, match=f"{name}: no JSON"):
        read_saved(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        read_saved(tmp_path)


@pytest.mark.parametrize("keep", [0, 40, -20])
def test_a_packed_file_that_was_cut_off_is_named(tmp_path: Path, keep: int) -> None:
    data, found = random_set(3, 2)
    report, _ = measure(data, found, HALF, rounds=5)
    write(report, tmp_path, "title", INFO | {"bundle": "b"})
    save(data, found, tmp_path, INFO)
    pack(tmp_path)
    path = tmp_path / f"{PREDICTIONS}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=PREDICTIONS):
        read_saved(tmp_path)


def test_another_content_is_refused(tmp_path: Path) -> None:
    data, found = random_set(3, 2)
    report, _ = measure(data, found, HALF, rounds=5)
    write(report, tmp_path, "title", INFO | {"bundle": "b"})
    save(data, found, tmp_path, INFO)
    rows = json.loads((tmp_path / PREDICTIONS).read_text())
    rows[0]["image_id"] = 99
    (tmp_path / PREDICTIONS).write_text(json.dumps(rows))
    with pytest.raises(DataError, match="not as it was written"):
        read_saved(tmp_path)
    with pytest.raises(DataError, match=r"neither truth.json nor answers.json"):
        task_of(tmp_path.parent)


def test_answers_go_there_and_back(tmp_path: Path) -> None:
    kept = Answers(("c1", "c2"), ("g", "g"), ("Monocyte", "Basophil"), ("Monocyte", "Monocyte"), INFO)
    kept.save(tmp_path)
    (tmp_path / "metrics.json").write_text('{"bundle": "b"}')
    name, got = read_answers(tmp_path)
    assert name == "b"
    assert asdict(got) == asdict(kept)
    assert task_of(tmp_path) == "classifier"
    (tmp_path / "answers.json").write_text('{"cells": []}')
    with pytest.raises(DataError, match="not as it was written"):
        read_answers(tmp_path)
