"""A slide by all its white cells: attention over a bag of them (Ilse, Tomczak and Welling, ICML 2018), to a bundle."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from detect.bundles.card import GRAPH, WEIGHTS, Card, SlideGraph, Training
from detect.bundles.draft import INTENDED_USE, Description, check_folder, prepare_folder
from detect.bundles.folder import Bundle, write_card
from detect.classify.bags import Bag, Slides, SlideSettings
from detect.classify.bundled import ERROR, softmax
from detect.classify.figures import calibration_of, metrics
from detect.classify.learn import state_of, write_weights
from detect.errors import DataError
from detect.evaluate import conformal
from detect.evaluate.classification import ClassificationReport, measure
from detect.evaluate.decide import temperature
from detect.taxonomy import taxonomy


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
    """Learn, and write the bundle; the report is of slides while they were held out."""
    check_folder(out, overwrite)
    started = time.monotonic()
    patterns, fold_of = _folds(settings, slides)
    prepare_folder(out, overwrite)
    told_of: dict[int, NDArray[np.float64]] = {}
    for fold in range(settings.folds):
        model = _learn(settings, slides, patterns, [i for i, f in fold_of.items() if f != fold])
        told_of |= {i: _scores(model, slides.bags[i]) for i, f in fold_of.items() if f == fold}
    # Slides with few cells are learnt from, but none of them will ever be called: nothing is calibrated on them.
    full = [i for i in sorted(fold_of) if slides.counted[i] >= settings.min_cells]
    scores = np.stack([told_of[i] for i in full])
    truth = np.array([patterns.index(_pattern(settings, slides.truth[i])) for i in full], np.int64)
    heat = temperature(scores, truth)
    told = softmax(scores, heat)
    model = _learn(settings, slides, patterns, sorted(fold_of))
    calibration = calibration_of(patterns, told, truth, f"{len(full)} slides, each while it was held out")
    groups = slides.groups
    likely = conformal.sets(told, conformal.limits([calibration.strange[p] for p in patterns], ERROR))
    report = measure(patterns, truth, told, [groups[i] for i in full], likely)
    write_weights(state_of(model), out / WEIGHTS)
    _export(model, len(settings.inputs), out / GRAPH)
    counts = dict(Counter(_pattern(settings, slides.truth[i]) for i in fold_of))
    unknown = sum(slides.patients[i] is None for i in fold_of)
    split = f"{settings.folds} folds of {'slides' if unknown else 'patients'}, seed {settings.seed}"
    limits = about.limits
    if unknown and slides.trained_on != "synthetic":
        limits += (f"Of {unknown} of {len(fold_of)} slides the patient is not known: held-out slides may share one.",)
    card = Card(
        name=about.name,
        task="slide",
        title=about.title,
        licence=about.licence,
        intended_use=INTENDED_USE,
        limits=limits,
        taxonomy=taxonomy().version,
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
            asks=slides.asked.asks,
            detector=slides.asked.detector,
            error_rate=slides.asked.error_rate,
            models=dict(slides.asked.models),
            min_score=slides.asked.min_score,
            thresholds=dict(slides.asked.thresholds),
            min_cells=settings.min_cells,
            temperature=heat,
            calibration=calibration,
        ),
        training=Training(
            data=slides.data,
            split=split,
            fingerprint={},
            fields={"train": len(fold_of)},
            groups={"train": len({groups[i] for i in fold_of})},
            cells={"train": counts},
            settings=settings.model_dump(mode="json"),
            record={"minutes": round((time.monotonic() - started) / 60, 2), "torch": str(torch.__version__)},
        ),
        metrics=metrics(
            report, "+".join(slides.data), split, "held out", "smear train slide", fields=len(full), fitted=True
        ),
    )
    write_card(card, out)
    return report


def _pattern(settings: SlideSettings, truth: str) -> str:
    found = settings.patterns[truth]
    assert found is not None
    return found


def _folds(settings: SlideSettings, slides: Slides) -> tuple[tuple[str, ...], dict[int, int]]:
    """Patterns, and the fold of each slide that is learnt from, every pattern spread over all folds, patients whole."""
    strange = sorted(set(slides.truth) - set(settings.patterns))
    if strange:
        what = f"the truth calls slides '{strange[0]}', which 'patterns' does not name"
        raise DataError(what, remedy="add it to the configuration, with null to leave such slides out")
    patterns = tuple(dict.fromkeys(p for p in settings.patterns.values() if p is not None))
    rng = np.random.default_rng(settings.seed)
    fold_of: dict[int, int] = {}
    fold_of_group: dict[str, int] = {}
    groups = slides.groups
    for pattern in patterns:
        rows = [i for i, t in enumerate(slides.truth) if settings.patterns[t] == pattern and len(slides.bags[i])]
        full = [i for i in rows if slides.counted[i] >= settings.min_cells]
        mine = list(dict.fromkeys(groups[i] for i in rows))
        if len(mine) < settings.folds or not full:
            of = f" of {len(mine)} patients" if len(mine) < len(rows) else ""
            what = (
                f"{len(rows)} slides{of} of the pattern '{pattern}', {len(full)} with {settings.min_cells} white cells"
            )
            remedy = "name more runs, lower folds, or leave the pattern out with null"
            raise DataError(what, remedy=remedy)
        drawn = [mine[k] for k in rng.permutation(len(mine)).tolist()]
        new = [group for group in drawn if group not in fold_of_group]  # a patient may have slides of two patterns
        fold_of_group |= {group: k % settings.folds for k, group in enumerate(new)}
        fold_of |= {i: fold_of_group[groups[i]] for i in rows}
    return patterns, fold_of


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


def _scores(model: AttentionPool, bag: Bag) -> NDArray[np.float64]:
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(bag))[0].numpy(), np.float64)


def reference(bundle: Bundle) -> Callable[[Bag], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The graph of a slide bundle, run by torch itself."""
    about = bundle.card.architecture
    model = AttentionPool(int(about["inputs"]), int(about["hidden"]), len(bundle.card.classes))
    model.load_state_dict(load_file(bundle.weights))
    model.eval()

    def run(bag: Bag) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():
            scores, weights = model(torch.from_numpy(bag))
        return scores.numpy(), weights.numpy()

    return run


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
