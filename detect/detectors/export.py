"""A run folder to a bundle: graph, thresholds chosen on dev, card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detect.bundles import card as cards
from detect.bundles.card import Card, Metric, Training
from detect.bundles.draft import INTENDED_USE, Description, prepare_folder, settings_told
from detect.bundles.folder import Bundle, with_files, write_card
from detect.config import load, load_yaml
from detect.detectors.base import Architecture, DetectorSettings, family
from detect.detectors.bundled import BundleDetector
from detect.detectors.measure import graph_section, predict_all
from detect.detectors.parity import parity
from detect.detectors.train import kept_cards, leak_warning, split_parts
from detect.errors import BundleError, ConfigError, DataError
from detect.evaluate.detection import DetectionReport, measure
from detect.evaluate.thresholds import CHOICE, best_f1
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import FRAMEWORK, EngineSettings, installed
from detect.taxonomy import taxonomy
from detect.types import Image

_COMPARED = 64  # fields of dev on which a graph that stands alone is compared with its weights


def export(
    run: Path,
    out: Path,
    about: Description,
    *,
    root: Path | None = None,
    graph_only: bool = False,
    overwrite: bool = False,
) -> DetectionReport:
    """Write the bundle of a run. Thresholds are chosen on, and the card's first figures measured on, part dev.

    Args:
        graph_only: leave the weights out, which double the bundle, once every engine was seen to answer as they do.

    Raises:
        ConfigError: graph_only, and the family has no graph. BundleError: its graph answers otherwise than the weights.
    """
    if not (run / "run.yaml").is_file():
        raise DataError(
            "not a finished run: no run.yaml",
            where=str(run),
            remedy="finish it with 'smear train ... --resume'",
        )
    prepare_folder(out, overwrite)
    settings = load(DetectorSettings, run / "settings.yaml")
    record = load_yaml(run / "run.yaml")
    architecture = load_yaml(run / "architecture.yaml")
    shutil.copyfile(run / cards.WEIGHTS, out / cards.WEIGHTS)
    built = Architecture(**architecture)
    adapter = family(built.family)
    traits = adapter.traits(built)
    if graph_only and not traits.exportable:
        raise ConfigError(f"{built.name} has no graph", where=str(run), remedy="drop --graph-only")
    if traits.exportable:
        adapter.export_onnx(built, out / cards.WEIGHTS, settings.image_size, out / cards.GRAPH)
    card = kept_cards(run)[0]
    dev, *_ = split_parts(card, str(run / "split.csv"), root, Tally(), "dev", allow_leak=True)
    graph = graph_section(settings, traits, card.classes, record.get("red_cell_px"))
    draft = Card(
        name=about.name,
        task="detector",
        title=about.title,
        licence=about.licence,
        intended_use=INTENDED_USE,
        limits=(*leak_warning(record), *about.limits),
        taxonomy=taxonomy().version,
        trained_on=record["trained_on"],
        classes=card.classes,
        architecture=architecture,
        detector=graph,
        training=_training(record, settings),
    )
    bundle = Bundle(with_files(draft, out), out, "")
    engine = EngineSettings() if traits.exportable else EngineSettings(FRAMEWORK)
    found = predict_all(BundleDetector(bundle, engine), dev)
    thresholds = best_f1(dev, found)
    choice = f"{CHOICE} on part dev of {_first(record['split'])} ({len(dev)} fields), per class"
    graph = graph.model_copy(update={"thresholds": thresholds, "threshold_choice": choice})
    report, _ = measure(dev, found, thresholds, cap=settings.max_detections)
    command = f"smear bundle export RUN --out BUNDLE --name {about.name}"
    figures = metrics(report, card.name, _first(record["split"]), "dev", command)
    made = draft.model_copy(update={"detector": graph, "metrics": figures})
    if graph_only:
        bundle = Bundle(with_files(made, out), out, "")
        _leave_weights(bundle, [decode.read(f.field.path) for f in dev.fields[:_COMPARED]])
    write_card(made, out)
    return report


def _leave_weights(bundle: Bundle, fields: Sequence[Image]) -> None:
    for name in installed():
        told = parity(bundle, fields, EngineSettings(name))
        if not told.close:
            what = (
                f"{told.engine} answers otherwise than the weights: {told.unmatched} of {told.cells} cells in one only"
                f", boxes up to {told.box_pixels:.2f} px and scores up to {told.score:.4f} apart"
            )
            raise BundleError(what, where=str(bundle.path), remedy="export it with its weights: drop --graph-only")
    bundle.weights.unlink()


def _first(told: str | list[str]) -> str:
    """The split of the first set, on which the epoch and the thresholds were chosen."""
    return told if isinstance(told, str) else told[0]


def _training(record: dict[str, Any], settings: DetectorSettings) -> Training:
    told = (
        "config",
        "precision",
        "device",
        "seed",
        "split",
        "stages_before",
        "weights_between",
        "labelled_in_part",
        "optimizer",
        "lr0",
        "best_epoch",
        "minutes",
        "hardware",
        "versions",
    )
    return Training(
        data=(record["data"],) if isinstance(record["data"], str) else tuple(record["data"]),
        split=_first(record["split"]),
        fingerprint=record["fingerprint"],
        fields=record["fields"],
        groups=record["groups"],
        cells=record["cells"],
        settings=settings_told(settings),
        record={k: record[k] for k in told if k in record},
        leak_allowed=bool(record.get("leaking_groups")),
    )


def metrics(report: DetectionReport, data: str, split: str | None, part: str, command: str) -> tuple[Metric, ...]:
    """The figures of a report, fit for a card."""
    named = {"mAP50": report.ap.map50, "mAP50-95": report.ap.map50_95}
    for name, (ap50, ap) in report.ap.per_class.items():
        named |= {f"AP50 {name}": ap50, f"AP50-95 {name}": ap}
    for name, c in report.classes.items():
        named[f"recall {name}"] = c.recall
        if c.precision is not None and c.f1 is not None:
            named |= {f"precision {name}": c.precision, f"F1 {name}": c.f1}
    return tuple(
        Metric(
            name=name,
            value=round(v.value, 4),
            low=round(v.low, 4),
            high=round(v.high, 4),
            data=data,
            split=split,
            part=part,
            n_fields=report.n_fields,
            n_groups=report.n_groups,
            n_cells=report.n_cells,
            command=command,
        )
        for name, v in named.items()
        if v.value == v.value
    )
