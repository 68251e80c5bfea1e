"""A classifier's run folder to a bundle: graph, temperature and least probability fitted on dev, card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from detect.bundles.card import GRAPH, WEIGHTS, Card, ClassifierGraph, Metric, Training
from detect.bundles.draft import INTENDED_USE, Description, prepare_folder
from detect.bundles.folder import Bundle, write_card
from detect.classify.bundled import BundleClassifier, softmax
from detect.classify.settings import ClassifierSettings
from detect.classify.train import build
from detect.config import load, load_yaml
from detect.data.splits import cells_of, read_split
from detect.data.typed import TypedCell, load_typed
from detect.detectors.train import kept_cards, leak_warning
from detect.errors import DataError
from detect.evaluate.classification import ClassificationReport, least_probability, measure, temperature
from detect.formats.tally import Tally
from detect.images import decode


def export(run: Path, out: Path, about: Description, *, overwrite: bool = False) -> ClassificationReport:
    """Write the bundle of a run. Everything that is fitted is fitted on part dev, where the report comes from."""
    prepare_folder(out, overwrite)
    settings = load(ClassifierSettings, run / "settings.yaml")
    record = load_yaml(run / "run.yaml")
    types = tuple(record["types"])
    shutil.copyfile(run / WEIGHTS, out / WEIGHTS)
    architecture = {"family": "classify", "name": settings.network, "types": len(types)}
    model = build(architecture, out / WEIGHTS)
    architecture["parameters"] = sum(p.numel() for p in model.parameters())
    _write_graph(model, settings.image_size, out / GRAPH)
    graph = ClassifierGraph(
        image_size=settings.image_size,
        preprocess=settings.preprocess,
        margin=settings.margin,
        routed_from=settings.routed_from,
        threshold_choice="",
        not_known=record["not_known"],
    )
    draft = Card(
        name=about.name,
        task="classifier",
        title=about.title,
        licence=about.licence,
        intended_use=INTENDED_USE,
        limits=(*leak_warning(record), *about.limits),
        classes=types,
        architecture=architecture,
        classifier=graph,
        training=Training(
            data=tuple(record["data"]),
            split=record["split"],
            fingerprint=record["fingerprint"],
            fields=record["fields"],
            groups=record["groups"],
            cells=record["cells"],
            settings=settings.model_dump(mode="json"),
            record={k: record[k] for k in ("config", "precision", "minutes", "hardware", "versions")},
            leak_allowed=bool(record["leaking_groups"]),
        ),
    )
    bundle = Bundle(write_card(draft, out), out, "")
    dev = cells_of(read_split(run / "split.csv", allow_leak=True), load_typed(kept_cards(run), Tally()), "dev")
    scores, truth = raw_scores(BundleClassifier(bundle), dev)
    heat = temperature(scores, truth)
    probabilities = softmax(scores, heat)
    least = least_probability(probabilities, truth, settings.min_accuracy)
    choice = (
        f"lowest from which {settings.min_accuracy:.0%} of the answers are right on part dev of {record['split']} "
        f"({len(dev)} cells); temperature of least log-loss there"
    )
    graph = graph.model_copy(update={"temperature": heat, "min_probability": least, "threshold_choice": choice})
    report = measure(types, truth, probabilities, [c.group for c in dev], least)
    command = f"smear bundle export RUN --out BUNDLE --name {about.name}"
    figures = metrics(report, "+".join(record["data"]), record["split"], "dev", command)
    write_card(draft.model_copy(update={"classifier": graph, "metrics": figures}), out)
    return report


def _write_graph(model: torch.nn.Module, size: int, path: Path) -> None:
    sample = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    free = {0: "batch"}
    torch.onnx.export(
        model,
        (sample,),
        str(path),
        input_names=["crops"],
        output_names=["scores"],
        dynamic_axes={"crops": free, "scores": free},
        opset_version=17,
        dynamo=False,
    )


def raw_scores(
    classifier: BundleClassifier, cells: Sequence[TypedCell]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores at temperature 1, as log-probabilities, float64 (n, types); and the true types, int64 (n,)."""
    unknown = sorted({c.type for c in cells} - set(classifier.classes.names))
    if unknown:
        raise DataError(f"cells of types that the bundle does not know: {unknown}", remedy="use the bundle's own split")
    crops = [classifier.cut(classifier.ready(decode.read(c.path)), c.box) for c in cells]
    heat = classifier.settings.temperature
    scores = np.log(np.maximum(classifier.predict(crops).astype(np.float64), 1e-12)) * heat
    return scores, np.array([classifier.classes.index(c.type) for c in cells], np.int64)


def metrics(report: ClassificationReport, data: str, split: str, part: str, command: str) -> tuple[Metric, ...]:
    """The figures of a report, fit for a card."""
    named = {"macro F1": report.macro_f1, "accuracy": report.accuracy}
    named |= {f"F1 {name}": v for name, v in report.f1.items()}
    named |= {"answered": report.answered, "accuracy of answered": report.accuracy_answered}
    return tuple(
        Metric(
            name=name,
            value=round(v.value, 4),
            low=round(v.low, 4),
            high=round(v.high, 4),
            data=data,
            split=split,
            part=part,
            n_fields=report.n_cells,
            n_groups=report.n_groups,
            n_cells=report.n_cells,
            command=command,
        )
        for name, v in named.items()
        if v.value == v.value
    )
