"""Wilson limits and the bootstrap over groups."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from detect.evaluate.intervals import bootstrap, draws, intervals, plain_json, ratio, resampled, wilson


def test_wilson_of_five_in_a_hundred() -> None:
    got = wilson(5, 100)
    assert got.value == 0.05
    assert (got.low, got.high) == (pytest.approx(0.02154, abs=1e-5), pytest.approx(0.11175, abs=1e-5))


@given(st.integers(1, 2000), st.data())
def test_wilson_equals_scipy(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    got = wilson(hits, n)
    assert got.low == pytest.approx(expected.low, abs=1e-9)
    assert got.high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= got.low <= got.value <= got.high <= 1


def test_wilson_of_none_and_of_all_reaches_the_end() -> None:
    assert wilson(0, 10).low == 0.0
    assert wilson(0, 10).high == pytest.approx(0.27753, abs=1e-5)
    assert wilson(10, 10).high == 1.0


def test_wilson_of_nothing_is_undefined() -> None:
    assert all(math.isnan(v) for v in (wilson(0, 0).value, wilson(0, 0).low, wilson(0, 0).high))


def test_an_interval_prints_its_limits() -> None:
    assert str(wilson(5, 100)) == "0.050 (0.022 to 0.112)"


def test_groups_are_drawn_whole() -> None:
    seen = []

    def statistic(weights: np.ndarray) -> np.ndarray:
        seen.append(weights.copy())
        return weights[:1]

    bootstrap(statistic, ["a", "b", "a", "c", "b"], rounds=50)
    drawn = np.stack(seen)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all()
    assert (drawn[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(drawn, axis=0)) > 5


def test_limits_of_a_mean_are_near_the_normal_ones() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = bootstrap(lambda w: np.array([(w * values).sum() / w.sum()]), range(400), rounds=800)
    half = 1.96 * values.std() / 20
    assert low[0] == pytest.approx(values.mean() - half, abs=0.05)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.05)


def test_clustered_data_get_wider_limits() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(0, 1, 20), 20)
    mean = lambda w: np.array([(w * values).sum() / w.sum()])  # noqa: E731
    alone = bootstrap(mean, range(400), rounds=300)
    grouped = bootstrap(mean, np.repeat(np.arange(20), 20).tolist(), rounds=300)
    assert grouped[1][0] - grouped[0][0] > 2 * (alone[1][0] - alone[0][0])


def test_same_seed_same_limits_another_seed_others() -> None:
    values = np.arange(30.0)
    mean = lambda w: np.array([(w * values).sum() / w.sum()])  # noqa: E731
    once, again, other = (bootstrap(mean, range(30), rounds=60, seed=s) for s in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_rounds_without_a_value_are_left_out() -> None:
    def rare(weights: np.ndarray) -> np.ndarray:
        return np.array([0.5 if weights[0] else np.nan])

    low, high = bootstrap(rare, ["a", "b", "c"], rounds=60)
    assert (low[0], high[0]) == (0.5, 0.5)


def test_many_rounds_at_once_are_the_rounds_one_by_one() -> None:
    values, groups = np.arange(30.0), [f"g{i // 3}" for i in range(30)]
    low, high = bootstrap(lambda w: np.array([(w * values).sum() / w.sum()]), groups, rounds=120, seed=4)
    (got,) = intervals(lambda w: ratio(w @ values, w.sum(axis=1))[:, None], groups, rounds=120, seed=4)
    assert got.value == values.mean()
    assert (got.low, got.high) == (pytest.approx(low[0]), pytest.approx(high[0]))
    table = resampled(lambda w: w[:, :2], draws(groups, 120, 4))
    assert table.shape == (120, 2)


def test_normal_limits_hold_a_figure_that_drawing_again_makes_greater() -> None:
    values = np.random.default_rng(1).normal(0, 1, 40)  # the absolute value of their mean

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.abs(weights @ (values - values.mean()))[:, None]

    percentile, normal = (intervals(statistic, range(40), rounds=200, normal=n)[0] for n in (False, True))
    assert percentile.low > percentile.value
    assert normal.low <= normal.value <= normal.high
    assert normal.low >= 0


def test_a_share_of_nothing_is_undefined() -> None:
    got = ratio(np.array([[1.0, 2.0]]), np.array([[2.0, 0.0]]))
    assert got[0, 0] == 0.5
    assert math.isnan(got[0, 1])


def test_json_of_records_and_arrays() -> None:
    said = json.loads(plain_json({"a": wilson(0, 0), "b": np.array([1.5, np.nan]), "c": np.int64(3)}))
    assert said == {"a": {"value": None, "low": None, "high": None}, "b": [1.5, None], "c": 3}


def test_an_interval_takes_a_format() -> None:
    assert f"{wilson(5, 100):+.1f}" == "+0.1 (+0.0 to +0.1)"
