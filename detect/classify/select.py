"""Fewer features: those that tell most, or directions in which they vary or agree most. scikit-learn does the work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detect.classify.settings import Selection
from detect.errors import ConfigError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_BINS = 10
_VARIANCE = 0.99


def select(how: Selection, x: Floats, y: NDArray[np.int64], seed: int, where: str = "") -> Doubles:
    """What features are multiplied by, float64 (features, kept), after their mean is taken off.

    A selection is a matrix of zeros and ones, so that all ways are run alike.
    """
    if how.keep > x.shape[1]:
        what = f"select.keep: {how.keep} of {x.shape[1]} features"
        raise ConfigError(what, where=where, remedy="keep fewer")
    if how.by == "pca":
        from sklearn.decomposition import PCA

        if how.keep > min(x.shape):
            what = f"select.keep: {x.shape[0]} cells have no {how.keep} directions"
            raise ConfigError(what, where=where, remedy=f"keep {min(x.shape)} or fewer")
        return np.asarray(PCA(how.keep, random_state=seed).fit(x).components_.T, np.float64)
    chosen = mrmr(x, y, how.keep, seed) if how.by == "mrmr" else np.argsort(-scores(how.by, x, y, seed), kind="stable")
    return np.eye(x.shape[1])[:, chosen[: how.keep]]


def scores(by: str, x: Floats, y: NDArray[np.int64], seed: int) -> Doubles:
    """How much each feature tells of the type, float64 (features,)."""
    from sklearn.feature_selection import chi2, mutual_info_classif

    if by == "mutual_information":
        return np.asarray(mutual_info_classif(x, y, random_state=seed), np.float64)
    if by == "chi_squared":
        low, high = x.min(axis=0), x.max(axis=0)
        return np.nan_to_num(np.asarray(chi2((x - low) / np.maximum(high - low, 1e-12), y)[0], np.float64))
    return np.array([gain_ratio(x[:, i], y) for i in range(x.shape[1])])


def gain_ratio(values: Floats, y: NDArray[np.int64]) -> float:
    """Information that a feature in ten bins of equal width gives of the type, over the information in the bins
    themselves (Quinlan, C4.5, 1993); 0 where all fall in one."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return 0.0
    bins = np.clip(((values - low) / (high - low) * _BINS).astype(np.int64), 0, _BINS - 1)
    table = np.zeros((_BINS, int(y.max()) + 1))
    np.add.at(table, (bins, y), 1)
    own = _entropy(table.sum(axis=1))
    within = sum(row.sum() / len(y) * _entropy(row) for row in table if row.sum())
    return float((_entropy(table.sum(axis=0)) - within) / own) if own > 0 else 0.0


def _entropy(counts: Doubles) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def mrmr(x: Floats, y: NDArray[np.int64], keep: int, seed: int) -> NDArray[np.int64]:
    """Most relevance, least redundancy (Peng, Long and Ding, 2005): features one by one, each with the greatest
    mutual information with the type less its mean absolute correlation with those chosen, both from 0 to 1."""
    relevance = scores("mutual_information", x, y, seed)
    relevance = relevance / max(relevance.max(), 1e-12)
    steady = x.std(axis=0) < 1e-9
    wide = np.where(steady, 1.0, x.std(axis=0))
    z = (x - x.mean(axis=0)) / wide
    chosen = [int(np.argmax(relevance))]
    redundancy = np.zeros(x.shape[1])
    while len(chosen) < keep:
        redundancy += np.abs(z.T @ z[:, chosen[-1]]) / len(x)
        value = relevance - redundancy / len(chosen)
        value[steady] = -1e9  # a column that is the same for all cells tells nothing, and is like no other
        value[chosen] = -np.inf
        chosen.append(int(np.argmax(value)))
    return np.array(chosen, np.int64)


def agree(a: Floats, b: Floats, directions: int) -> tuple[Doubles, Doubles]:
    """Matrices that turn two kinds of features, each scaled, to the directions in which they agree most: canonical
    correlation, whose projections of both are then put side by side (Haghighat et al., 2016).

    Of each kind only the directions that hold 99 % of its variance take part: in the others, which are noise, two kinds
    of many features agree in everything.
    """
    from sklearn.cross_decomposition import CCA
    from sklearn.decomposition import PCA

    left, right = (PCA(_VARIANCE, svd_solver="full").fit(k) for k in (a, b))
    x, y = left.transform(a), right.transform(b)
    most = min(directions, x.shape[1], y.shape[1], len(a) - 1)
    found = CCA(most, scale=False, max_iter=2000).fit(x, y)
    turns = ((left, found.x_rotations_), (right, found.y_rotations_))
    first, second = (np.asarray(p.components_.T @ r, np.float64) for p, r in turns)
    return first, second
