"""A detector's bundle measured on a labelled set, and all that is written about it into one folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detect.bundles.card import CARD, GRAPH
from detect.bundles.draft import Description
from detect.bundles.folder import Bundle, open_bundle
from detect.data.cards import Card
from detect.data.fingerprint import fingerprint
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.detectors.export import export
from detect.detectors.measure import MIN_SCORE, predict_all
from detect.detectors.opened import open_detector
from detect.detectors.train import split_parts
from detect.evaluate.align import align
from detect.evaluate.coco_ap import Ap
from detect.evaluate.detection import DetectionReport, measure
from detect.evaluate.plots import draw_all
from detect.evaluate.saved import METRICS, save
from detect.evaluate.strata import strata
from detect.evaluate.tables import write
from detect.formats.tally import Tally
from detect.images.magnification import Looking
from detect.runtime.base import FRAMEWORK, EngineSettings

EVERYTHING = "all"
ROUNDS = 1000


@dataclass(frozen=True)
class Asked:
    """What to measure on, and how.

    Attributes:
        part: of the split, or `EVERYTHING` for every field whatever its part. split: the card's own if None.
        max_detections, image_size: the bundle's own if None.
        scale: fit resizes each field as in training, so that detectors are compared on equal terms; auto looks at it
            at the scale that its red cells tell, as scoring does with slides, where the bundle knows its own.
        rounds, seed: of the bootstrap.
    """

    part: str = "val"
    split: str | None = None
    max_detections: int | None = None
    image_size: int | None = None
    scale: Looking = "fit"
    engine: EngineSettings = field(default_factory=EngineSettings)
    rounds: int = ROUNDS
    seed: int = 1


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `command` measures it again; `split` is the one that was used."""

    title: str
    report: DetectionReport
    ap: Ap
    split: str | None
    command: str


def evaluate(
    bundle: Bundle,
    card: Card,
    out: Path,
    asked: Asked,
    *,
    root: Path | None = None,
    tally: Tally,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure, and write metrics, predictions, tables and pictures into `out`.

    Args:
        progress: called with the fields done since the last call, and how many there are.
    """
    bundle = bundle.at(asked.image_size)
    if asked.part == EVERYTHING:
        dataset = merge(load_dataset(card, tally, root))
    else:
        dataset, *_ = split_parts(card, asked.split, root, tally, asked.part)
    runner = open_detector(
        bundle,
        asked.engine,
        thresholds=dict.fromkeys(bundle.names, MIN_SCORE),
        max_detections=asked.max_detections,
    )
    kinds, identity = strata(dataset), fingerprint(dataset)
    dataset = align(dataset, runner.classes)
    n = len(dataset)
    found = predict_all(
        runner,
        dataset,
        measured=asked.scale == "auto",
        progress=lambda done: progress(done, n) if progress else None,
    )
    cap = asked.max_detections or bundle.detector.max_detections
    report, ap = measure(dataset, found, bundle.thresholds, cap=cap, rounds=asked.rounds, seed=asked.seed, kinds=kinds)
    split = None if asked.part == EVERYTHING else asked.split or card.split
    title = f"{bundle.card.name} on {card.name}, part {asked.part}"
    about: dict[str, Any] = {
        "bundle": bundle.card.name,
        "bundle_hash": bundle.hash,
        "data": card.name,
        "split": split,
        "part": asked.part,
        "fingerprint": identity,
        "engine": {"name": asked.engine.name, "precision": asked.engine.precision, "device": asked.engine.device},
        "image_size": bundle.detector.image_size,
        "scale": asked.scale if runner.red_cell_px is not None else "fit",
        "bootstrap": {"rounds": asked.rounds, "seed": asked.seed, "over": "groups"},
        "command": _command(bundle, card, asked),
        "label_problems": tally.counts(),
    }
    write(report, out, title, about)
    save(dataset, found, out, {key: about[key] for key in ("data", "split", "part", "fingerprint")})
    draw_all(report, ap, out, title)
    return Evaluation(title, report, ap, split, about["command"])


def measured(
    given: str, card: Card, out: Path, asked: Asked, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """The folder of an evaluation: the one given, or one made now, below `out`, of a bundle or a finished run.

    A bundle with a graph is run by the fastest engine, one without in its training framework.
    """
    folder = Path(given)
    if (folder / METRICS).is_file():
        return folder
    name = folder.resolve().name if folder.exists() else folder.name
    if (folder / "run.yaml").is_file() and not (folder / CARD).is_file():
        made = out / f"{name}-bundle"
        export(folder, made, Description(name, name, "AGPL-3.0-or-later"), overwrite=(made / CARD).is_file())
        given = str(made)
    bundle = open_bundle(given, "detector")
    engine = (EngineSettings() if GRAPH in bundle.card.files else EngineSettings(FRAMEWORK)).resolved()
    evaluate(bundle, card, out / name, replace(asked, engine=engine), tally=Tally(), progress=progress)
    return out / name


def _command(bundle: Bundle, card: Card, asked: Asked) -> str:
    words = f"smear evaluate detector {bundle.card.name} --data {card.name} --split {asked.part} --seed {asked.seed}"
    words += " --out DIR"
    words += f" --split-file {asked.split}" if asked.split else ""
    words += f" --max-detections {asked.max_detections}" if asked.max_detections else ""
    words += f" --image-size {asked.image_size}" if asked.image_size else ""
    words += f" --scale {asked.scale}" if asked.scale != "fit" else ""
    words += f" --bootstrap {asked.rounds}" if asked.rounds != ROUNDS else ""
    if asked.engine.precision != "fp32":
        words += f" --runtime {asked.engine.name} --precision {asked.engine.precision}"
    return words
