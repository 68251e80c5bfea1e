"""Counting error by hand."""

from __future__ import annotations

import numpy as np
import pytest

from detect.evaluate.counting import counting, errors
from detect.evaluate.detection import countable
from detect.types import Annotations
from tests.evaluate.records import dataset, labelled

KNOWN = np.ones(4, bool)


def test_by_hand() -> None:
    drawn, found = np.array([3.0, 5, 0, 2]), np.array([4.0, 3, 0, 3])  # +1, -2, 0, +1
    got = counting(drawn, found, KNOWN, ["a", "b", "c", "d"], rounds=50)
    assert got is not None
    assert got.mae.value == 1
    assert got.bias.value == 0
    spread = np.std([1, -2, 0, 1], ddof=1)
    assert got.upper.value == pytest.approx(1.96 * spread, abs=1e-3)
    assert got.lower.value == pytest.approx(-1.96 * spread, abs=1e-3)
    assert (got.n_fields, got.n_drawn, got.n_found) == (4, 10, 10)
    assert got.pairs.tolist() == [[3, 4], [5, 3], [0, 0], [2, 3]]


def test_a_constant_error_is_all_bias() -> None:
    got = counting(np.arange(4.0), np.arange(4.0) + 2, KNOWN, list("abcd"), rounds=50)
    assert got is not None
    for figure in (got.mae, got.bias, got.lower, got.upper):
        assert (figure.value, figure.low, figure.high) == (2, 2, 2)


def test_weights_are_fields_drawn_as_often() -> None:
    rng = np.random.default_rng(1)
    difference, weights = rng.integers(-4, 5, 20).astype(float), rng.integers(0, 3, 20).astype(float)
    again = np.repeat(difference, weights.astype(int))
    half = 1.959963984540054 * again.std(ddof=1)
    expected = [np.abs(again).mean(), again.mean(), again.mean() - half, again.mean() + half]
    assert errors(difference, weights[None])[0] == pytest.approx(expected)


def test_ninety_five_percent_of_fields_lie_within_the_limits() -> None:
    rng = np.random.default_rng(3)
    drawn = rng.poisson(20, 2000).astype(float)
    found = drawn + np.round(rng.normal(0.5, 2, 2000))
    got = counting(drawn, found, np.ones(2000, bool), [str(i) for i in range(2000)], rounds=100)
    assert got is not None
    inside = ((found - drawn >= got.lower.value) & (found - drawn <= got.upper.value)).mean()
    assert inside == pytest.approx(0.95, abs=0.02)
    assert got.bias.low < 0.5 < got.bias.high


def test_a_crowd_makes_a_count_unknown() -> None:
    crowd = Annotations.of([[0, 0, 200, 40], [300, 0, 320, 20]], [1, 0], crowd=[True, False])
    known = countable(dataset([labelled(crowd), labelled(Annotations.of([], []), 1)]))
    assert known.tolist() == [[True, False, True], [True, True, True]]
    got = counting(np.array([9.0, 1]), np.array([2.0, 1]), known[:, 1], ["a", "b"], rounds=5)
    assert got is not None
    assert (got.n_fields, got.mae.value) == (1, 0)
    assert counting(np.zeros(1), np.zeros(1), np.zeros(1, bool), ["a"], rounds=5) is None
