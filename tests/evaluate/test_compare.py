"""Comparison of two evaluations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from detect.errors import DataError
from detect.evaluate.classification import Answers
from detect.evaluate.compare import (
    bootstrap_p,
    compare_classifiers,
    compare_detectors,
    markdown,
    mcnemar,
    swap_p,
    swaps,
    write,
)
from detect.evaluate.detection import measure
from detect.evaluate.saved import Saved
from detect.types import ClassMap, Dataset, Detections
from tests.evaluate.records import CLASSES, random_set

INFO = {"data": "random", "split": "s", "part": "val", "fingerprint": "f"}
PATHS = (Path("a"), Path("b"))


def saved(name: str, data: Dataset, found: list[Detections], info: dict[str, object] | None = None) -> Saved:
    """As read from a folder."""
    metrics: dict[str, Any] = {"bundle": name, "max_detections": 300}
    metrics["classes"] = {n: {"threshold": 0.3} for n in data.classes}
    return Saved(Path(name), data, tuple(found), INFO | (info or {}), metrics)


def worse(found: list[Detections], share: float) -> list[Detections]:
    """A share of the detections lost."""
    rng = np.random.default_rng(1)
    return [d.select(rng.uniform(size=len(d)) >= share) for d in found]


def test_a_run_against_itself_differs_in_nothing() -> None:
    data, found = random_set(4, 20, groups=12)
    got = compare_detectors(saved("a", data, found), saved("b", data, found), rounds=60)
    for d in got.figures.values():
        assert (d.difference.value, d.difference.low, d.difference.high) == (0, 0, 0)
        assert d.a == d.b
        assert d.p == 1
        assert d.p_swap == 1


def test_figures_are_those_of_each_alone() -> None:
    data, found = random_set(4, 20, groups=12)
    other = worse(found, 0.3)
    got = compare_detectors(saved("a", data, found), saved("b", data, other), rounds=20).figures
    for side, predictions in (("a", found), ("b", other)):
        report, _ = measure(data, predictions, dict.fromkeys(CLASSES.names, 0.3), rounds=5)
        assert getattr(got["mAP50"], side) == pytest.approx(report.ap.map50.value)
        for name in CLASSES.names:
            f1 = report.classes[name].f1
            assert f1 is not None
            assert getattr(got[f"AP50-95 {name}"], side) == pytest.approx(report.ap.per_class[name][1].value)
            assert getattr(got[f"F1 {name}"], side) == pytest.approx(f1.value)
            assert getattr(got[f"counting MAE {name}"], side) == pytest.approx(report.counting[name].mae.value)


def test_a_much_worse_detector_is_told_and_the_sign_is_b_minus_a() -> None:
    data, found = random_set(5, 40)
    got = compare_detectors(saved("a", data, found), saved("b", data, worse(found, 0.4)), rounds=300).figures
    back = compare_detectors(saved("b", data, worse(found, 0.4)), saved("a", data, found), rounds=300).figures
    d = got["mAP50"]
    assert d.difference.value < -0.1
    assert d.difference.high < 0
    assert d.p < 0.02
    assert d.p_swap < 0.02
    assert back["mAP50"].difference.value == -d.difference.value
    assert back["mAP50"].difference.low == pytest.approx(-d.difference.high)


def test_pairing_makes_the_limits_narrower_than_each_alone() -> None:
    data, found = random_set(6, 40)
    other = worse(found, 0.03)
    got = compare_detectors(saved("a", data, found), saved("b", data, other), rounds=200).figures["mAP50"]
    alone, _ = measure(data, found, dict.fromkeys(CLASSES.names, 0.3), rounds=200)
    assert got.difference.high - got.difference.low < 0.7 * (alone.ap.map50.high - alone.ap.map50.low)


def test_alike_detectors_give_small_p_as_rarely_as_they_should() -> None:
    data, found = random_set(7, 12)
    rng = np.random.default_rng(2)
    p = []
    for _ in range(40):
        noisy = [[d.select(rng.uniform(size=len(d)) > 0.2) for d in found] for _ in range(2)]
        a, b = (saved(n, data, f) for n, f in zip("ab", noisy, strict=True))
        p.append(compare_detectors(a, b, rounds=40).figures["mAP50"].p_swap)
    assert np.mean(np.array(p) <= 0.1) < 0.25
    assert np.mean(p) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("info", "word"),
    [({"data": "other"}, "data"), ({"part": "test"}, "part"), ({"split": "t"}, "split"), ({"fingerprint": "g"}, "fin")],
)
def test_other_data_are_refused(info: dict[str, object], word: str) -> None:
    data, found = random_set(4, 3)
    with pytest.raises(DataError, match=f"b: measured on {word}.*\n.*same part of the same set"):
        compare_detectors(saved("a", data, found), saved("b", data, found, info), rounds=5)


def test_classes_in_common_are_compared() -> None:
    data, found = random_set(4, 10)
    classes = ClassMap(("RBC", "WBC"))
    number = np.array([1, 0, -1])
    fields = []
    for f in data.fields:
        cells = f.annotations.select(f.annotations.labels < 2)
        fields.append(replace(f, annotations=replace(cells, labels=number[cells.labels])))
    fewer = Dataset("random", Path(), classes, tuple(fields), frozenset(classes.names))
    kept = [d.select(d.labels < 2) for d in found]
    kept = [replace(d, labels=number[d.labels], classes=classes) for d in kept]
    got = compare_detectors(saved("a", data, found), saved("b", fewer, kept), rounds=10)
    assert got.left_out == ("Platelet",)
    assert {n for n in got.figures if n.startswith("F1")} == {"F1 WBC", "F1 RBC"}
    assert all(d.difference.value == 0 for d in got.figures.values())
    assert "Platelet" in markdown(got)


def test_a_class_that_means_other_cells_is_refused() -> None:
    data, found = random_set(4, 4)
    first = data.fields[0]
    other = replace(data, fields=(replace(first, annotations=first.annotations.select([0])), *data.fields[1:]))
    with pytest.raises(DataError, match="are not those of a"):
        compare_detectors(saved("a", data, found), saved("b", other, found), rounds=5)
    none = replace(data, exhaustive_for=frozenset())
    with pytest.raises(DataError, match="no exhaustive class in common"):
        compare_detectors(saved("a", data, found), saved("b", none, found), rounds=5)


def test_groups_are_swapped_whole() -> None:
    rows = np.stack(list(swaps(["a", "b", "a", "c"], 60, 1)))
    assert (rows[:, 0] == rows[:, 2]).all()
    assert set(np.unique(rows)) == {0, 1}
    assert len(np.unique(rows, axis=0)) == 8


def test_p_by_hand() -> None:
    assert bootstrap_p(np.array([1.0] * 99)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.array([-1.0] * 9 + [1.0] * 90)) == pytest.approx(2 * 10 / 100)
    assert bootstrap_p(np.array([np.nan] * 3 + [0.0])) == 1
    assert np.isnan(bootstrap_p(np.array([np.nan])))
    assert swap_p(0.5, np.array([0.5, -0.6, 0.1, 0.2])) == pytest.approx(3 / 5)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_an_exact_binomial_test(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected)


def answers(seed: int, right: float) -> Answers:
    """Answers on 60 cells of 20 groups, a share right."""
    types = ["Lymphocyte", "Monocyte", "Neutrophil"]
    truth = np.random.default_rng(0).integers(0, 3, 60)
    rng = np.random.default_rng(seed)
    said = np.where(rng.uniform(size=60) < right, truth, rng.integers(0, 3, 60))
    cells, groups = tuple(f"c{i}" for i in range(60)), tuple(f"g{i // 3}" for i in range(60))
    return Answers(cells, groups, tuple(types[i] for i in truth), tuple(types[i] for i in said), INFO)


def test_classifiers_are_compared_on_the_same_cells() -> None:
    a, b = answers(1, 0.9), answers(2, 0.4)
    got = compare_classifiers(("x", a), ("y", b), PATHS, rounds=100)
    for side, one in (("a", a), ("b", b)):
        assert getattr(got.figures["accuracy"], side) == pytest.approx(np.mean(np.array(one.truth) == one.answers))
        assert getattr(got.figures["macro F1"], side) == pytest.approx(
            f1_score(one.truth, one.answers, average="macro")
        )
    only = [
        sum(p == t != q for p, q, t in zip(u.answers, v.answers, a.truth, strict=True)) for u, v in ((a, b), (b, a))
    ]
    assert got.figures["accuracy"].p_exact == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert got.figures["accuracy"].p_swap < 0.05
    assert (got.n_units, got.n_groups, got.unit) == (60, 20, "cells")
    same = compare_classifiers(("x", a), ("x", a), PATHS, rounds=20).figures["accuracy"]
    assert (same.difference.value, same.p, same.p_exact) == (0, 1, 1)


def test_other_cells_are_refused() -> None:
    a = answers(1, 0.9)
    with pytest.raises(DataError, match="60 cells that are not the 60 of a"):
        compare_classifiers(("x", a), ("y", replace(a, cells=("z", *a.cells[1:]))), PATHS, rounds=5)


def test_files_say_every_figure(tmp_path: Path) -> None:
    data, found = random_set(4, 6)
    got = compare_detectors(saved("a", data, found), saved("b", data, worse(found, 0.2)), rounds=20)
    write(got, tmp_path / "new", {"a": "A"})
    said = json.loads((tmp_path / "new" / "compare.json").read_text())
    assert said["a"] == "A"
    assert said["comparison"]["figures"]["mAP50"]["difference"]["value"] == got.figures["mAP50"].difference.value
    text = (tmp_path / "new" / "compare.md").read_text()
    assert all(f"| {name} |" in text for name in got.figures)
