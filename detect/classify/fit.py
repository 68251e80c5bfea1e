"""Recipes to models: a network is trained; a hybrid's networks are, then its head is fitted; an ensemble's members are.

A folder of a fitted model
  weights.safetensors   every number of it
  architecture.yaml     how to build it again, see `answerers`
  settings.yaml         the recipe
  fitted.yaml           epochs, seconds, and whether dev was still getting better; there once all is done
  log.csv, checkpoint.pt, best.safetensors   of a network, see `learn`
  features-*/  members/*/   the same of its parts
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from detect.bundles.card import WEIGHTS
from detect.classify import answerers, heads, networks
from detect.classify.answerers import Ensemble, Hybrid, Kind, Scaled, measured_of, takes_measured
from detect.classify.bundled import softmax
from detect.classify.cells import Cells, keep
from detect.classify.learn import Progress, learn, scores_of, state_of, write_weights
from detect.classify.recipes import part_of
from detect.classify.select import agree, select
from detect.classify.settings import (
    ClassifierSettings,
    CropSettings,
    DeepFeatures,
    EnsembleSettings,
    HandMade,
    HybridSettings,
    Recipe,
)
from detect.config import load_yaml
from detect.data.files import beside
from detect.data.fingerprint import code_fingerprint
from detect.data.typed import TypedCell
from detect.detectors.train import keep_settings
from detect.errors import ConfigError
from detect.evaluate.decide import temperature

ARCHITECTURE, FITTED = "architecture.yaml", "fitted.yaml"
_BATCH = 64


@dataclass(frozen=True)
class Task:
    """What a recipe is fitted to.

    Attributes:
        cells, dev: typed cells. types: the order of labels. where: the configuration, for errors.
        features: folder in which deep features are kept by the hash of what they are of.
        rows: recipes that a part may name before a file is looked for. home: where they lie once they are fitted.
    """

    cells: Sequence[TypedCell]
    dev: Sequence[TypedCell]
    types: Sequence[str]
    where: str
    features: Path
    device: str = "auto"
    resume: bool = False
    progress: Progress | None = None
    rows: Mapping[str, Recipe] = field(default_factory=dict)
    home: Path | None = None

    def part(self, name: str, whole: CropSettings, other: Path) -> tuple[Recipe, Task, Path]:
        """The recipe of a part, the task for it and its folder: a row's own, or else `other`."""
        recipe, where = part_of(name, whole, self.rows, self.where)
        folder = self.home / name if self.home is not None and name in self.rows else other
        return recipe, replace(self, where=where), folder

    def shares(self, name: str) -> bool:
        """Whether a part is a row of its own, fitted once for all that take it."""
        return self.home is not None and name in self.rows


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model. told: its description, see `answerers`. about: epochs, precision and so on, for the record."""

    model: nn.Module
    told: Mapping[str, Any]
    about: Mapping[str, Any]


def fit(recipe: Recipe, task: Task, out: Path) -> Fitted:
    """Fit a recipe, or take it from its folder where it is finished; ConfigError where another recipe lies there."""
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(recipe, out, task.where)
    if (out / FITTED).is_file():
        told = load_yaml(out / ARCHITECTURE)
        return Fitted(answerers.rebuild(told, out / WEIGHTS), told, load_yaml(out / FITTED))
    if isinstance(recipe, ClassifierSettings):
        made = _network(recipe, task, out)
    elif isinstance(recipe, HybridSettings):
        made = _hybrid(recipe, task, out)
    else:
        made = _ensemble(recipe, task, out)
    write_weights(state_of(made.model), out / WEIGHTS)
    (out / ARCHITECTURE).write_text(yaml.safe_dump(dict(made.told), sort_keys=False), "utf-8")
    (out / FITTED).write_text(yaml.safe_dump(dict(made.about), sort_keys=False), "utf-8")
    return made


def _network(settings: ClassifierSettings, task: Task, out: Path) -> Fitted:
    given = {"jitter": settings.jitter, "detected_by": settings.detected_by}
    cells = keep(task.cells, task.types, settings, **given)  # type: ignore[arg-type]
    dev = keep(task.dev, task.types, settings) if task.dev else None
    begun = task.resume and (out / "checkpoint.pt").is_file()
    found = learn(settings, task.where, cells, dev, out, resume=begun, device=task.device, progress=task.progress)
    about = {
        "epochs": found.epochs,
        "seconds": round(found.seconds, 1),
        "own_seconds": round(found.seconds, 1),
        "best_epoch": found.best_epoch,
        "curves": [None if found.curve is None else [round(v, 5) for v in found.curve]],
        "precision": found.precision,
        "device": found.device,
    }
    return Fitted(found.model, _description(settings, len(task.types)), about)


def _description(settings: ClassifierSettings, types: int) -> dict[str, Any]:
    return {
        "kind": "network",
        "name": settings.network,
        "types": types,
        "image_size": settings.image_size,
        "head": settings.head,
        "first": settings.first,
        "turns": settings.turns,
    }


def _hybrid(settings: HybridSettings, task: Task, out: Path) -> Fitted:
    started, waited, spared = time.monotonic(), 0.0, 0.0
    cells = keep(task.cells, task.types, settings, jitter=settings.jitter, detected_by=settings.detected_by)
    crops, labels = _views(cells, settings)
    bodies: list[networks.Classifier] = []
    told: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    kinds: list[tuple[NDArray[np.float32], bool]] = []
    names: list[str] = []
    for number, kind in enumerate(settings.features):
        if isinstance(kind, HandMade):
            found, saved = measured(kind.handmade, crops, task.features)
            kinds.append((found, True))
            spared += saved
            names += kind.handmade
            continue
        before = time.monotonic()
        body, description, about = _body(kind, settings, task, out / f"features-{number}")
        waited += time.monotonic() - before
        bodies.append(body)
        told.append(description)
        parts.append(about | {"shared": task.shares(kind.network)})
        found, saved = deep(body, crops, task.features)
        kinds.append((found, False))
        spared += saved
    steps, fused = _fuse([k for k, _ in kinds], settings)
    choice, chosen = _choose(fused, labels, len(cells), settings, task.where)
    from detect.classify import fitted_heads

    head = fitted_heads.fit(settings.head.name, settings.head.args, chosen, labels, settings.seed, task.where)
    widths = [int(k.shape[1]) if measured else 0 for k, measured in kinds]
    description = {"kind": "hybrid", "bodies": told, "kinds": widths, "handmade": names, "head": settings.head.name}
    about = {
        "epochs": max((int(p.get("epochs", 0)) for p in parts), default=0),
        **_seconds(time.monotonic() - started - waited, parts, spared),
        "curves": [curve for p in parts for curve in p.get("curves", ())],
        "precision": parts[0].get("precision", "fp32") if parts else "fp32",
        "features": [int(k.shape[1]) for k, _ in kinds],
        "kept": int(chosen.shape[1]),
    }
    return Fitted(Hybrid(bodies, widths, steps, choice, head).eval(), description, about)


def _body(
    kind: DeepFeatures, whole: HybridSettings, task: Task, out: Path
) -> tuple[networks.Classifier, dict[str, Any], dict[str, Any]]:
    """A network that sees: off the shelf, or trained first."""
    if kind.frozen:
        torch.manual_seed(whole.seed)
        settings = ClassifierSettings(network=kind.network, image_size=whole.image_size)
        body = networks.build(
            kind.network, len(task.types), whole.image_size, pretrained=kind.pretrained, where=task.where
        )
        return body.eval(), _description(settings, len(task.types)), {}
    part, own, folder = task.part(kind.network, whole, out)
    made = fit(part, own, folder)
    assert isinstance(made.model, networks.Classifier)
    return made.model, dict(made.told), dict(made.about)


def _seconds(own: float, parts: Sequence[Mapping[str, Any]], spared: float = 0.0) -> dict[str, float]:
    """Of a whole with its parts, and of what no other row of a table is told to have taken.

    Args:
        spared: what it would have taken longer, had not another row kept its features.
    """
    took = [(float(p.get("seconds", 0)), bool(p.get("shared"))) for p in parts]
    return {
        "seconds": round(own + spared + sum(t for t, _ in took), 1),
        "own_seconds": round(own + sum(t for t, shared in took if not shared), 1),
    }


def _views(cells: Cells, settings: HybridSettings) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Every cell by its true box, then turned, mirrored and moved: uint8 (views x n, s, s, 3), int64 (views x n,)."""
    rng = np.random.default_rng(settings.seed)
    size, margin = settings.image_size, settings.margin
    n = len(cells)
    seen = np.empty((settings.views * n, size, size, 3), np.uint8)
    seen[:n] = cells.crops(size, margin)
    for row in range(n, len(seen)):
        turned = np.rot90(cells.drawn(row % n, size, margin, settings.jitter, rng), int(rng.integers(4)))
        seen[row] = turned[:, ::-1] if rng.random() < 0.5 else turned
    return seen, np.tile(cells.labels, settings.views)


def deep(body: networks.Classifier, crops: NDArray[np.uint8], kept: Path) -> tuple[NDArray[np.float32], float]:
    """What a network sees in crops, float32 (n, features), once for the same weights, turns and pixels; see `_once`."""
    total = hashlib.sha256(str(body.turns).encode())
    for name, value in sorted(state_of(body).items()):
        if not name.startswith("head."):
            total.update(name.encode() + value.numpy().tobytes())

    def see() -> NDArray[np.float32]:
        with torch.inference_mode():
            batches = [torch.from_numpy(crops[i : i + _BATCH]) for i in range(0, len(crops), _BATCH)]
            return np.concatenate([body.features(b).float().numpy() for b in batches])

    return _once(total.digest(), crops, kept, see)


def measured(names: Sequence[str], crops: NDArray[np.uint8], kept: Path | None) -> tuple[NDArray[np.float32], float]:
    """What is measured in crops, float32 (n, features), once for the same features, code and pixels; see `_once`.

    Args:
        kept: folder of what was measured before; None keeps nothing.
    """
    from detect.classify import handmade

    if kept is None:
        return handmade.measure(names, crops), 0.0
    of = f"{list(names)} {code_fingerprint([handmade.__name__])}"
    return _once(of.encode(), crops, kept, lambda: handmade.measure(names, crops))


def _once(
    of: bytes, crops: NDArray[np.uint8], kept: Path, make: Callable[[], NDArray[np.float32]]
) -> tuple[NDArray[np.float32], float]:
    """What is made of crops, or a file of it from before; and the seconds that the file spared.

    Args:
        of: what else it rests on.
    """
    total = hashlib.sha256(of + str(crops.shape).encode())
    total.update(np.ascontiguousarray(crops).data)
    path = kept / f"{total.hexdigest()}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as there:
            return np.asarray(there["found"], np.float32), float(there["seconds"])
    started = time.monotonic()
    found = make()
    kept.mkdir(parents=True, exist_ok=True)
    partial = beside(path)
    with partial.open("wb") as file:
        np.savez(file, found=found, seconds=time.monotonic() - started)
    partial.replace(path)
    return found, 0.0


def _fuse(kinds: Sequence[NDArray[np.float32]], settings: HybridSettings) -> tuple[list[Kind], NDArray[np.float32]]:
    """Each kind scaled, and turned where kinds are fused by agreement; and all side by side."""
    scales = [(k.mean(axis=0), np.where(k.std(axis=0) > 1e-6, k.std(axis=0), 1.0)) for k in kinds]
    scaled = [
        np.clip((k - m) / s, -Kind.FAR, Kind.FAR).astype(np.float32) for k, (m, s) in zip(kinds, scales, strict=True)
    ]
    if settings.fuse == "concatenate":
        return [Kind(_tensor(m), _tensor(s)) for m, s in scales], np.concatenate(scaled, axis=1)
    turns = agree(scaled[0], scaled[1], settings.cca_directions)
    steps = [Kind(_tensor(m), _tensor(s), _tensor(t)) for (m, s), t in zip(scales, turns, strict=True)]
    return steps, np.concatenate([k @ t for k, t in zip(scaled, turns, strict=True)], axis=1).astype(np.float32)


def _choose(
    fused: NDArray[np.float32], labels: NDArray[np.int64], n: int, settings: HybridSettings, where: str
) -> tuple[Scaled, NDArray[np.float32]]:
    """Fewer features, chosen on the first n rows: one a cell.

    Its other views are the nearest neighbours of a cell, and share its type: with them every feature that a turn does
    not change would seem to tell the type.
    """
    width = fused.shape[1]
    if settings.select is None:
        return Scaled(torch.zeros(width), torch.ones(width)), fused
    mean, turn = fused[:n].mean(axis=0), select(settings.select, fused[:n], labels[:n], settings.seed, where)
    return Scaled(_tensor(mean), torch.ones(width), _tensor(turn)), ((fused - mean) @ turn).astype(np.float32)


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(values, np.float32)))


def _ensemble(settings: EnsembleSettings, task: Task, out: Path) -> Fitted:
    if not task.dev:
        raise ConfigError("an ensemble is put together on dev", where=task.where, remedy="draw a part dev")
    parts = [
        task.part(name, settings, out / "members" / f"{i}-{Path(name).stem}") for i, name in enumerate(settings.members)
    ]
    made = [fit(*part) for part in parts]
    started = time.monotonic()
    dev = keep(task.dev, task.types, settings)
    size, margin = settings.image_size, settings.margin
    told = [answers_of(m.model, m.told, dev, size, margin, task.features) for m in made]
    heat = [temperature(t, dev.labels) for t in told]
    shares = np.stack([softmax(t, h).astype(np.float64) for t, h in zip(told, heat, strict=True)], axis=1)
    weights = _weights(settings.rule, shares, dev.labels, settings.seed, task.where)
    model = Ensemble([m.model for m in made], settings.rule, _tensor(heat), _tensor(weights)).eval()
    about = {
        "epochs": max(int(m.about.get("epochs", 0)) for m in made),
        **_seconds(
            time.monotonic() - started,
            [{**m.about, "shared": task.shares(name)} for m, name in zip(made, settings.members, strict=True)],
        ),
        "curves": [curve for m in made for curve in m.about.get("curves", ())],
        "precision": str(made[0].about.get("precision", "fp32")),
        "temperatures": [float(h) for h in heat],
        "weights": np.asarray(weights).tolist(),
    }
    return Fitted(model, {"kind": "ensemble", "rule": settings.rule, "members": [dict(m.told) for m in made]}, about)


def _weights(
    rule: str, told: NDArray[np.float64], truth: NDArray[np.int64], seed: int, where: str
) -> NDArray[np.float64]:
    """What `answerers.combine` weighs members by. told: probabilities on dev, (n, members, types)."""
    n, members, types = told.shape
    if rule == "weighted":
        return mixture(told[np.arange(n), :, truth])
    if rule != "stacking":
        return np.ones(members)
    from sklearn.linear_model import LogisticRegression

    flat = np.log(np.maximum(told, 1e-6)).reshape(n, -1)
    found = LogisticRegression(C=0.05, max_iter=5000, random_state=seed).fit(flat, truth)
    if len(found.classes_) < types:
        what = "dev lacks a type, so nothing can be stacked"
        raise ConfigError(what, where=where, remedy="draw a larger dev, or take weighted")
    rows = np.concatenate([found.coef_, found.intercept_[:, None]], axis=1)
    return np.asarray(np.concatenate([-rows / 2, rows / 2]) if len(rows) == 1 else rows)


def mixture(right: NDArray[np.float64], rounds: int = 500) -> NDArray[np.float64]:
    """Weights of members, summing to 1, of greatest likelihood for their weighted sum: expectation-maximization, whose
    every round is better than the one before.

    Args:
        right: the probability that each member gives to what is true, (n, members).
    """
    weights = np.full(right.shape[1], 1 / right.shape[1])
    for _ in range(rounds):
        share = right * weights
        weights = (share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12)).mean(axis=0)
    return np.asarray(weights / weights.sum())


def answers_of(
    model: nn.Module, told: Mapping[str, Any], cells: Cells, size: int, margin: float, kept: Path | None = None
) -> NDArray[np.float64]:
    """Scores of cells by their true boxes, float64 (n, types). kept: see `measured`."""
    crops = cells.crops(size, margin)
    if not takes_measured(model):
        return np.asarray(scores_of(model, torch.from_numpy(crops)).numpy(), np.float64)
    beside = torch.from_numpy(measured(measured_of(told), crops, kept)[0])
    with torch.inference_mode():
        found = [
            model(torch.from_numpy(crops[i : i + _BATCH]), beside[i : i + _BATCH]) for i in range(0, len(crops), _BATCH)
        ]
    return np.asarray(torch.cat(found).numpy(), np.float64)


def parameters(model: nn.Module) -> int:
    """Numbers that were learnt: weights of networks, and what the heads of hybrids keep."""
    learnt = sum(p.numel() for p in model.parameters())
    kept = [m for m in model.modules() if isinstance(m, heads.Stored)]
    return int(learnt + sum(b.numel() for m in kept for b in m.buffers()))
