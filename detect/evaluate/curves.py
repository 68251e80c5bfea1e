"""What a curve of scores on dev tells of a training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LEAST = 10  # epochs; of fewer the last steps, which are small, hide what more would bring
_RISE = 0.01  # from one fifth of the epochs to the next: more, and it still rises, if it is no accident
_ERRORS = 2.0  # standard errors of that, by how the scores of each fifth scatter


def still_rises(scores: Sequence[float]) -> bool:
    """Whether the mean of the last fifth of these, one an epoch, lies above that of the fifth before.

    By more than 0.01, and by more than two standard errors: of a dev part of some dozen cells one cell moves a score
    by as much. A steady rise passes, since the scatter within a fifth is then a part of the rise. A model of which that
    holds was stopped by its budget: its figure says little of what it can reach.
    """
    if len(scores) < _LEAST:
        return True  # nobody can say that it has come to rest
    fifth = len(scores) // 5
    last, before = np.asarray(scores[-fifth:]), np.asarray(scores[-2 * fifth : -fifth])
    error = float(np.sqrt((last.var() + before.var()) / fifth))
    return float(last.mean() - before.mean()) > max(_RISE, _ERRORS * error)


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """The mean of several trainings' curves, epoch by epoch, as long as the shortest."""
    least = min(len(curve) for curve in curves)
    return [float(v) for v in np.mean([curve[:least] for curve in curves], axis=0)]
