"""What training and export decide by, on part dev: few figures, without limits.

They stand apart from `classification`, so that a table's rows rest on these alone (see `fingerprint.code_fingerprint`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-12


def macro_f1(truth: NDArray[np.int64], answer: NDArray[np.int64], types: int) -> float:
    """Mean F1 of the types that are there."""
    hits = np.bincount(truth[truth == answer], minlength=types)
    true, called = np.bincount(truth, minlength=types), np.bincount(answer, minlength=types)
    return float((2 * hits / np.maximum(true + called, 1))[true > 0].mean())


def log_loss(truth: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float:
    """Mean negative log of the probability of what is true."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], _TINY)).mean())


def temperature(scores: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """The temperature of least negative log-likelihood (Guo et al., ICML 2017), searched on a grid of 1 %.

    From 0.02 to 2,000: heads that multiply the evidence of hundreds of features, such as naive Bayes, are that sure.
    """
    grid = np.exp(np.arange(-394, 766) * np.log(5.0) / 162)
    wide = np.asarray(scores, np.float64)
    losses = []
    for t in grid:
        scaled = wide / t
        top = scaled.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
        losses.append(float((log_sum - scaled[np.arange(len(truth)), truth]).mean()))
    return float(round(grid[int(np.argmin(losses))], 3))
