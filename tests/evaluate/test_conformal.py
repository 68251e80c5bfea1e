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


def test_few_cells_of_a_type_make_it_always_likely_and_none_too() -> None:
    assert limits([[]], 0.1) == pytest.approx([1.0])
    low, high = limits([[0.2]], 0.1)[0], limits([[0.2]], 0.6)[0]
    assert low == pytest.approx(0.2 + 0.8 * 0.8)  # rank 1.8, between the one cell and 1
    assert high == pytest.approx(0.2 * 0.8)


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
    assert got.mean == pytest.approx(1 - error, abs=0.015)
    assert all(abs(v - (1 - error)) < 0.05 for v in got.by_type.values())
    assert got.single + got.several + got.none == pytest.approx(1)
    assert (got.n_cells, got.n_groups, got.draws) == (1200, 1200, 60)


def test_few_calibration_cells_do_not_overshoot() -> None:
    """The usual rank of 13 cells covers 13 in 14 of the next ones; asked is 90 %."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(4000):
        drawn = rng.random(14)
        held.append(drawn[-1] <= limits([np.sort(drawn[:-1])], 0.1)[0])
    assert np.mean(held) == pytest.approx(0.9, abs=0.012)


def test_groups_are_never_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies in one group: were they on both sides, every cell would be as strange as one that was calibrated on."""
    truth, told = cells(90, 5)
    truth, told = np.repeat(truth, 6), np.repeat(told, 6, axis=0)
    groups = [str(i // 6) for i in range(540)]
    seen: list[int] = []
    real = strangeness

    def watched(p: NDArray[np.float64], t: NDArray[np.int64], types: int) -> object:
        seen.append(len(t))
        return real(p, t, types)

    monkeypatch.setattr("detect.evaluate.conformal.strangeness", watched)
    got = coverage(TYPES, truth, told, groups, draws=20)
    assert set(seen) == {45 * 6}
    assert got.n_groups == 90
