"""Recipes fitted to drawn cells: networks, hybrids, ensembles; graphs answer as they do; nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from detect.config import parse
from detect.data.typed import TypedCell
from detect.errors import ConfigError
from tests.classify.conftest import TYPES

torch = pytest.importorskip("torch", reason="torch is not installed")

from detect.classify import answerers, fit, handmade  # noqa: E402
from detect.classify import familiar as familiarity  # noqa: E402
from detect.classify.answerers import Familiar, combine, measured_of, takes_measured  # noqa: E402
from detect.classify.bundled import sees_pixels  # noqa: E402
from detect.classify.cells import Cells, keep  # noqa: E402
from detect.classify.export import write_graph  # noqa: E402
from detect.classify.fit import Task, mixture  # noqa: E402
from detect.classify.handmade import measure  # noqa: E402
from detect.classify.learn import chances, precision_for, write_weights  # noqa: E402
from detect.classify.networks import build  # noqa: E402
from detect.classify.recipes import check  # noqa: E402
from detect.classify.settings import (  # noqa: E402
    ClassifierSettings,
    CropSettings,
    EnsembleSettings,
    HybridSettings,
    load_recipe,
)
from detect.evaluate.curves import still_rises  # noqa: E402
from detect.runtime.base import EngineSettings, installed, open_graph  # noqa: E402

Drawn = tuple[list[TypedCell], list[TypedCell]]
SMALL: dict[str, Any] = {"image_size": 48, "epochs": 14, "batch": 10, "learning_rate": 0.004, "precision": "fp32"}
CROP = {"image_size": 48, "margin": 0.1}


@pytest.fixture(autouse=True, scope="module")
def _one_core(one_thread: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detect.classify.learn.cores", lambda: 1)
        yield


@pytest.fixture
def task(drawn_cells: Drawn, tmp_path: Path) -> Task:
    cells, dev = drawn_cells
    return Task(cells, dev, TYPES, "c.yaml", tmp_path / "features", "cpu")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A configuration of a network, to be a part of something."""
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"network": "smallnet"}), "utf-8")
    return path


def recipe(kind: type, **values: Any) -> Any:
    """Settings as a file would give them."""
    return parse(kind, values, "c.yaml")


def test_a_network_learns_and_is_not_trained_twice(task: Task, tmp_path: Path) -> None:
    settings = recipe(ClassifierSettings, **SMALL | {"network": "smallnet", "patience": 6})
    made = fit.fit(settings, task, tmp_path / "out")
    assert made.about["best_epoch"] <= made.about["epochs"] <= 14
    assert made.told["name"] == "smallnet"
    dev = keep(task.dev, TYPES, settings)
    answers = fit.answers_of(made.model, made.told, dev, 48, settings.margin).argmax(axis=1)
    assert (answers == dev.labels).mean() > 0.6
    log = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert log[0] == "epoch,loss,dev log-loss,dev macro F1,dev accuracy"
    assert len(log) == 1 + made.about["epochs"]
    again = fit.fit(settings, replace(task, cells=[]), tmp_path / "out")
    assert np.array_equal(fit.answers_of(again.model, again.told, dev, 48, settings.margin).argmax(axis=1), answers)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "focal", "class_weights": "balanced"}, {"loss": "tversky"}, {"mixup": 0.4, "schedule": "cosine"},
     {"sampling": "balanced", "features": "frozen"}, {"mask_out": "ellipse"}],
    ids=lambda c: next(iter(c.values())) if isinstance(c, dict) else None,
)  # fmt: skip
def test_every_way_to_learn_learns(task: Task, tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = recipe(
        ClassifierSettings, **SMALL | {"network": "smallnet", "epochs": 5, "label_smoothing": 0.0} | changes
    )
    made = fit.fit(settings, task, tmp_path / "out")
    losses = [float(line.split(",")[1]) for line in (tmp_path / "out" / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]
    fixed = changes.get("features") == "frozen"
    before = answerers.networks.build("smallnet", 3, 48, dropout=0.3)
    torch.manual_seed(settings.seed)
    before = answerers.networks.build("smallnet", 3, 48, dropout=0.3)
    first = before.body.stages[0][0].weight, made.model.body.stages[0][0].weight
    assert torch.equal(*first) == fixed


HYBRIDS: dict[str, dict[str, Any]] = {
    "svm": {"features": [{"network": "NET"}], "head": {"name": "svm-rbf"}},
    "forest on pca": {
        "features": [{"network": "NET"}],
        "select": {"by": "pca", "keep": 8},
        "head": {"name": "random-forest", "args": {"n_estimators": 30}},
    },
    "two networks, cca": {
        "features": [{"network": "NET"}, {"network": "lenet", "frozen": True}],
        "fuse": "cca",
        "cca_directions": 5,
        "head": {"name": "lda"},
    },
    "measured": {"features": [{"handmade": ["glcm", "colour"]}], "head": {"name": "logistic"}},
    "measured, agreeing": {
        "features": [{"handmade": ["colour"]}, {"handmade": ["nucleus"]}],
        "fuse": "cca",
        "cca_directions": 4,
        "head": {"name": "lda"},
        "views": 10,  # of fewer cells than features two kinds agree in everything
    },
    "both, mrmr": {
        "features": [{"handmade": ["hu"]}, {"network": "NET"}, {"handmade": ["nucleus"]}],
        "select": {"by": "mrmr", "keep": 20},
        "head": {"name": "k-nn", "args": {"n_neighbors": 3}},
    },
}


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_is_a_graph_like_any_other(task: Task, network: Path, tmp_path: Path, name: str) -> None:
    """Fitted, built again from its folder, exported: three times the same answers; and most cells right."""
    values = yaml.safe_load(yaml.safe_dump(HYBRIDS[name]).replace("NET", str(network)))
    settings = recipe(HybridSettings, **CROP | {"views": 2} | values)
    check(settings, "c.yaml")
    made = fit.fit(settings, task, tmp_path / "out")
    dev = keep(task.dev, TYPES, settings)
    scores = fit.answers_of(made.model, made.told, dev, 48, 0.1)
    assert (scores.argmax(axis=1) == dev.labels).mean() > 0.6
    told = yaml.safe_load((tmp_path / "out" / fit.ARCHITECTURE).read_text())
    again = answerers.rebuild(told, tmp_path / "out" / "weights.safetensors")
    assert np.array_equal(fit.answers_of(again, told, dev, 48, 0.1), scores)
    measured = measured_of(told)
    assert bool(measured) == takes_measured(again)
    model, distances = familiar(again, told, keep(task.cells, TYPES, settings), dev, settings)
    write_graph(model, told, 48, tmp_path / "g.onnx")
    inputs: list[Any] = [dev.crops(48, 0.1)]
    if measured:
        inputs.append(measure(measured, inputs[0]))
    if not sees_pixels(told):
        inputs = inputs[1:]
    for engine in installed():
        got, far = open_graph(tmp_path / "g.onnx", EngineSettings(engine)).run(*inputs)
        assert got.argmax(axis=1).tolist() == scores.argmax(axis=1).tolist()
        assert np.abs(got - scores).max() < 2e-3 * max(1, np.abs(scores).max())
        assert far == pytest.approx(distances, rel=1e-2)


def familiar(
    model: torch.nn.Module, told: Any, learnt: Cells, cells: Cells, settings: CropSettings
) -> tuple[Familiar, NDArray[np.float64]]:
    """The model with what it knows of the cells that it learnt from; and the distances of cells by scikit-learn."""
    before, here = (familiarity._features(model, told, c, settings) for c in (learnt, cells))
    means = np.stack([before[learnt.labels == t].mean(axis=0) for t in range(len(learnt.types))])
    inverse = LedoitWolf(assume_centered=True).fit(before - means[learnt.labels]).precision_
    away = here[:, None] - means[None]
    distances = np.einsum("ntf,fg,ntg->nt", away, inverse, away).min(axis=1) / here.shape[1]
    return Familiar(model, **familiarity.learnt_cells(model, told, learnt, settings)).eval(), distances


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the members of ensembles lie, fitted once for all rules."""
    return tmp_path_factory.mktemp("members")


@pytest.mark.parametrize("rule", ["majority", "mean", "weighted", "stacking"])
def test_an_ensemble_is_a_graph_too(task: Task, members: Path, tmp_path: Path, rule: str) -> None:
    tree = {"features": [{"handmade": ["colour"]}], "head": {"name": "decision-tree"}}
    rows = {
        "net": recipe(ClassifierSettings, **SMALL | CROP | {"network": "smallnet"}),
        "tree": recipe(HybridSettings, **CROP | tree),
        "other": recipe(ClassifierSettings, **SMALL | CROP | {"network": "ten-layers"}),
    }
    settings = recipe(EnsembleSettings, **CROP | {"members": list(rows), "rule": rule})
    made = fit.fit(settings, replace(task, rows=rows, home=members), tmp_path / "out")
    dev = keep(task.dev, TYPES, settings)
    scores = fit.answers_of(made.model, made.told, dev, 48, 0.1)
    assert (scores.argmax(axis=1) == dev.labels).mean() > 0.6
    told = yaml.safe_load((tmp_path / "out" / fit.ARCHITECTURE).read_text())
    again = answerers.rebuild(told, tmp_path / "out" / "weights.safetensors")
    assert np.array_equal(fit.answers_of(again, told, dev, 48, 0.1), scores)
    assert measured_of(told) == ("colour",)
    model, distances = familiar(again, told, keep(task.cells, TYPES, settings), dev, settings)
    write_graph(model, told, 48, tmp_path / "g.onnx")
    crops = dev.crops(48, 0.1)
    for engine in installed():
        got, far = open_graph(tmp_path / "g.onnx", EngineSettings(engine)).run(crops, measure(["colour"], crops))
        assert np.abs(got - scores).max() < 2e-3 * max(1, np.abs(scores).max())
        assert far == pytest.approx(distances, rel=1e-2)


def test_load_recipe_tells_them_apart(tmp_path: Path) -> None:
    for kind, values in (
        (ClassifierSettings, {"network": "resnet18", "features": "frozen"}),
        (HybridSettings, {"features": [{"handmade": ["hu"]}], "head": {"name": "lda"}}),
        (EnsembleSettings, {"members": ["a", "b"], "rule": "mean"}),
    ):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
        assert type(load_recipe(tmp_path / "c.yaml")) is kind


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"features": [{"handmade": ["glcn"]}], "head": {"name": "lda"}}, "handmade: no 'glcn'"),
        ({"features": [{"handmade": ["glcm"]}], "head": {"name": "svm"}}, "head: no 'svm'"),
        ({"features": [{"network": "resnet", "frozen": True}], "head": {"name": "lda"}}, "no network 'resnet'"),
        ({"features": [{"handmade": ["hu"]}], "head": {"name": "lda"}, "fuse": "cca"}, "two kinds"),
        ({"features": [{"handmade": ["hu"]}], "head": {"name": "k-nn", "args": {"k": 3}}}, "head k-nn"),
        ({"features": [{"handmade": ["hu"]}, {"handmade": ["hu"]}], "head": {"name": "lda"}}, "named twice"),
        ({"features": [{"network": "mobilenet-v2", "pretrained": True}], "head": {"name": "lda"}}, "its own config"),
        ({"network": "lenet", "pretrained": "none.safetensors"}, "no file 'none.safetensors'"),
        ({"network": "lenet", "augment": [{"name": "Spin"}]}, "no transform 'Spin'"),
        ({"network": "lenet", "preprocess": [{"name": "Spin"}]}, "Spin"),
        ({"members": ["measured-svm", "mobilenet-v2-svm"], "rule": "mean", "preprocess": [{"name": "X"}]}, "X"),
    ],
)
def test_what_is_not_known_is_refused_before_anything_is_read(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=words):
        check(load_recipe(tmp_path / "c.yaml"), "c.yaml")


def test_another_recipe_is_not_taken_for_a_finished_one(task: Task, tmp_path: Path) -> None:
    head = {"name": "lda"}
    settings = recipe(HybridSettings, **CROP | {"features": [{"handmade": ["hu"]}], "head": head})
    fit.fit(settings, task, tmp_path / "out")
    with pytest.raises(ConfigError, match="differ"):
        fit.fit(settings.model_copy(update={"views": 2}), task, tmp_path / "out")


def test_a_killed_training_with_patience_ends_as_an_undisturbed_one(task: Task, tmp_path: Path) -> None:
    """Stopped after the tenth epoch's checkpoint, in the twelfth: the same weights, best epoch and log."""
    settings = recipe(ClassifierSettings, **SMALL | {"network": "lenet", "patience": 9, "epochs": 16})
    whole = fit.fit(settings, task, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(epoch: int, *_: object) -> None:
        if epoch == 12:
            raise KilledError

    with pytest.raises(KilledError):
        fit.fit(settings, replace(task, progress=kill), tmp_path / "killed")
    again = fit.fit(settings, replace(task, resume=True), tmp_path / "killed")
    for name in ("log.csv", "weights.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert again.about["best_epoch"] == whole.about["best_epoch"]


def test_deep_features_are_computed_once(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = answerers.networks.build("lenet", 3, 48).eval()
    crops = keep(task.dev, TYPES, CropSettings()).crops(48, 0.1)
    first, spared = fit.deep(body, crops, tmp_path)
    assert spared == 0
    monkeypatch.setattr(type(body), "features", lambda *_: pytest.fail("computed again"))
    again, spared = fit.deep(body, crops, tmp_path)
    assert np.array_equal(again, first)
    assert spared > 0
    body.body.layers[0].weight.data += 1
    with pytest.raises(pytest.fail.Exception):
        fit.deep(body, crops, tmp_path)


def test_what_is_measured_is_measured_once(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = keep(task.dev, TYPES, CropSettings()).crops(48, 0.1)
    names = ["colour", "hu"]
    first, spared = fit.measured(names, crops, tmp_path)
    assert spared == 0
    assert np.array_equal(first, measure(names, crops))
    monkeypatch.setattr(handmade, "measure", lambda *_: pytest.fail("measured again"))
    again, spared = fit.measured(names, crops, tmp_path)
    assert np.array_equal(again, first)
    assert spared > 0
    for other in ((["colour"], crops), (names, crops[1:])):
        with pytest.raises(pytest.fail.Exception):
            fit.measured(*other, tmp_path)
    monkeypatch.setattr(fit, "code_fingerprint", lambda *_: "another")
    with pytest.raises(pytest.fail.Exception):
        fit.measured(names, crops, tmp_path)


def test_weights_of_a_mixture_find_the_better_member() -> None:
    rng = np.random.default_rng(1)
    good, bad = rng.uniform(0.6, 0.95, 400), rng.uniform(0.05, 0.4, 400)
    weights = mixture(np.stack([good, bad], axis=1))
    assert weights[0] > 0.99
    mixed = np.where(rng.random(400) < 0.7, 0, 1)
    right = np.stack([np.where(mixed == 0, 0.9, 0.1), np.where(mixed == 1, 0.9, 0.1)], axis=1)
    assert mixture(right)[0] == pytest.approx((mixed == 0).mean(), abs=0.12)


@pytest.mark.parametrize("types", [2, 3])
def test_stacking_is_scikit_learns(types: int) -> None:
    rng = np.random.default_rng(types)
    truth = rng.integers(0, types, 300)
    told = rng.dirichlet(np.ones(types), (300, 2))
    told[np.arange(300), 0, truth] += 1.0
    told /= told.sum(axis=2, keepdims=True)
    flat = np.log(told).reshape(300, -1)
    theirs = LogisticRegression(C=0.05, max_iter=5000, random_state=1).fit(flat, truth).predict_proba(flat)
    weights = fit._weights("stacking", told, truth, 1, "c.yaml")
    ours = combine("stacking", torch.from_numpy(told), torch.from_numpy(weights)).softmax(dim=1)
    assert ours.numpy() == pytest.approx(theirs, abs=1e-6)


def test_rules_of_an_ensemble() -> None:
    told = torch.tensor([[[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]]])
    weights = torch.tensor([1.0, 1.0, 1.0])
    assert combine("majority", told, weights).argmax() == 0
    assert combine("mean", told, weights).exp()[0].tolist() == pytest.approx([0.4, 0.6])
    assert combine("weighted", told, torch.tensor([1.0, 0.0, 0.0])).exp()[0].tolist() == pytest.approx([0.6, 0.4])
    drawn = torch.tensor([[[0.9, 0.1], [0.4, 0.6]]])
    assert combine("majority", drawn, weights).argmax() == 0


def test_auto_takes_bf16_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    here, there = torch.device("cpu"), torch.device("cuda")

    def taken(network: str, asked: str, device: torch.device) -> str:
        return precision_for(recipe(ClassifierSettings, network=network, precision=asked), device)

    assert [taken(name, "auto", here) for name in ("smallnet", "resnet18", "convnext")] == ["bf16"] * 3
    assert [taken(name, "auto", here) for name in ("mobilenet-v2", "efficientnet-b0", "nasnet")] == ["fp32"] * 3
    assert taken("mobilenet-v2", "bf16", here) == "bf16"
    assert taken("mobilenet-v2", "auto", there) == "fp16"


def test_chances_and_coming_to_rest() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    for sampling, share in (("natural", 0.1), ("balanced", 0.5), ("square_root", 0.25)):
        assert chances(labels, 2, sampling)[labels == 1].sum() == pytest.approx(share)
    assert still_rises([0.1, 0.2])
    assert still_rises([0.5] * 9)
    assert still_rises(list(np.linspace(0, 1, 50)))
    assert not still_rises([0.9] * 50)
    assert not still_rises(list(1 - np.exp(-np.arange(100) / 10)))


def test_weights_may_be_read_by_whoever_may_read_what_lies_beside_them(tmp_path: Path) -> None:
    (tmp_path / "card").touch()
    write_weights({"a": torch.zeros(2)}, tmp_path / "weights")
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "card").stat().st_mode


def test_what_a_network_sees_is_kept_by_its_turns_too(tmp_path: Path) -> None:
    """Two configurations that differ in `turns` alone learn the same weights."""
    torch.manual_seed(5)
    once = build("smallnet", 4, 48).eval()
    four = build("smallnet", 4, 48, turns=4).eval()
    four.load_state_dict(once.state_dict())
    crops = np.random.default_rng(5).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    for body in (once, four, once):
        with torch.inference_mode():
            expected = body.features(torch.from_numpy(crops)).numpy()
        np.testing.assert_allclose(fit.deep(body, crops, tmp_path)[0], expected, atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 2
