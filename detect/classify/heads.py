"""Heads that are no layer of a network, as modules of torch: fitted by scikit-learn (`fitted_heads`), run without it.

A fitted head becomes a module of plain tensors that gives the same answers. So a bundle of a network with a support
vector machine is one graph like any other: it runs on every engine, without scikit-learn, and nothing is pickled.
Every module takes float32 (n, features) and gives scores, (n, types); their softmax is calibrated by a temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from detect.classify.fuzzy import FuzzyHead

Tensors = Mapping[str, torch.Tensor]
_LEAST = 1e-6  # probability that 0 is taken for in a logarithm


class Stored(nn.Module):
    """A module whose every number is a buffer, so that it can be built again from its tensors alone."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value)


class Linear(Stored):
    """Logistic regression, linear discriminant analysis, linear SVM: `weight` (types, features), `bias` (types,)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return x @ self.weight.t() + self.bias


class Kernel(Stored):
    """Support vector machines, one against the rest for each type.

    `vectors` (v, features) of all machines, `weight` (types, v), `bias` (types,), `gamma` (), and `degree` () with 0
    for the Gaussian kernel; of a polynomial the constant is 1.
    """

    vectors: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    gamma: torch.Tensor
    degree: torch.Tensor

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__(**tensors)
        self._degree = int(self.degree)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Distances from the planes, in margins."""
        product = x @ self.vectors.t()
        if self._degree:
            alike = (self.gamma * product + 1.0) ** self._degree
        else:
            far = (x * x).sum(dim=1, keepdim=True) - 2 * product + (self.vectors * self.vectors).sum(dim=1)
            alike = torch.exp(-self.gamma * far.clamp(min=0))
        return alike @ self.weight.t() + self.bias


class Trees(Stored):
    """A random forest, or one tree: all trees walked at once, as deep as the deepest.

    Nodes in columns, padded: `feature`, `left`, `right` int64 (trees, nodes), `limit` float32 (trees, nodes), `told`
    (trees, nodes, types). A leaf leads to itself.
    """

    feature: torch.Tensor
    limit: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    told: torch.Tensor
    depth: torch.Tensor

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__(**tensors)
        self._depth = int(self.depth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log of the mean over trees of the share of each type in the leaf."""
        trees, nodes, types = self.told.shape
        # One row of all nodes of all trees, so that a walk is a plain look-up.
        first = (torch.arange(trees, device=x.device) * nodes)[None, :]
        at = first.expand(x.shape[0], trees)
        for _ in range(self._depth):
            value = x.gather(1, self.feature.reshape(-1)[at])
            down = value <= self.limit.reshape(-1)[at]
            at = first + torch.where(down, self.left.reshape(-1)[at], self.right.reshape(-1)[at])
        share = self.told.reshape(-1, types)[at].mean(dim=1)
        return torch.log(share.clamp(min=_LEAST))


class Nearest(Stored):
    """k nearest neighbours: `cells` (m, features), `types` (m, types) one-hot, `count` () neighbours."""

    cells: torch.Tensor
    types: torch.Tensor
    count: torch.Tensor

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__(**tensors)
        self._count = int(self.count)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log of the share of each type among the nearest."""
        far = (self.cells * self.cells).sum(dim=1) - 2 * x @ self.cells.t()
        nearest = far.topk(self._count, dim=1, largest=False).indices
        return torch.log(self.types[nearest].mean(dim=1).clamp(min=_LEAST))


class Normal(Stored):
    """Gaussian naive Bayes: `mean`, `variance` (types, features), `prior` (types,) in logarithms."""

    mean: torch.Tensor
    variance: torch.Tensor
    prior: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Joint log-likelihood."""
        width = torch.log(2 * torch.pi * self.variance).sum(dim=1)
        # Not multiplied out: where a feature hardly varies within a type, large numbers would cancel.
        gap = (x[:, None] - self.mean) * torch.rsqrt(self.variance)
        # As a product: the sum over an axis that was broadcast before is wrong in OpenVINO, for more than one cell.
        return self.prior - 0.5 * (width + torch.einsum("ntf,ntf->nt", gap, gap))


class Perceptron(Stored):
    """A multi-layer perceptron: `weight0`, `bias0` and so on, ReLU between."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        layers = len(list(self.buffers())) // 2
        for i in range(layers):
            x = x @ getattr(self, f"weight{i}").t() + getattr(self, f"bias{i}")
            if i + 1 < layers:
                x = torch.relu(x)
        return x


MODULES: dict[str, Callable[..., nn.Module]] = {
    "svm-linear": Linear,
    "svm-rbf": Kernel,
    "svm-cubic": Kernel,
    "random-forest": Trees,
    "decision-tree": Trees,
    "k-nn": Nearest,
    "naive-bayes": Normal,
    "lda": Linear,
    "logistic": Linear,
    "mlp": Perceptron,
    "fuzzy": FuzzyHead,
}


def rebuild(name: str, tensors: Tensors) -> nn.Module:
    """The head of a bundle from its tensors."""
    return MODULES[name](**tensors).eval()
