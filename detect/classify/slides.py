"""A slide by all its white cells: attention over a bag of them (Ilse, Tomczak and Welling, ICML 2018), to a bundle."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from detect.bundles.card import GRAPH, WEIGHTS, Card, SlideGraph, Training
from detect.bundles.draft import INTENDED_USE, Description, prepare_folder
from detect.bundles.folder import write_card
from detect.classify.bags import Bag, Slides, SlideSettings
from detect.classify.bundled import softmax
from detect.classify.export import calibration_of, metrics
from detect.errors import DataError
from detect.evaluate.classification import ClassificationReport, measure, temperature


class AttentionPool(nn.Module):
    """Gated attention over the cells of a slide: a score for every pattern from the weighted mean of its cells.

    Input: what was answered of each cell, float32 (cells, inputs). Output: scores (patterns,), and the weight of each
    cell (cells,), which sum to 1.
    """

    def __init__(self, inputs: int, hidden: int, patterns: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.look, self.gate, self.weigh = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)
        self.head = nn.Linear(hidden, patterns)

    def forward(self, bag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and weights."""
        cells = self.encode(bag)
        drawn = self.weigh(torch.tanh(self.look(cells)) * torch.sigmoid(self.gate(cells)))[:, 0]
        weights = functional.softmax(drawn, dim=0)
        return self.head(weights @ cells), weights


def train(
    settings: SlideSettings, slides: Slides, out: Path, about: Description, *, overwrite: bool = False
) -> ClassificationReport:
    """Learn, and write the bundle; the report is of the slides that were kept apart."""
    prepare_folder(out, overwrite)
    started = time.monotonic()
    patterns, learnt, dev = _parts(settings, slides)
    model = _learn(settings, slides, patterns, learnt)
    scores = _scores(model, [slides.bags[i] for i in dev])
    truth = np.array([patterns.index(_pattern(settings, slides.truth[i])) for i in dev], np.int64)
    heat = temperature(scores, truth)
    told = softmax(scores, heat)
    report = measure(patterns, truth, told, [slides.names[i] for i in dev])
    save_file(model.state_dict(), out / WEIGHTS)
    _export(model, len(settings.inputs), out / GRAPH)
    parts = {"train": learnt, "dev": dev}
    counts = {p: dict(Counter(_pattern(settings, slides.truth[i]) for i in rows)) for p, rows in parts.items()}
    sizes = {p: len(rows) for p, rows in parts.items()}
    split = f"{settings.dev:.0%} of slides for dev, seed {settings.seed}"
    card = Card(
        name=about.name,
        task="slide",
        title=about.title,
        licence=about.licence,
        intended_use=INTENDED_USE,
        limits=about.limits,
        trained_on=slides.trained_on,
        classes=patterns,
        architecture={
            "family": "slide",
            "kind": "attention",
            "inputs": len(settings.inputs),
            "hidden": settings.hidden,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        slide=SlideGraph(
            inputs=settings.inputs,
            asks=slides.asks,
            min_cells=settings.min_cells,
            temperature=heat,
            calibration=calibration_of(patterns, told, truth, f"{len(dev)} slides kept apart"),
        ),
        training=Training(
            data=slides.data,
            split=split,
            fingerprint={},
            fields=sizes,
            groups=sizes,
            cells=counts,
            settings=settings.model_dump(mode="json"),
            record={"minutes": round((time.monotonic() - started) / 60, 2), "torch": str(torch.__version__)},
        ),
        metrics=metrics(report, "+".join(slides.data), split, "dev", "smear train slide"),
    )
    write_card(card, out)
    return report


def _pattern(settings: SlideSettings, truth: str) -> str:
    found = settings.patterns[truth]
    assert found is not None
    return found


def _parts(settings: SlideSettings, slides: Slides) -> tuple[tuple[str, ...], list[int], list[int]]:
    """Patterns, and which slides are learnt from and which kept apart, every pattern in both."""
    strange = sorted(set(slides.truth) - set(settings.patterns))
    if strange:
        what = f"the truth calls slides '{strange[0]}', which 'patterns' does not name"
        raise DataError(what, remedy="add it to the configuration, with null to leave such slides out")
    patterns = tuple(dict.fromkeys(p for p in settings.patterns.values() if p is not None))
    rng = np.random.default_rng(settings.seed)
    learnt: list[int] = []
    dev: list[int] = []
    for pattern in patterns:
        rows = [i for i, t in enumerate(slides.truth) if settings.patterns[t] == pattern and len(slides.bags[i])]
        apart = max(1, round(settings.dev * len(rows)))
        if len(rows) < 3:
            what = f"{len(rows)} slides of the pattern '{pattern}'"
            raise DataError(what, remedy="name more runs, or leave the pattern out with null")
        drawn = rng.permutation(rows).tolist()
        dev += drawn[:apart]
        learnt += drawn[apart:]
    return patterns, sorted(learnt), sorted(dev)


def _learn(settings: SlideSettings, slides: Slides, patterns: Sequence[str], learnt: Sequence[int]) -> AttentionPool:
    """Bags are drawn anew in every epoch: some of the cells of a slide, at least `least`, so that shares vary as they
    do where fewer cells were counted."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    model = AttentionPool(len(settings.inputs), settings.hidden, len(patterns), settings.dropout)
    model.train()
    rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **rates)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    labels = {i: torch.tensor(patterns.index(_pattern(settings, slides.truth[i]))) for i in learnt}
    for _ in range(settings.epochs):
        for i in rng.permutation(np.asarray(learnt)).tolist():
            bag = slides.bags[i]
            size = len(bag) if len(bag) <= settings.least else int(rng.integers(settings.least, len(bag) + 1))
            some = bag[rng.choice(len(bag), size, replace=False)]
            loss = functional.cross_entropy(model(torch.from_numpy(some))[0], labels[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    model.eval()
    return model


def _scores(model: AttentionPool, bags: Sequence[Bag]) -> NDArray[np.float64]:
    with torch.inference_mode():
        return np.stack([model(torch.from_numpy(bag))[0].numpy() for bag in bags]).astype(np.float64)


def _export(model: AttentionPool, inputs: int, path: Path) -> None:
    torch.onnx.export(
        model,
        (torch.zeros(7, inputs),),
        str(path),
        input_names=["cells"],
        output_names=["scores", "weights"],
        dynamic_axes={"cells": {0: "cells"}, "weights": {0: "cells"}},
        opset_version=17,
        dynamo=False,
    )
