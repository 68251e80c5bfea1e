"""Figures at thresholds, the confusion matrix, the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from detect.evaluate.detection import DetectionReport, measure
from detect.evaluate.tables import markdown, write
from detect.types import Annotations, Detections
from tests.evaluate.records import CLASSES, dataset, labelled, random_set

HALF = {"WBC": 0.5, "RBC": 0.5, "Platelet": 0.5}
BOXES = np.array([[30 * i, 0, 30 * i + 20, 20] for i in range(6)], np.float32)


def one_field(exhaustive: tuple[str, ...] = ("WBC", "RBC", "Platelet")) -> DetectionReport:
    """Drawn: WBC, WBC, RBC, RBC. Found: WBC right, WBC as RBC, one RBC, a ghost RBC, one RBC below threshold."""
    truth = Annotations.of(BOXES[:4], [0, 0, 1, 1])
    found = Detections(BOXES[[0, 1, 2, 4, 3]], [0.9, 0.8, 0.7, 0.6, 0.3], [0, 1, 1, 1, 1], CLASSES)
    report, _ = measure(dataset([labelled(truth)], exhaustive=exhaustive), [found], HALF, rounds=10)
    return report


def test_counts_at_the_thresholds() -> None:
    report = one_field()
    wbc, rbc = report.classes["WBC"], report.classes["RBC"]
    assert (wbc.truths, wbc.found, wbc.hits) == (2, 1, 1)
    assert (rbc.truths, rbc.found, rbc.hits) == (2, 3, 1)
    assert wbc.recall.value == 0.5
    assert wbc.precision is not None
    assert wbc.precision.value == 1.0
    assert rbc.precision is not None
    assert rbc.precision.value == pytest.approx(1 / 3)
    assert rbc.f1 is not None
    assert rbc.f1.value == pytest.approx(2 / 5)


def test_confusion_has_wrong_classes_ghosts_and_missed_cells() -> None:
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[0, 1] = expected[1, 1] = 1
    expected[3, 1] = 1  # the ghost
    expected[1, 3] = 1  # found below the threshold only
    assert one_field().confusion.tolist() == expected.tolist()


def test_classes_that_are_not_exhaustive_have_no_false_positives() -> None:
    report = one_field(exhaustive=("WBC",))
    rbc = report.classes["RBC"]
    assert (rbc.found, rbc.hits) == (1, 1)
    assert rbc.precision is None
    assert rbc.f1 is None
    assert rbc.recall.value == 0.5
    assert report.confusion[3].sum() == 0
    assert report.not_exhaustive == ("RBC", "Platelet")
    for told in (report.froc, report.counting, report.calibration, report.ap.per_class):
        assert set(told) == {"WBC"}
    assert report.errors["RBC"].counts == {"missed": 1}
    assert report.localisation["RBC"].n == 1
    assert "not exhaustive" in markdown(report, "title")


def test_detections_in_a_crowd_are_not_wrong() -> None:
    truth = Annotations.of([[0, 0, 200, 40], [300, 0, 320, 20]], [1, 1], crowd=[True, False])
    found = Detections([[10, 10, 30, 30], [300, 0, 320, 20]], [0.9, 0.8], [1, 1], CLASSES)
    report, _ = measure(dataset([labelled(truth)]), [found], HALF, rounds=10)
    rbc = report.classes["RBC"]
    assert (rbc.truths, rbc.found, rbc.hits) == (1, 1, 1)
    assert report.n_cells == 1


def test_counts_add_up_over_random_fields() -> None:
    data, found = random_set(7, 12, groups=5)
    report, ap = measure(data, found, dict.fromkeys(CLASSES.names, 0.2), rounds=10)
    drawn = np.concatenate([f.annotations.labels for f in data.fields])
    assert [report.classes[n].truths for n in CLASSES.names] == np.bincount(drawn, minlength=3).tolist()
    assert report.confusion[:3].sum() == len(drawn) == report.n_cells
    assert report.confusion[:, :3].sum() == sum(int((d.scores >= np.float32(0.2)).sum()) for d in found)
    assert report.n_groups == len({f.field.group for f in data.fields})
    assert report.ap == ap.report(rounds=10)


def test_markdown_has_every_class() -> None:
    data, found = random_set(1, 4)
    report, _ = measure(data, found, HALF, rounds=10)
    text = markdown(report, "cells of a test")
    assert text.startswith("# cells of a test\n")
    for name in CLASSES.names:
        # classes, confusion, FROC, counting, errors, calibration, localisation
        assert sum(line.startswith(f"| {name} |") for line in text.splitlines()) == 7
    assert "| background |" in text


def test_files_say_the_same_as_the_report(tmp_path: Path) -> None:
    data, found = random_set(1, 6)
    report, _ = measure(data, found, HALF, rounds=10)
    write(report, tmp_path / "new" / "out", "title", {"bundle": "b", "command": "smear"})
    said = json.loads((tmp_path / "new" / "out" / "metrics.json").read_text())
    assert said["bundle"] == "b"
    assert said["map50"]["value"] == report.ap.map50.value
    assert said["classes"]["RBC"]["hits"] == report.classes["RBC"].hits
    assert (tmp_path / "new" / "out" / "metrics.md").read_text() == markdown(report, "title")


def refuse(word: str) -> NoReturn:
    """JSON has no NaN: other readers stop at it."""
    raise AssertionError(f"metrics.json holds {word}")


def test_metrics_json_is_json_where_a_class_has_no_cells(tmp_path: Path) -> None:
    report = one_field()
    assert report.classes["Platelet"].truths == 0
    write(report, tmp_path, "title", {})
    said = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert said["classes"]["Platelet"]["truths"] == 0


def test_the_file_holds_every_measure(tmp_path: Path) -> None:
    data, found = random_set(3, 8)
    report, _ = measure(data, found, HALF, rounds=10)
    write(report, tmp_path, "title", {})
    said = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert said["froc"]["RBC"]["mean"]["value"] == report.froc["RBC"].mean.value
    assert said["counting"]["WBC"]["mae"]["low"] == report.counting["WBC"].mae.low
    assert said["errors"]["Platelet"]["counts"] == report.errors["Platelet"].counts
    assert said["calibration"]["RBC"]["bins"][0]["n"] == report.calibration["RBC"].bins[0].n
    assert set(said["localisation"]["RBC"]) >= {"iou", "dx", "dy", "dw", "dh", "spread", "n"}
    assert set(said["per_source"]) == {"400 x 400 px"}
    assert sum(sum(s["cells"].values()) for s in said["per_magnification"].values()) == report.n_cells
    assert said["masks"] is None
    assert "pairs" not in said["counting"]["WBC"]


def test_a_perfect_detector_makes_no_error() -> None:
    data, _ = random_set(5, 8, groups=3)
    found = [
        Detections(f.annotations.boxes, np.full(len(f.annotations), 1.0), f.annotations.labels, CLASSES)
        for f in data.fields
    ]
    report, _ = measure(data, found, HALF, rounds=10)
    for name in CLASSES.names:
        assert set(report.errors[name].counts.values()) == {0}
        assert report.froc[name].mean.value == 1.0
        assert (report.counting[name].mae.value, report.counting[name].upper.value) == (0, 0)
        assert report.calibration[name].d_ece.value == 0
        assert report.localisation[name].iou.value == 1.0
        assert report.localisation[name].dx.value == 0
    assert report.ap.map50_95.value == pytest.approx(1)


def test_false_detections_are_as_many_as_the_kinds_of_error() -> None:
    data, found = random_set(7, 12, crowds=0.1)
    report, _ = measure(data, found, dict.fromkeys(CLASSES.names, 0.2), rounds=10)
    for name in CLASSES.names:
        counts, own = dict(report.errors[name].counts), report.classes[name]
        assert counts.pop("missed") == own.truths - own.hits
        assert sum(counts.values()) == own.found - own.hits > 0


def test_the_order_of_the_fields_changes_nothing() -> None:
    data, found = random_set(9, 10, groups=4)
    order = np.random.default_rng(0).permutation(10)
    turned = dataset([data.fields[i] for i in order])
    a, _ = measure(data, found, HALF, rounds=10)
    b, _ = measure(turned, [found[i] for i in order], HALF, rounds=10)
    for name in CLASSES.names:
        assert a.froc[name].mean.value == pytest.approx(b.froc[name].mean.value)
        assert a.counting[name].mae.value == pytest.approx(b.counting[name].mae.value)
        assert a.calibration[name].d_ece.value == pytest.approx(b.calibration[name].d_ece.value)
        assert a.errors[name].counts == b.errors[name].counts
        assert a.localisation[name].iou.value == pytest.approx(b.localisation[name].iou.value)
    assert [s.map50.value for s in a.sizes] == pytest.approx([s.map50.value for s in b.sizes])
