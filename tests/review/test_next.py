"""What to label next: unsure fields first, copies last."""

from __future__ import annotations

import numpy as np

from detect.review.next import label_next


def test_the_most_uncertain_field_comes_first_and_its_copy_last() -> None:
    unsure = [0.2, 0.9, 0.89, 0.5, 0.0]
    features = [[0, 0], [5, 5], [5, 5], [9, 0], [1, 9]]
    order = label_next(unsure, features)
    assert order[0] == 1
    assert order[-1] == 2  # a copy of the first teaches nothing
    assert 4 not in order  # the model is sure of it


def test_none_is_taken_twice_and_the_number_is_kept() -> None:
    rng = np.random.default_rng(1)
    order = label_next(rng.random(50).tolist(), rng.random((50, 4)).tolist(), most=20)
    assert len(order) == len(set(order)) == 20
    assert label_next([], []) == []
