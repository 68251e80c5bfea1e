"""Sets of likely types hold the true one as often as asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detect.evaluate.conformal import coverage, limits, sets, strangeness

TYPES = ("a", "b", "c")


def cells(n: int, seed: int, noise: float = 1.5) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cells of three types, of which the last is rare, and probabilities that are right more often than not."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.6, 0.32, 0.08])
    scores = 2.0 * np.eye(3)[truth] + rng.normal(0, noise, (n, 3))
    powers = np.exp(scores)
    return truth, powers / powers.sum(axis=1, keepdims=True)


def test_a_limit_is_the_rank_that_the_error_asks_for() -> None:
    nineteen = np.arange(1, 20) / 20
    # 20 ranks: at an error of 10 % the 18th of 19 cells.
    assert limits([nineteen], 0.1) == pytest.approx([0.9])
    # At 12.5 % rank 17.5: half way between two cells.
    assert limits([nineteen], 0.125) == pytest.approx([0.875])


def test_a_type_of_few_cells_is_never_ruled_out() -> None:
    """Three cells say nothing of the strangest tenth."""
    assert limits([[], [0.2], [0.1, 0.2, 0.3]], 0.1) == pytest.approx([1.0, 1.0, 1.0])
    assert limits([[0.2]], 0.6) == pytest.approx([0.2 * 0.8])  # rank 0.8, between 0 and the one cell


@pytest.mark.parametrize("n", [3, 5, 8, 9, 13, 40])
def test_a_rare_type_that_is_mostly_missed_is_covered_too(n: int) -> None:
    """Strangeness near 1 for most cells, as a model gives to a type that it hardly knows."""
    rng = np.random.default_rng(n)
    drawn = rng.beta(8, 0.3, (3000, n + 1))
    held = [row[-1] <= limits([np.sort(row[:-1])], 0.1)[0] for row in drawn]
    assert np.mean(held) >= 0.88


def test_very_sure_models_keep_their_cells() -> None:
    """Through a card, whose numbers are written with few digits."""
    from detect.classify.figures import calibration_of

    rng = np.random.default_rng(2)
    told = np.zeros((400, 2), np.float32)
    told[:, 0] = 1 - rng.uniform(1e-8, 4e-6, 400)
    told[:, 1] = 1 - told[:, 0]
    truth = np.zeros(400, np.int64)
    kept = calibration_of(("a", "b"), told[:60], truth[:60], "here").strange
    got = sets(told[60:], limits([kept["a"], kept["b"]], 0.1))
    assert got[:, 0].mean() > 0.85


@given(st.integers(0, 10**6), st.floats(0.02, 0.5), st.floats(0.02, 0.5))
def test_a_greater_error_gives_smaller_sets(seed: int, a: float, b: float) -> None:
    truth, told = cells(60, seed)
    strange = strangeness(told, truth, 3)
    wide, narrow = (sets(told, limits(strange, error)) for error in sorted((a, b)))
    assert (narrow <= wide).all()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.1, 0.2]))
def test_coverage_is_what_was_asked_for_every_type(seed: int, error: float) -> None:
    """Also for the rare type, of which a calibration has some dozens of cells."""
    truth, told = cells(1200, seed)
    got = coverage(TYPES, truth, told, [str(i) for i in range(1200)], error=error, draws=60, seed=seed)
    assert got.mean.value == pytest.approx(1 - error, abs=0.015)
    assert all(abs(v.value - (1 - error)) < 0.05 for v in got.by_type.values())
    assert got.single + got.several + got.none == pytest.approx(1)
    assert (got.n_cells, got.n_groups, got.draws) == (1200, 1200, 60)
    assert sum(got.cells.values()) == 1200
    assert all(v.low < v.value < v.high for v in (got.mean, *got.by_type.values()))
    assert got.by_type["c"].high - got.by_type["c"].low > got.by_type["a"].high - got.by_type["a"].low  # the rare one


def test_few_calibration_cells_do_not_overshoot() -> None:
    """The usual rank of 13 cells covers 13 in 14 of the next ones; asked is 90 %."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(4000):
        drawn = rng.random(14)
        held.append(drawn[-1] <= limits([np.sort(drawn[:-1])], 0.1)[0])
    assert np.mean(held) == pytest.approx(0.9, abs=0.012)


def test_groups_are_never_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's copies answer alike: all of them calibrate, or all are counted."""
    truth, told = cells(90, 5)
    sizes = np.arange(90) % 5 + 1
    truth, told = np.repeat(truth, sizes), np.repeat(told, sizes, axis=0)
    groups = [str(i) for i, n in enumerate(sizes) for _ in range(n)]
    real = strangeness
    seen: list[set[float]] = []

    def watched(p: NDArray[np.float64], t: NDArray[np.int64], types: int) -> object:
        seen.append(set(p[:, 0].tolist()))
        return real(p, t, types)

    def counted(p: NDArray[np.float64], most: NDArray[np.float64]) -> NDArray[np.bool_]:
        assert seen[-1].isdisjoint(p[:, 0].tolist())
        return sets(p, most)

    monkeypatch.setattr("detect.evaluate.conformal.strangeness", watched)
    monkeypatch.setattr("detect.evaluate.conformal.sets", counted)
    got = coverage(TYPES, truth, told, groups, draws=20)
    assert len(seen) == 20
    assert got.n_groups == 90


def test_limits_are_those_of_groups_not_of_cells() -> None:
    """Five copies of each cell tell no more than one."""
    truth, told = cells(200, 7)
    truth, told = np.repeat(truth, 5), np.repeat(told, 5, axis=0)
    groups = [str(i // 5) for i in range(1000)]
    told_apart = [str(i) for i in range(1000)]
    whole, divided = (coverage(TYPES, truth, told, g, draws=20).mean for g in (groups, told_apart))
    assert whole.high - whole.low > 1.7 * (divided.high - divided.low)
