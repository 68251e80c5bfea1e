"""Fitted heads as modules of torch: the answers of scikit-learn, for two types and for more; losses and selection."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_classification
from sklearn.feature_selection import mutual_info_classif

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.nn import functional  # noqa: E402

from detect.classify.fitted_heads import HEADS, fit  # noqa: E402
from detect.classify.heads import MODULES, rebuild  # noqa: E402
from detect.classify.losses import focal, loss_of, tversky, weights_of  # noqa: E402
from detect.classify.select import agree, gain_ratio, mrmr, scores, select  # noqa: E402
from detect.classify.settings import ClassifierSettings, Selection  # noqa: E402
from detect.errors import ConfigError  # noqa: E402
from detect.runtime.base import EngineSettings, installed, open_graph  # noqa: E402

Made = tuple[np.ndarray, np.ndarray]


def cells(types: int, seed: int = 1, n: int = 240) -> Made:
    """Features and types."""
    x, y = make_classification(n, 16, n_informative=8, n_classes=types, random_state=seed)
    return x.astype(np.float32), y


def test_every_head_that_is_fitted_has_what_runs_it() -> None:
    assert list(MODULES) == list(HEADS)


def test_a_network_of_ours_is_trained_without_the_libraries_of_other_models() -> None:
    code = """
import sys
import detect.classify.train
from detect.classify import networks
networks.build("smallnet", 3, 32)
print([m for m in ("sklearn", "timm", "torchvision", "ultralytics") if m in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("types", [2, 3, 5])
@pytest.mark.parametrize("name", [h for h in HEADS if h != "fuzzy"])
def test_answers_as_scikit_learn(name: str, types: int) -> None:
    x, y = cells(types)
    row = HEADS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = fit(name, {}, x[:160], y[:160], 3)
        theirs = row.make(**({"random_state": 3} if row.seeded else {})).fit(x[:160], y[:160])
    told = module(torch.from_numpy(x[160:])).detach()
    assert told.shape == (80, types)
    assert told.argmax(dim=1).tolist() == theirs.predict(x[160:]).tolist()
    if name in ("logistic", "mlp", "random-forest", "decision-tree", "k-nn", "naive-bayes", "lda"):
        expected = theirs.predict_proba(x[160:])
        assert torch.softmax(told, dim=1).numpy() == pytest.approx(expected, abs=2e-5)
    elif types > 2:
        expected = np.stack([m.decision_function(x[160:]) for m in theirs.estimators_], axis=1)
        assert told.numpy() == pytest.approx(expected, abs=2e-4)
    again = rebuild(name, module.state_dict())
    assert torch.equal(again(torch.from_numpy(x)), module(torch.from_numpy(x)))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_a_graph(name: str, tmp_path: Path) -> None:
    """In every engine, for any number of cells, with the scores of its module."""
    x, y = cells(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = fit(name, {}, x[:160], y[:160], 1)
        torch.onnx.export(
            module, (torch.from_numpy(x[:2]),), str(tmp_path / "g.onnx"), input_names=["x"], output_names=["scores"],
            dynamic_axes={"x": {0: "n"}, "scores": {0: "n"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
    expected = module(torch.from_numpy(x)).detach().numpy()
    for engine in installed():
        graph = open_graph(tmp_path / "g.onnx", EngineSettings(engine))
        for n in (1, 80):
            (got,) = graph.run(x[:n])
            assert got == pytest.approx(expected[:n], abs=1e-3 * max(1.0, float(np.abs(expected).max()))), engine
            assert got.argmax(axis=1).tolist() == expected[:n].argmax(axis=1).tolist(), engine


def test_a_tree_splits_where_scikit_learn_does_at_the_very_limit() -> None:
    """Features that lie on a threshold, or the next float beside it, go to the same side."""
    x, y = cells(3)
    made = HEADS["decision-tree"].make(random_state=1).fit(x, y)
    module = fit("decision-tree", {}, x, y, 1)
    limits = made.tree_.threshold[made.tree_.children_left >= 0]
    which = made.tree_.feature[made.tree_.children_left >= 0]
    rows = []
    for limit, feature in zip(limits, which, strict=True):
        near = np.float32(limit)
        for value in (near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))):
            row = x[0].copy()
            row[feature] = value
            rows.append(row)
    told = module(torch.from_numpy(np.stack(rows))).argmax(dim=1)
    assert told.tolist() == made.predict(np.stack(rows)).tolist()


@pytest.mark.parametrize("types", [2, 4])
def test_fuzzy_rules_tell_types_apart_that_no_plane_does(types: int) -> None:
    """Rings of alternate types: a linear head cannot, local rules can."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, types, 600)
    turn = rng.uniform(0, 2 * np.pi, 600)
    far = y * 2 + rng.normal(0, 0.25, 600) + 0.5
    x = np.stack([far * np.cos(turn), far * np.sin(turn)], axis=1).astype(np.float32)
    module = fit("fuzzy", {"rules": 16, "ridge": 0.01}, x[:400], y[:400], 1)
    linear = fit("logistic", {}, x[:400], y[:400], 1)
    given_x = torch.from_numpy(x[400:])
    assert (module(given_x).argmax(dim=1).numpy() == y[400:]).mean() > 0.85
    assert (linear(given_x).argmax(dim=1).numpy() == y[400:]).mean() < 0.75
    module(given_x).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


def test_an_unknown_head_or_argument_is_refused() -> None:
    x, y = cells(2)
    with pytest.raises(ConfigError, match="one of: svm-linear"):
        fit("svm", {}, x, y, 1)
    with pytest.raises(ConfigError, match="head svm-rbf"):
        fit("svm-rbf", {"c": 1}, x, y, 1)
    with pytest.raises(ConfigError, match="head svm-rbf"):
        fit("svm-rbf", {"C": -1}, x, y, 1)
    with pytest.raises(ConfigError, match="scikit-learn's answers"):
        fit("mlp", {"activation": "tanh"}, x, y, 1)
    with pytest.raises(ConfigError, match="head k-nn"):
        fit("k-nn", {"n_neighbors": 999}, x, y, 1)
    with pytest.raises(ConfigError, match="no cell to learn from"):
        fit("lda", {}, x, y * 2, 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_losses_against_torch_and_closed_cases(seed: int, smooth: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    told = torch.randn(12, 4, generator=rng) * 2
    labels = torch.randint(0, 4, (12,), generator=rng)
    target = functional.one_hot(labels, 4).float()
    plain = ClassifierSettings(label_smoothing=0.1 if smooth else 0.0)
    ours = loss_of(plain, labels.numpy(), 4)(told, target)
    assert float(ours) == pytest.approx(
        float(functional.cross_entropy(told, labels, label_smoothing=plain.label_smoothing)), rel=1e-4
    )
    weighed = loss_of(plain.model_copy(update={"class_weights": "balanced", "label_smoothing": 0.0}), labels.numpy(), 4)
    expected = functional.cross_entropy(told, labels, weight=weights_of(labels.numpy(), 4))
    assert float(weighed(told, target)) == pytest.approx(float(expected), rel=1e-4)
    p = torch.softmax(told, dim=1)[torch.arange(12), labels]
    assert float(focal(told, target, 2.0, torch.ones(4))) == pytest.approx(
        float((-((1 - p) ** 2) * p.log()).mean()), rel=1e-4
    )
    sure = (functional.one_hot(labels, 4).float() * 100).requires_grad_()
    focal(sure, target, 0.5, torch.ones(4)).backward()
    assert torch.isfinite(sure.grad).all()
    sure = sure.detach()
    assert float(tversky(sure, target, 0.3, torch.ones(4))) == pytest.approx(0, abs=1e-4)
    assert 0 < float(tversky(told, target, 0.3, torch.ones(4))) < 1


def test_tversky_weighs_what_is_falsely_called_by_alpha() -> None:
    """One cell of the first type, told half a second one: 1/2 hit, 1/2 missed; of the second 1/2 false."""
    told, target = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    loss = float(tversky(told, target, 0.3, torch.tensor([1.0, 0.0])))
    assert loss == pytest.approx(1 - 0.5 / (0.5 + 0.7 * 0.5), abs=1e-4)
    # The first is told the second type: of that 1/2 is hit and 1/2 missed, and 1 falsely called.
    more, both = torch.tensor([[0.0, 50.0], [0.0, 0.0]]), torch.eye(2)
    second = float(tversky(more, both, 0.3, torch.tensor([0.0, 1.0])))
    assert second == pytest.approx(1 - 0.5 / (0.5 + 0.3 * 1.0 + 0.7 * 0.5), abs=1e-4)


def test_tversky_at_a_half_is_dice() -> None:
    told, labels = torch.randn(10, 3), torch.arange(10) % 3
    target = functional.one_hot(labels, 3).float()
    p = torch.softmax(told, dim=1)
    dice = 2 * (p * target).sum(dim=0) / (p.sum(dim=0) + target.sum(dim=0))
    assert float(tversky(told, target, 0.5, torch.ones(3))) == pytest.approx(float((1 - dice).mean()), abs=1e-5)


def test_gain_ratio_of_known_cases() -> None:
    y = np.array([0, 0, 1, 1] * 10)
    same = y.astype(np.float32)
    assert gain_ratio(same, y) == pytest.approx(1.0)
    assert gain_ratio(np.tile(np.array([0, 1], np.float32), 20), y) == pytest.approx(0.0)
    assert gain_ratio(np.ones(40, np.float32), y) == 0
    four = np.tile(np.arange(4, dtype=np.float32), 10)  # tells the type, in four bins where two would do
    assert gain_ratio(four, y) == pytest.approx(0.5)


@pytest.mark.parametrize("by", ["mutual_information", "gain_ratio", "chi_squared", "mrmr"])
def test_selection_finds_what_tells(by: str) -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, 300)
    x = rng.normal(0, 1, (300, 10)).astype(np.float32)
    x[:, 7] += 2.5 * y
    x[:, 2] -= 2.0 * (y == 1)
    turn = select(Selection(by=by, keep=2), x, y, 1)
    assert turn.shape == (10, 2)
    assert sorted(turn.argmax(axis=0).tolist()) == [2, 7]


def test_mrmr_leaves_the_copy_out() -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 400)
    first, second = y + rng.normal(0, 0.4, 400), y + rng.normal(0, 0.7, 400)
    x = np.stack([first, first + rng.normal(0, 0.01, 400), second], axis=1).astype(np.float32)
    assert set(mrmr(x, y, 2, 1).tolist()) in ({0, 2}, {1, 2})
    relevance = scores("mutual_information", x, y, 1)
    assert relevance == pytest.approx(mutual_info_classif(x, y, random_state=1))
    assert relevance[2] < min(relevance[0], relevance[1])


def test_pca_and_agreement_against_their_meaning() -> None:
    rng = np.random.default_rng(6)
    common = rng.normal(0, 1, (200, 1))
    a = (common @ rng.normal(0, 1, (1, 6)) + rng.normal(0, 0.5, (200, 6))).astype(np.float32)
    b = (common @ rng.normal(0, 1, (1, 5)) + rng.normal(0, 0.5, (200, 5))).astype(np.float32)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    left, right = agree(a, b, 2)
    found = [np.corrcoef((a @ left)[:, i], (b @ right)[:, i])[0, 1] for i in range(2)]
    # In closed form: singular values of the covariance of both, each whitened.
    whitened = [np.linalg.svd(k, full_matrices=False)[0] for k in (a, b)]
    assert np.abs(found) == pytest.approx(np.linalg.svd(whitened[0].T @ whitened[1])[1][:2], abs=0.02)
    turn = select(Selection(by="pca", keep=3), a, np.zeros(200, np.int64), 1)
    assert turn.T @ turn == pytest.approx(np.eye(3), abs=1e-5)
    with pytest.raises(ConfigError, match="keep fewer"):
        select(Selection(by="mrmr", keep=99), a, np.zeros(200, np.int64), 1)
