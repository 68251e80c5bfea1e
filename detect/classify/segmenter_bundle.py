"""The bundle of a segmenter: exported, run by torch for comparison, and measured against drawn parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from detect.bundles.card import GRAPH, WEIGHTS, Card, Metric, SegmenterGraph, Training
from detect.bundles.draft import INTENDED_USE, Description, prepare_folder
from detect.bundles.folder import Bundle, with_files, write_card
from detect.classify.learn import state_of, write_weights
from detect.classify.parts import BundleSegmenter
from detect.classify.segmenters import PARTS, PartsNet, SegmenterSettings, drawn_parts
from detect.config import load, load_yaml
from detect.data.splits import cells_of, read_split
from detect.data.typed import TypedCell, load_typed
from detect.detectors.train import kept_cards
from detect.errors import DataError
from detect.evaluate.parts import PartsReport, measure_parts
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import EngineSettings
from detect.taxonomy import taxonomy
from detect.types import Image


def export(run: Path, out: Path, about: Description, *, overwrite: bool = False) -> PartsReport:
    """The bundle of a run; its figures are of part dev of the sets."""
    settings = load(SegmenterSettings, run / "settings.yaml")
    record = load_yaml(run / "run.yaml")
    cards = kept_cards(run)
    splits = ["split.csv", *(f"split-{card.name}.csv" for card in cards[1:])]
    dev = [
        cell
        for card, split in zip(cards, splits, strict=True)
        for cell in cells_of(read_split(run / split), load_typed([card], Tally()), "dev")
    ]
    prepare_folder(out, overwrite)
    model = PartsNet(settings.model_copy(update={"pretrained": False}))
    model.load_state_dict(load_file(run / WEIGHTS))
    model.eval()
    write_weights(state_of(model), out / WEIGHTS)
    size = settings.image_size
    torch.onnx.export(
        model,
        (torch.zeros((2, size, size, 3), dtype=torch.uint8),),
        str(out / GRAPH),
        input_names=["crops"],
        output_names=["shares"],
        dynamic_axes={"crops": {0: "batch"}, "shares": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    card = Card(
        name=about.name,
        task="segmenter",
        title=about.title,
        licence=about.licence,
        intended_use=INTENDED_USE,
        limits=about.limits,
        taxonomy=taxonomy().version,
        trained_on=record["trained_on"],
        classes=PARTS,
        architecture={
            "family": "segmenter",
            "kind": settings.architecture,
            "encoder": settings.encoder,
            "decoder": list(settings.decoder),
            "image_size": size,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        segmenter=SegmenterGraph(image_size=size, margin=settings.margin),
        training=Training(
            data=tuple(record["data"]),
            split=" + ".join(record["split"]),
            fingerprint=record["fingerprint"],
            fields=record["fields"],
            groups=record["groups"],
            cells=record["cells"],
            settings=settings.model_dump(mode="json"),
            record={k: record[k] for k in ("config", "minutes", "versions")},
        ),
    )
    bundle = Bundle(with_files(card, out), out, "")
    report = measure_parts(*compared(BundleSegmenter(bundle, EngineSettings()), dev))
    command = f"smear bundle export RUN --out BUNDLE --name {about.name}"
    figures = part_metrics(report, "+".join(record["data"]), " + ".join(record["split"]), "dev", command)
    write_card(card.model_copy(update={"metrics": figures}), out)
    return report


def reference(bundle: Bundle) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The graph of a segmenter bundle, run by torch itself."""
    assert bundle.card.training is not None
    settings = SegmenterSettings.model_validate(bundle.card.training.settings)
    model = PartsNet(settings.model_copy(update={"pretrained": False}))
    model.load_state_dict(load_file(bundle.weights))
    model.eval()

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(crops)).numpy(), np.float32)

    return run


def compared(
    segmenter: Any, cells: Sequence[TypedCell]
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], list[str]]:
    """Parts as drawn and as found, in the same places, and the group, of each cell that has masks."""
    drawn, found, groups = [], [], []
    before: tuple[Path, Image] | None = None
    for cell in cells:
        if cell.outline is None or cell.nucleus is None:
            continue
        if before is None or before[0] != cell.path:
            before = cell.path, decode.read(cell.path)
        truth = drawn_parts(cell)
        (got,) = segmenter.parts(before[1], [cell.box])
        whole = np.zeros_like(truth)
        height, width = got.labels.shape
        whole[got.top : got.top + height, got.left : got.left + width] = got.labels
        ys, xs = np.nonzero(truth | whole)
        window = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]  # a large field is not kept for each cell
        drawn.append(truth[window].copy())
        found.append(whole[window].copy())
        groups.append(cell.group or cell.id)
    if not drawn:
        raise DataError("no cell has masks of cell and nucleus", remedy="name a set with such masks, as wbc-masks")
    return drawn, found, groups


def part_metrics(report: PartsReport, data: str, split: str, part: str, command: str) -> tuple[Metric, ...]:
    """The figures of a report, fit for a card."""
    return tuple(
        Metric(
            name=name, value=round(v.value, 4), low=round(v.low, 4), high=round(v.high, 4), data=data, split=split,
            part=part, n_fields=report.n_cells, n_groups=report.n_groups, n_cells=report.n_cells, command=command,
        )
        for name, v in report.figures.items()
    )  # fmt: skip
