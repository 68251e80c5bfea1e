"""Classification figures against scikit-learn."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from detect.evaluate.classification import markdown, measure, write
from detect.evaluate.decide import log_loss as our_log_loss
from detect.evaluate.decide import macro_f1, temperature

TYPES = ("Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil")


def answers(seed: int, n: int = 80, known: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """True types among the first `known`, and probabilities that are often right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, known, n)
    scores = rng.normal(0, 1, (n, len(TYPES)))
    scores[np.arange(n), truth] += 1.3
    powers = np.exp(scores)
    return truth, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(5, 120), st.integers(1, 4))
def test_equals_scikit_learn(seed: int, n: int, known: int) -> None:
    truth, probabilities = answers(seed, n, known)
    got = measure(TYPES, truth, probabilities, [str(i) for i in range(n)], rounds=10)
    answer = probabilities.argmax(axis=1)
    present = np.unique(truth)
    each = f1_score(truth, answer, labels=range(4), average=None, zero_division=0)
    assert got.accuracy.value == pytest.approx(accuracy_score(truth, answer))
    assert got.macro_f1.value == pytest.approx(each[present].mean())
    assert got.confusion.tolist() == confusion_matrix(truth, answer, labels=range(4)).tolist()
    for i, name in enumerate(TYPES):
        assert got.f1[name].value == pytest.approx(each[i] if i in present else np.nan, nan_ok=True)


def test_answered_are_the_sure_ones() -> None:
    truth, probabilities = answers(2)
    likely = probabilities >= 0.35
    got = measure(TYPES, truth, probabilities, [str(i) for i in range(80)], likely, rounds=10)
    sure = likely.sum(axis=1) == 1
    right = likely[np.arange(80), truth]
    assert 0 < sure.sum() < 80
    assert got.answered.value == pytest.approx(sure.mean())
    assert got.accuracy_answered.value == pytest.approx(right[sure].mean())
    assert got.covered.value == pytest.approx(right.mean())
    assert got.accuracy_answered.value > got.accuracy.value


def test_unfamiliar_cells_are_not_answered_and_are_told_by_type() -> None:
    truth, probabilities = answers(2)
    groups = [str(i) for i in range(80)]
    strange = np.arange(80) % 3 == 0
    likely = probabilities >= 0.35
    plain = np.sqrt(probabilities) / np.sqrt(probabilities).sum(axis=1, keepdims=True)
    got = measure(TYPES, truth, probabilities, groups, likely, unfamiliar=strange, plain=plain, rounds=10)
    sure = (likely.sum(axis=1) == 1) & ~strange
    assert got.unfamiliar.value == pytest.approx(strange.mean())
    assert got.answered.value == pytest.approx(sure.mean())
    for i, name in enumerate(TYPES):
        mine = truth == i
        if mine.any():
            expected = strange[mine].mean(), sure[mine].mean(), likely[mine, i].mean()
            figures = got.per_type[name]
            assert [figures[f].value for f in ("unfamiliar", "answered", "covered")] == pytest.approx(expected)
    assert got.ece_before is not None
    assert got.ece_before.value == pytest.approx(measure(TYPES, truth, plain, groups, rounds=2).ece.value)
    assert measure(TYPES, truth, plain, groups, rounds=2).ece_before is None


def test_groups_are_counted_and_limits_hold_the_figure() -> None:
    truth, probabilities = answers(3)
    got = measure(TYPES, truth, probabilities, [f"g{i // 4}" for i in range(80)], rounds=200)
    assert (got.n_cells, got.n_groups) == (80, 20)
    assert got.accuracy.low < got.accuracy.value < got.accuracy.high


def test_files_name_every_type(tmp_path: Path) -> None:
    truth, probabilities = answers(4)
    got = measure(TYPES, truth, probabilities, [str(i) for i in range(80)], rounds=20)
    write(got, tmp_path / "out", "cells of four types", {"part": "test"})
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert said["part"] == "test"
    assert set(said["f1"]) == set(TYPES)
    text = (tmp_path / "out" / "metrics.md").read_text()
    assert text == markdown(got, "cells of four types")
    assert all(f"| {name} |" in text for name in TYPES)


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(0, 1.5, (4000, 4))
    powers = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(4, p=p) for p in powers])
    got = temperature(scores * 3, truth)
    assert got == pytest.approx(3.0, rel=0.08)
    heated = np.exp(scores * 3 / got)
    cold = np.exp(scores * 3)
    assert log_loss(truth, heated / heated.sum(axis=1, keepdims=True)) < log_loss(
        truth, cold / cold.sum(axis=1, keepdims=True)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 90), st.integers(1, 4), st.booleans())
def test_every_figure_equals_scikit_learns(seed: int, n: int, known: int, tied: bool) -> None:
    truth, probabilities = answers(seed, n, known)
    if tied:
        probabilities = np.round(probabilities, 1)
    got = measure(TYPES, truth, probabilities, [str(i) for i in range(n)], rounds=10)
    answer, present = probabilities.argmax(axis=1), np.unique(truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, _ = precision_recall_fscore_support(truth, answer, labels=range(4), zero_division=0)
        assert got.balanced_accuracy.value == pytest.approx(recall[present].mean())
        kappa = cohen_kappa_score(truth, answer, labels=range(4))
    assert got.kappa.value == pytest.approx(kappa, nan_ok=True)
    assert got.brier.value == pytest.approx(np.square(probabilities - np.eye(4)[truth]).sum(axis=1).mean(), abs=1e-6)
    for i, name in enumerate(TYPES):
        told = got.per_type[name]
        if i not in present:
            assert all(np.isnan(v.value) for v in told.values())
            continue
        assert told["precision"].value == pytest.approx(precision[i])
        assert told["recall"].value == pytest.approx(recall[i])
        assert told["F1"].value == pytest.approx(f1[i])
        ours, others = truth == i, truth != i
        if others.any():
            assert told["specificity"].value == pytest.approx((answer[others] != i).mean())
            assert told["ROC AUC"].value == pytest.approx(roc_auc_score(ours, probabilities[:, i]))
        assert told["PR AUC"].value == pytest.approx(average_precision_score(ours, probabilities[:, i]))
    assert macro_f1(truth, answer, 4) == pytest.approx(got.macro_f1.value)


def test_a_drawn_group_weighs_as_often_as_it_was_drawn() -> None:
    """What the bootstrap computes of weights is what scikit-learn computes of repeated cells."""
    from detect.evaluate.classification import _statistic

    truth, probabilities = answers(9, 40)
    often = np.random.default_rng(1).integers(0, 3, 40)
    likely = probabilities > 0.2
    every, none = np.ones(4, bool), np.zeros(40, bool)
    figures = _statistic(every, truth, probabilities, likely, none)
    again = _statistic(
        every,
        np.repeat(truth, often),
        np.repeat(probabilities, often, axis=0),
        np.repeat(likely, often, axis=0),
        np.repeat(none, often),
    )
    weighed = figures(often[None].astype(float))[0]
    assert weighed == pytest.approx(again(np.ones((1, often.sum())))[0], nan_ok=True)


def test_calibration_error_of_known_cases() -> None:
    """All cells at 0.8: 60 % right are 0.2 too sure, 80 % right are not."""
    probabilities = np.tile(np.array([0.8, 0.2], np.float32), (100, 1))
    groups = [str(i) for i in range(100)]
    for share, gap in ((60, 0.2), (80, 0.0)):
        truth = np.array([0] * share + [1] * (100 - share))
        got = measure(("a", "b"), truth, probabilities, groups, rounds=20)
        assert got.ece.value == pytest.approx(gap, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_by_its_definition(seed: int) -> None:
    """A bin at a time: the share of cells in it, by how far its mean confidence is from its share of right answers."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet((0.6, 0.6, 0.6), 300).astype(np.float32)
    truth = rng.integers(0, 3, 300)
    best, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    expected = 0.0
    for low in np.arange(15) / 15:
        here = (best >= low) & (best < low + 1 / 15 if low < 0.93 else best <= 1)
        if here.any():
            expected += here.mean() * abs(float(best[here].mean()) - float(right[here].mean()))
    got = measure(("a", "b", "c"), truth, probabilities, [str(i) for i in range(300)], rounds=20)
    assert got.ece.value == pytest.approx(expected, abs=1e-6)


def test_log_loss_equals_scikit_learns() -> None:
    truth, probabilities = answers(11)
    expected = log_loss(truth, probabilities / probabilities.sum(axis=1, keepdims=True))
    assert our_log_loss(truth, probabilities) == pytest.approx(expected, abs=1e-5)
