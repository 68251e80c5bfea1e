"""A classifier's run folder to a bundle: graph, temperature, calibration and familiarity fitted on dev, card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from detect.bundles.card import GRAPH, WEIGHTS, Card, ClassifierGraph, Familiarity, Training
from detect.bundles.draft import INTENDED_USE, Description, prepare_folder, settings_told
from detect.bundles.folder import Bundle, with_files, write_card
from detect.classify.answerers import FAMILIAR, Blind, Familiar, measured_of, rebuild
from detect.classify.bundled import ERROR, BundleClassifier, sees_pixels, softmax
from detect.classify.cells import keep
from detect.classify.familiar import learnt_cells
from detect.classify.figures import calibration_of, metrics, raw_scores
from detect.classify.fit import ARCHITECTURE, parameters
from detect.classify.learn import state_of, write_weights
from detect.classify.settings import load_recipe
from detect.config import load_yaml
from detect.data.splits import cells_of, read_split
from detect.data.typed import load_typed
from detect.detectors.train import kept_cards, leak_warning
from detect.evaluate import conformal
from detect.evaluate.classification import ClassificationReport, measure
from detect.evaluate.decide import temperature
from detect.formats.tally import Tally
from detect.taxonomy import taxonomy


def export(run: Path, out: Path, about: Description, *, overwrite: bool = False) -> ClassificationReport:
    """Write the bundle of a run. Everything that is fitted is fitted on part dev, where the report comes from."""
    prepare_folder(out, overwrite)
    settings = load_recipe(run / "settings.yaml")
    record = load_yaml(run / "run.yaml")
    types = tuple(record["types"])
    cells, split = load_typed(kept_cards(run), Tally()), read_split(run / "split.csv", allow_leak=True)
    learnt, dev = cells_of(split, cells, "train"), cells_of(split, cells, "dev")
    told = load_yaml(run / ARCHITECTURE)
    plain = rebuild(told, run / WEIGHTS)
    known = learnt_cells(plain, told, keep(learnt, types, settings), settings)
    model = Familiar(plain, **known)
    write_weights({**state_of(plain), **{FAMILIAR + k: v for k, v in known.items()}}, out / WEIGHTS)
    architecture = {"family": "classify", **told, "parameters": parameters(plain)}
    write_graph(model.eval(), told, settings.image_size, out / GRAPH)
    graph = ClassifierGraph(
        image_size=settings.image_size,
        preprocess=settings.preprocess,
        margin=settings.margin,
        mask_out=settings.mask_out,
        handmade=measured_of(told),
        routed_from=settings.routed_from,
        familiarity=Familiarity(limit=0.0, false_flags=0.0),
        not_known=record["not_known"],
    )
    draft = Card(
        name=about.name,
        task="classifier",
        title=about.title,
        licence=about.licence,
        intended_use=INTENDED_USE,
        limits=(*leak_warning(record), *about.limits),
        taxonomy=taxonomy().version,
        trained_on=record["trained_on"],
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
            settings=settings_told(settings),
            record={k: record[k] for k in ("config", "precision", "minutes", "hardware", "versions")},
            leak_allowed=bool(record["leaking_groups"]),
        ),
    )
    scores, distances, truth = raw_scores(BundleClassifier(Bundle(with_files(draft, out), out, "")), dev)
    heat = temperature(scores, truth)
    probabilities = softmax(scores, heat)
    calibration = calibration_of(types, probabilities, truth, f"part dev of {record['split']}: {len(dev)} cells")
    limit = round(float(np.quantile(distances, 1 - settings.false_flags, method="higher")), 6)
    far = Familiarity(limit=limit, false_flags=round(float((distances > limit).mean()), 4))
    graph = graph.model_copy(update={"temperature": heat, "calibration": calibration, "familiarity": far})
    likely = conformal.sets(probabilities, conformal.limits([calibration.strange[t] for t in types], ERROR))
    report = measure(types, truth, probabilities, [c.group for c in dev], likely)
    command = f"smear bundle export RUN --out BUNDLE --name {about.name}"
    where = "+".join(record["data"]), record["split"], "dev", command
    figures = metrics(report, *where, fields=len({c.path for c in dev}), fitted=True)
    write_card(draft.model_copy(update={"classifier": graph, "metrics": figures}), out)
    return report


def write_graph(model: torch.nn.Module, told: Mapping[str, Any], size: int, path: Path) -> None:
    """Inputs `crops`, where the model looks at pixels, and `measured`, where it takes those; outputs `scores` and,
    where it tells, `distance`."""
    measured, free = measured_of(told), {0: "batch"}
    inputs: dict[str, torch.Tensor] = {"crops": torch.zeros((2, size, size, 3), dtype=torch.uint8)}
    if measured:
        from detect.classify import handmade

        inputs["measured"] = torch.from_numpy(handmade.measure(measured, inputs["crops"].numpy()))
    outputs = ["scores", "distance"] if isinstance(model, Familiar) else ["scores"]
    if not sees_pixels(told):
        model, inputs = Blind(model), {"measured": inputs["measured"]}
    with _pools_as_products():
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=dict.fromkeys((*inputs, *outputs), free),
            opset_version=17,
            dynamo=False,
        )


@contextmanager
def _pools_as_products() -> Iterator[None]:
    """Let adaptive pooling be exported for any size: ONNX has it only where the sides divide.

    Of pictures of a known size it is a product with a fixed matrix from each side.
    """
    library: Any = functional
    theirs = library.adaptive_avg_pool2d

    def product(x: torch.Tensor, output_size: Any) -> torch.Tensor:
        high, wide = (output_size, output_size) if isinstance(output_size, int) else output_size
        height, width = (int(v) for v in x.shape[-2:])
        if (high, wide) == (1, 1) or (high or height, wide or width) == (height, width):
            return theirs(x, output_size)
        left, right = _pool(height, high or height), _pool(width, wide or width)
        return torch.from_numpy(left) @ x @ torch.from_numpy(right.T.copy())

    library.adaptive_avg_pool2d = product
    try:
        yield
    finally:
        library.adaptive_avg_pool2d = theirs


def _pool(inside: int, outside: int) -> NDArray[np.float32]:
    """Rows average what adaptive pooling averages, (outside, inside)."""
    out = np.zeros((outside, inside), np.float32)
    for i in range(outside):
        start, end = i * inside // outside, -(-(i + 1) * inside // outside)
        out[i, start:end] = 1 / (end - start)
    return out
