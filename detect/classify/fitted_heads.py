"""Heads fitted by scikit-learn, which this file alone imports as a whole, and made modules of torch (`heads`).

It takes seconds to import: whoever runs heads, or checks a recipe that has none, does without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from detect.classify.fuzzy import FuzzyHead
from detect.classify.heads import Tensors, rebuild
from detect.errors import ConfigError

_ALIKE = 0.995  # least share of answers that a module has in common with what was fitted; ties may fall either way


def _float(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(values, np.float32)))


def _two(values: NDArray[Any]) -> NDArray[Any]:
    """Of two types scikit-learn keeps one score, that of the second; ours keeps both, opposite."""
    return np.concatenate([-values / 2, values / 2]) if len(values) == 1 else values


def _from_linear(fitted: Any) -> Tensors:
    return {"weight": _float(_two(fitted.coef_)), "bias": _float(_two(np.atleast_1d(fitted.intercept_)))}


def _from_machines(fitted: OneVsRestClassifier) -> Tensors:
    machines = fitted.estimators_
    vectors = np.concatenate([m.support_vectors_ for m in machines])
    weight = np.zeros((len(machines), len(vectors)))
    start = 0
    for row, machine in enumerate(machines):
        weight[row, start : start + len(machine.support_vectors_)] = machine.dual_coef_[0]
        start += len(machine.support_vectors_)
    bias = np.array([m.intercept_[0] for m in machines])
    if machines[0].kernel == "linear":
        return {"weight": _float(_two(weight @ vectors)), "bias": _float(_two(bias))}
    degree = 0 if machines[0].kernel == "rbf" else machines[0].degree
    return {
        "vectors": _float(vectors),
        "weight": _float(_two(weight)),
        "bias": _float(_two(bias)),
        "gamma": torch.tensor(float(machines[0]._gamma)),
        "degree": torch.tensor(degree),
    }


def _from_trees(fitted: Any) -> Tensors:
    trees = [t.tree_ for t in getattr(fitted, "estimators_", [fitted])]
    nodes = max(t.node_count for t in trees)
    types = len(fitted.classes_)
    feature, left, right = (np.zeros((len(trees), nodes), np.int64) for _ in range(3))
    limit = np.zeros((len(trees), nodes), np.float32)
    told = np.zeros((len(trees), nodes, types), np.float32)
    for i, tree in enumerate(trees):
        n, leaf = tree.node_count, tree.children_left < 0
        own = np.arange(n)
        feature[i, :n] = np.where(leaf, 0, tree.feature)
        left[i, :n] = np.where(leaf, own, tree.children_left)
        right[i, :n] = np.where(leaf, own, tree.children_right)
        limit[i, :n] = _not_above(tree.threshold)
        values = tree.value[:, 0, :]
        told[i, :n] = values / values.sum(axis=1, keepdims=True)
    return {
        "feature": torch.from_numpy(feature),
        "left": torch.from_numpy(left),
        "right": torch.from_numpy(right),
        "limit": torch.from_numpy(limit),
        "told": torch.from_numpy(told),
        "depth": torch.tensor(max(t.max_depth for t in trees)),
    }


def _not_above(limits: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each: features are float32, so none falls between the two."""
    near = limits.astype(np.float32)
    return np.where(near > limits, np.nextafter(near, np.float32(-np.inf)), near)


def _neighbours(**args: Any) -> KNeighborsClassifier:
    """Among its own cells each is its own nearest by any measure, so that `fit` would not notice another one."""
    plain = {"weights": ("uniform",), "metric": ("minkowski", "euclidean"), "p": (2,), "metric_params": (None,)}
    for key, allowed in plain.items():
        if args.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key}: {args[key]!r}; only {allowed[0]!r} is computed")
    return KNeighborsClassifier(**args)


def _from_neighbours(fitted: KNeighborsClassifier) -> Tensors:
    return {
        "cells": _float(fitted._fit_X),
        "types": _float(np.eye(len(fitted.classes_))[fitted._y]),
        "count": torch.tensor(fitted.n_neighbors),
    }


def _from_bayes(fitted: GaussianNB) -> Tensors:
    return {
        "mean": _float(fitted.theta_),
        "variance": _float(fitted.var_),
        "prior": _float(np.log(fitted.class_prior_)),
    }


def _from_perceptron(fitted: MLPClassifier) -> Tensors:
    out: dict[str, torch.Tensor] = {}
    last = len(fitted.coefs_) - 1
    for i, (weight, bias) in enumerate(zip(fitted.coefs_, fitted.intercepts_, strict=True)):
        rows, offset = weight.T, bias
        if i == last:
            rows, offset = _two(rows), _two(offset)
        out |= {f"weight{i}": _float(rows), f"bias{i}": _float(offset)}
    return out


def _machine(**args: Any) -> Any:
    """One against the rest, so that each type has one score; types weigh alike."""
    return OneVsRestClassifier(SVC(class_weight="balanced", **args))


@dataclass(frozen=True)
class Head:
    """One row of the table.

    Attributes:
        make: arguments of scikit-learn and a seed to what can be fitted.
        tensors: what was fitted, to the tensors of its module.
    """

    make: Callable[..., Any]
    tensors: Callable[[Any], Tensors]
    seeded: bool = True


HEADS: dict[str, Head] = {
    "svm-linear": Head(lambda **a: _machine(kernel="linear", **a), _from_machines),
    "svm-rbf": Head(lambda **a: _machine(kernel="rbf", **a), _from_machines),
    "svm-cubic": Head(lambda **a: _machine(kernel="poly", degree=3, coef0=1.0, **a), _from_machines),
    "random-forest": Head(
        lambda **a: RandomForestClassifier(**{"n_estimators": 200, "class_weight": "balanced"} | a), _from_trees
    ),
    "decision-tree": Head(
        lambda **a: DecisionTreeClassifier(**{"min_samples_leaf": 3, "class_weight": "balanced"} | a),
        _from_trees,
    ),
    "k-nn": Head(_neighbours, _from_neighbours, seeded=False),
    "naive-bayes": Head(lambda **a: GaussianNB(**a), _from_bayes, seeded=False),
    "lda": Head(
        lambda **a: LinearDiscriminantAnalysis(**{"solver": "lsqr", "shrinkage": "auto"} | a),
        _from_linear,
        seeded=False,
    ),
    "logistic": Head(
        lambda **a: LogisticRegression(**{"max_iter": 2000, "class_weight": "balanced"} | a), _from_linear
    ),
    "mlp": Head(
        lambda **a: MLPClassifier(**{"hidden_layer_sizes": (64,), "early_stopping": False, "max_iter": 500} | a),
        _from_perceptron,
    ),
    "fuzzy": Head(FuzzyHead.unfitted, FuzzyHead.tensors),
}


def made(name: str, args: Mapping[str, Any], seed: int, where: str = "") -> Any:
    """What scikit-learn fits; ConfigError where there is no such head, or it takes no such argument."""
    if name not in HEADS:
        raise ConfigError(f"head: no '{name}'", where=where, remedy=f"one of: {', '.join(HEADS)}")
    seeded = {"random_state": seed} if HEADS[name].seeded else {}
    try:
        return HEADS[name].make(**seeded | dict(args))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"head {name}: {error}", where=where, remedy="see the arguments of scikit-learn") from error


def fit(
    name: str, args: Mapping[str, Any], x: NDArray[np.float32], y: NDArray[np.int64], seed: int, where: str = ""
) -> nn.Module:
    """A fitted head, as a module.

    Args:
        x: features, float32 (n, f). y: types from 0 on, each at least once.

    Raises:
        ConfigError: as `made`; or an argument asks for what the module does not compute.
    """
    if len(np.unique(y)) != y.max() + 1:
        raise ConfigError(
            "a type has no cell to learn from", where=where, remedy="use a split with every type in train"
        )
    head = made(name, args, seed, where)
    try:
        head.fit(x, y)
        module = rebuild(name, HEADS[name].tensors(head))
        told = module(torch.from_numpy(x)).detach().numpy().argmax(axis=1)
        theirs = head.predict(x) if hasattr(head, "predict") else told
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"head {name}: {error}", where=where, remedy="see the arguments of scikit-learn") from error
    alike = float((told == theirs).mean())
    if alike < _ALIKE:
        what = f"head {name}: with {dict(args)} its module gives {alike:.1%} of scikit-learn's answers"
        raise ConfigError(what, where=where, remedy="leave out the argument that changes how it computes")
    return module
