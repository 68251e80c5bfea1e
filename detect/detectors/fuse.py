"""Bundles of detectors to a bundle that asks all of them; thresholds chosen on dev."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from detect.bundles.card import MEMBERS, Card, DetectorGraph
from detect.bundles.draft import INTENDED_USE, Description, check_folder, prepare_folder, trained_on
from detect.bundles.folder import Bundle, write_card
from detect.data.cards import Card as DatasetCard
from detect.data.whole import whole
from detect.detectors.ensemble import FUSE_IOU, EnsembleSettings
from detect.detectors.export import metrics
from detect.detectors.measure import MIN_SCORE, predict_all
from detect.detectors.opened import open_detector
from detect.detectors.train import split_parts
from detect.errors import ConfigError
from detect.evaluate.align import align
from detect.evaluate.detection import DetectionReport, measure
from detect.evaluate.thresholds import CHOICE, best_f1
from detect.formats.tally import Tally


def fuse(
    bundles: Sequence[Bundle],
    settings: EnsembleSettings,
    out: Path,
    about: Description,
    data: DatasetCard,
    *,
    split: str | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> DetectionReport:
    """Write a bundle of bundles: copies of its members, and a card with thresholds and figures from part dev.

    Args:
        settings: how they are made one; its members are the names of `bundles`, in their order. Members that lie beside
            `out` need no copies: the card holds hashes of theirs.
        data: the set whose part dev chooses the thresholds; what its members learnt from must not be in it.
    """
    _check(bundles, settings, out)
    check_folder(out, overwrite)
    dev, *_ = split_parts(data, split, root, Tally(), "dev")
    draft = _draft(bundles, settings, about)
    told = split or data.split
    # An older bundle gives way only to a finished one.
    staged = out.with_name(f".{out.name}.new")
    with whole(staged) as made:
        for bundle in bundles if not settings.beside else ():
            shutil.copytree(bundle.path, made / MEMBERS / bundle.card.name)
        opened = Bundle(write_card(draft, made), made, "")
        model, section = open_detector(opened), opened.detector
        dev = align(dev, model.classes)
        found = predict_all(model, dev)
        thresholds = best_f1(dev, found)
        choice = f"{CHOICE} on part dev of {told} ({len(dev)} fields), per class"
        section = section.model_copy(update={"thresholds": thresholds, "threshold_choice": choice})
        report, _ = measure(dev, found, thresholds, cap=section.max_detections)
        figures = metrics(report, data.name, told, "dev", _command(about.name, data.name, split, settings))
        write_card(draft.model_copy(update={"detector": section, "metrics": figures}), made)
    prepare_folder(out, overwrite)
    out.rmdir()
    staged.rename(out)
    return report


def _check(bundles: Sequence[Bundle], settings: EnsembleSettings, out: Path) -> None:
    """ConfigError where these bundles cannot be one."""
    names, weights = settings.members, settings.weights
    if len(set(names)) != len(names):
        raise ConfigError(f"two bundles share a name: {list(names)}", remedy="name each bundle once")
    if weights and (len(weights) != len(bundles) or min(weights) <= 0):
        raise ConfigError(f"weights {list(weights)} for {len(bundles)} bundles", remedy="give one above 0 for each")
    if len(bundles) == 1 and settings.views == "none":
        raise ConfigError("one bundle, looked at once, is what it was", remedy="name another, or add --views flips")
    families = [bundle.card.architecture.get("family") for bundle in bundles]
    if "ensemble" in families:
        raise ConfigError("an ensemble cannot be part of another", remedy="name its members")
    pairs = zip(bundles, families, strict=True)
    known = [bundle.detector.red_cell_px is not None for bundle, kind in pairs if kind != "classical"]
    if any(known) and not all(known):
        what = "some bundles know how large red cells were in their training, and some do not"
        raise ConfigError(what, remedy="export those that do not again: they would look at slides at another scale")
    for bundle in bundles:
        here = out.resolve().parent / bundle.card.name
        if settings.beside and bundle.path.resolve() != here:
            what = f"{bundle.path} does not lie beside it, in a folder of its name"
            raise ConfigError(what, where=str(out), remedy=f"put it into {here}, or have members copied")
        if _nested(out.resolve(), bundle.path.resolve()):
            what = f"would lie in {bundle.path}, or that in it"
            raise ConfigError(what, where=str(out), remedy="name another folder")


def _draft(bundles: Sequence[Bundle], settings: EnsembleSettings, about: Description) -> Card:
    """The card before its thresholds and figures."""
    sections = [bundle.detector for bundle in bundles]
    built = [bundle.card.architecture for bundle in bundles]
    classes = tuple(dict.fromkeys(name for bundle in bundles for name in bundle.names))
    learnt = [b.card.trained_on for b in bundles if b.card.architecture.get("family") != "classical"] or ["real"]
    return Card(
        name=about.name,
        task="detector",
        title=about.title,
        licence=about.licence,
        intended_use=INTENDED_USE,
        limits=tuple(dict.fromkeys([*about.limits, *(limit for b in bundles for limit in b.card.limits)])),
        taxonomy=max(bundle.card.taxonomy for bundle in bundles),
        trained_on=trained_on((), learnt),
        classes=classes,
        architecture={
            "family": "ensemble",
            "name": " + ".join(settings.members),
            "config": settings.model_dump(mode="json"),
            "parameters": sum(a.get("parameters", 0) for a in built),
            "gflops": round(sum(a.get("gflops", 0) for a in built) * _looks(settings.views), 3),
        },
        detector=DetectorGraph(
            image_size=max(s.image_size for s in sections),
            red_cell_px=next((s.red_cell_px for s in sections if s.red_cell_px is not None), None),
            masks=all(s.masks for s in sections),
            thresholds=dict.fromkeys(classes, MIN_SCORE),
            threshold_choice="",
            nms_iou=settings.fuse_iou,
            max_detections=max(s.max_detections for s in sections),
        ),
    )


def _command(name: str, data: str, split: str | None, settings: EnsembleSettings) -> str:
    words = ["smear bundle fuse", *settings.members, f"--data {data} --out BUNDLE --name {name}"]
    words += [f"--split-file {split}"] if split else []
    words += [f"--weight {w:g}" for w in settings.weights]
    words += [f"--views {settings.views}"] if settings.views != "none" else []
    words += ["--beside"] if settings.beside else []
    words += [f"--iou {settings.fuse_iou:g}"] if settings.fuse_iou != FUSE_IOU else []
    return " ".join(words)


def _nested(one: Path, other: Path) -> bool:
    return one == other or one.is_relative_to(other) or other.is_relative_to(one)


def _looks(views: str) -> int:
    return 4 if views == "flips" else 1
