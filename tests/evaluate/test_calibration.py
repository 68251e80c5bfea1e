"""D-ECE of detectors whose chance to be right is known."""

from __future__ import annotations

import numpy as np
import pytest

from detect.evaluate.calibration import BINS, Shown, calibration, expected_error, shown
from detect.types import Annotations, Detections
from tests.evaluate.records import CLASSES, dataset, labelled, random_set


def simulated(n: int, lie: float, seed: int = 1) -> tuple[Shown, list[str]]:
    """Detections that are right as often as their score minus `lie`, three a field."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.3, 1, n)
    hit = rng.uniform(size=n) < scores - lie
    return Shown(np.arange(n) // 3, scores, hit, rng.uniform(0, 1, (n, 4))), [str(i) for i in range(-(-n // 3))]


def test_a_calibrated_detector_is_near_zero() -> None:
    got = calibration(*simulated(30000, 0.0), rounds=40)
    assert got is not None
    assert got.d_ece.value < 0.012
    assert got.gap.low < 0 < got.gap.high


def test_an_overconfident_detector_has_the_known_gap() -> None:
    got = calibration(*simulated(30000, 0.2), rounds=40)
    assert got is not None
    assert got.d_ece.value == pytest.approx(0.2, abs=0.01)
    assert got.gap.value == pytest.approx(0.2, abs=0.01)
    assert got.gap.low < 0.2 < got.gap.high
    assert got.d_ece.low < got.d_ece.value < got.d_ece.high


def test_place_shows_what_the_score_alone_hides() -> None:
    rng = np.random.default_rng(3)
    n = 20000
    place = rng.uniform(0, 0.2, (n, 4))  # one bin of each but the first
    place[:, 0] = rng.uniform(0, 1, n)
    scores = np.full(n, 0.5)
    hit = rng.uniform(size=n) < np.where(place[:, 0] < 0.4, 0.2, 0.7)  # half right on the whole
    got = calibration(Shown(np.arange(n), scores, hit, place), [str(i) for i in range(n)], rounds=20)
    assert got is not None
    assert got.d_ece.value < 0.02
    assert got.d_ece_placed is not None
    assert got.d_ece_placed.value == pytest.approx(0.4 * 0.3 + 0.6 * 0.2, abs=0.02)
    assert got.placed_share == 1


def test_by_hand() -> None:
    # Two bins: scores 0.92 and 0.94, one right: |0.93 - 0.5|; score 0.5, right: 0.5. Weighted 2 to 1.
    s = Shown(np.array([0, 0, 1]), np.array([0.92, 0.94, 0.5]), np.array([True, False, True]), np.full((3, 4), 0.5))
    got = calibration(s, ["a", "b"], rounds=10)
    assert got is not None
    assert got.d_ece.value == pytest.approx((2 * 0.43 + 0.5) / 3)
    assert got.gap.value == pytest.approx((0.93 * 2 + 0.5 - 2) / 3)
    assert [(b.n, round(b.precision, 6)) for b in got.bins] == [(1, 1.0), (2, 0.5)]
    assert got.d_ece_placed is None
    assert got.placed_share == 0


def test_every_detection_lies_in_one_bin() -> None:
    data, found = random_set(4, 10, crowds=0.2)
    for name, s in shown(data, found, 0.3).items():
        got = calibration(s, [f.field.id for f in data.fields], 0.3, rounds=5)
        k = data.classes.index(name)
        above = sum(int(((d.labels == k) & (d.scores >= np.float32(0.3))).sum()) for d in found)
        assert got is not None
        assert sum(b.n for b in got.bins) == len(s.scores) <= above
        assert all(b.low <= b.score <= b.high for b in got.bins)
        assert len(got.bins) <= BINS
        assert 0 <= got.d_ece.value <= 1
        assert got.d_ece.low <= got.d_ece.value <= got.d_ece.high


def test_place_is_a_share_of_the_field() -> None:
    data = dataset([labelled(Annotations.of([[100, 200, 200, 240]], [0]))])
    found = [Detections([[100, 200, 200, 240]], [0.9], [0], CLASSES)]
    got = shown(data, found)["WBC"]
    assert got.place.tolist() == [[150 / 400, 220 / 400, 100 / 400, 40 / 400]]
    assert got.hit.tolist() == [True]


def test_crowds_and_classes_that_are_not_exhaustive_say_nothing() -> None:
    truth = Annotations.of([[0, 0, 200, 40]], [1], crowd=[True])
    found = [Detections([[10, 10, 30, 30], [300, 0, 320, 20]], [0.9, 0.8], [1, 0], CLASSES)]
    got = shown(dataset([labelled(truth)], exhaustive=("RBC",)), found)
    assert set(got) == {"RBC"}
    assert len(got["RBC"].scores) == 0
    assert calibration(got["RBC"], ["a"], rounds=5) is None


def test_nothing_drawn_is_undefined() -> None:
    assert np.isnan(expected_error(np.zeros((2, 1, 3)), np.ones((1, 2)))[0, 0])
