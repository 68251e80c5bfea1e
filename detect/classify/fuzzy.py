"""A fuzzy head: rules "if a cell is like this, then its scores are so", after Takagi, Sugeno and Kang."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class FuzzyHead(nn.Module):
    """First-order TSK rules (Takagi and Sugeno, 1985): each has a centre and widths, and a linear answer of its own.

    A rule fires by the mean over features of the squared distance from its centre in widths: with the sum, as in the
    textbook, one rule takes all as soon as there are many features (Cui, Wu and Huang, 2020). It is a layer like any
    other, with gradients; `fit` sets it without any, centres by k-means and answers by ridge regression.

    Input (n, features), output (n, types). Tensors: `centres`, `widths` (rules, features), `answers`
    (rules, types, features + 1), the last column the constant.
    """

    def __init__(self, centres: torch.Tensor, widths: torch.Tensor, answers: torch.Tensor) -> None:
        super().__init__()
        self.centres, self.widths, self.answers = nn.Parameter(centres), nn.Parameter(widths), nn.Parameter(answers)

    @classmethod
    def new(cls, features: int, types: int, rules: int = 8) -> FuzzyHead:
        """Untrained, as the head of a network."""
        centres = torch.randn(rules, features) * 0.5
        answers = torch.randn(rules, types, features + 1) * features**-0.5
        return cls(centres, torch.ones(rules, features), answers)

    def fires(self, x: torch.Tensor) -> torch.Tensor:
        """How far each rule applies, (n, rules) summing to 1."""
        narrow = 1 / (self.widths * self.widths).clamp(min=1e-6)
        far = (x * x) @ narrow.t() - 2 * x @ (self.centres * narrow).t() + (self.centres**2 * narrow).sum(dim=1)
        return torch.softmax(-far / (2 * x.shape[1]) * _SHARP, dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        rules, types, _ = self.answers.shape
        slope, constant = self.answers[..., :-1].reshape(rules * types, -1), self.answers[..., -1].reshape(-1)
        told = (x @ slope.t() + constant).reshape(-1, rules, types)
        return (told * self.fires(x)[:, :, None]).sum(dim=1)

    @staticmethod
    def unfitted(rules: int = 8, ridge: float = 1.0, random_state: int = 1) -> Fuzzy:
        """What `heads.fit` fits."""
        return Fuzzy(rules, ridge, random_state)

    @staticmethod
    def tensors(fitted: Fuzzy) -> Mapping[str, torch.Tensor]:
        """What `Fuzzy.fit` found."""
        assert fitted.found is not None
        return fitted.found


_SHARP = 4.0  # widths are of the whole cloud of a rule's cells; its neighbours begin well inside them
_GAIN = 8.0  # from a regression on 0 and 1 to scores whose softmax is a probability


class Fuzzy:
    """Fits a `FuzzyHead` in two steps, in the manner of scikit-learn."""

    def __init__(self, rules: int, ridge: float, random_state: int) -> None:
        self.rules, self.ridge, self.random_state = rules, ridge, random_state
        self.found: dict[str, torch.Tensor] | None = None

    def fit(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> Fuzzy:
        """Centres by k-means, widths by the spread around them, answers by ridge regression of all rules at once."""
        from sklearn.cluster import KMeans

        rules = min(self.rules, len(x))
        clusters = KMeans(rules, n_init=4, random_state=self.random_state).fit(x)
        spread = np.stack([x[clusters.labels_ == r].std(axis=0) for r in range(rules)])
        widths = np.maximum(spread, 0.5 * x.std(axis=0)) + 1e-3
        types = int(y.max()) + 1
        head = FuzzyHead(_tensor(clusters.cluster_centers_), _tensor(widths), torch.zeros(rules, types, x.shape[1] + 1))
        with torch.no_grad():
            fires = head.fires(torch.from_numpy(np.asarray(x, np.float32))).numpy().astype(np.float64)
        known = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        design = (fires[:, :, None] * known[:, None, :]).reshape(len(x), -1)
        target = (np.eye(types)[y] - 1 / types) * _GAIN
        answers = _ridge(design, target, self.ridge)
        shape = (rules, x.shape[1] + 1, types)
        self.found = {
            "centres": head.centres.detach(),
            "widths": head.widths.detach(),
            "answers": _tensor(answers.reshape(shape).transpose(0, 2, 1)),
        }
        return self


def _ridge(design: NDArray[np.float64], target: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Least squares with a penalty, solved in whichever of rows and columns there are fewer."""
    n, k = design.shape
    if k <= n:
        return np.asarray(np.linalg.solve(design.T @ design + ridge * np.eye(k), design.T @ target))
    return np.asarray(design.T @ np.linalg.solve(design @ design.T + ridge * np.eye(n), target))


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(values, np.float32)))
