"""What the rows of a table rest on, as hashes, and files that say so: whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from detect import assets
from detect.bundles.folder import open_bundle
from detect.data.cards import load_card
from detect.data.fingerprint import READERS, code_fingerprint, file_hash, fingerprint
from detect.data.smear.settings import load_smear
from detect.detectors.base import FAMILIES, DetectorSettings, family
from detect.detectors.train import split_parts
from detect.errors import DataError
from detect.evaluate.saved import load_json
from detect.formats.tally import Tally
from detect.tables.settings import DrawnTypes, Start
from detect.types import Dataset

KEY, ABOUT, BUNDLE = "key.json", "about.json", "bundle"
_LEARN = ("detect.detectors.train", "detect.detectors.export", "detect.evaluate.curves")
_MEASURE = ("detect.detectors.evaluate", "detect.runtime.openvino", "detect.runtime.onnxruntime")
_TYPES = ("detect.classify.train", "detect.classify.networks")
_DRAW = ("detect.data.smear.write",)
# What only compares, writes and draws changes no figure.
_LEAVE = (*READERS, "detect.detectors.parity", "detect.evaluate.plots", "detect.evaluate.tables")
_LIBRARIES = (
    "torch", "torchvision", "ultralytics", "detectron2", "albumentations", "numpy", "opencv-python-headless",
)  # fmt: skip
_ENGINES = ("onnxruntime", "openvino", "numpy", "opencv-python-headless", "pycocotools")


def training_key(
    settings: DetectorSettings, data: str, split: str, start: Mapping[str, str] | None, *, beside: bool = False
) -> dict[str, str]:
    """Of a detector: its configuration and architecture, what it begins with, what it learns from, and the code.

    Args:
        start: the key of the table's weights to begin with, in place of the path where they lie. beside: their slides
            are learnt from too.
    """
    told: dict[str, Any] = settings.model_dump(mode="json")
    if beside:
        told["beside"] = True
    given = settings.pretrained
    if start is not None:
        told["pretrained"] = dict(start)
    elif isinstance(given, str):
        told["pretrained"] = file_hash(Path(given)) if Path(given).suffix else open_bundle(given, "detector").hash
    classes = len(load_card(data).classes)
    told["architecture"] = dict(family(settings.family).architecture(settings, classes).config)
    code = _code((*_LEARN, FAMILIES[settings.family]), _LIBRARIES)
    return {"config": hashed(told), "data": _learnt(data, split), "code": code}


def start_key(start: Start, settings: DetectorSettings, classes: int) -> dict[str, str]:
    """Of weights to begin with: what is drawn, how it is learnt, and the code of both."""
    architecture = dict(family(settings.family).architecture(settings, classes).config)
    told = {
        "start": start.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "architecture": architecture,
    }
    drawn = hashed({"smear": load_smear("train").model_dump(mode="json"), "code": _code(_DRAW, ("numpy", "scipy"))})
    return {"config": hashed(told), "data": drawn, "code": _code((*_LEARN, FAMILIES[settings.family]), _LIBRARIES)}


def types_key(told: DrawnTypes, start: Start) -> dict[str, str]:
    """Of a classifier of drawn cells: what is drawn, how it is learnt, and the code of both."""
    drawn: dict[str, Any] = {
        "smear": load_smear("train").model_dump(mode="json"),
        "start": start.model_dump(mode="json"),
    }
    drawn["code"] = _code(_DRAW, ("numpy", "scipy"))
    return {"config": hashed(told.recipe), "data": hashed(drawn), "code": _code(_TYPES, _LIBRARIES)}


def measuring_key(
    bundle: str, adapter: str, data: str, split: str, part: str, told: Mapping[str, Any]
) -> dict[str, str]:
    """Of an evaluation: the bundle by its hash and family, the fields, how they are measured."""
    (dataset,) = split_parts(load_card(data), split, None, Tally(), part)
    code = _code((*_MEASURE, *([FAMILIES[adapter]] if adapter in FAMILIES else [])), _ENGINES)
    about = hashed({**told, "split": Path(split).stem, "part": part})
    return {"bundle": bundle, "data": identity(dataset), "asked": about, "code": code}


@cache
def _learnt(data: str, split: str) -> str:
    return hashed([identity(d) for d in split_parts(load_card(data), split, None, Tally(), "train", "dev")])


def identity(dataset: Dataset) -> str:
    """Pictures, boxes, labels, masks, groups, and which classes are drawn everywhere; and the tree of labels."""
    fields = sorted(dataset.fields, key=lambda f: f.field.id)
    more = [
        (
            f.field.group,
            f.annotations.crowd.tolist(),
            [None if m is None else str(m) for m in f.annotations.masks or ()],
        )
        for f in fields
    ]
    tree = file_hash(assets.ROOT / "annotations" / "taxonomy.yaml")
    return hashed([fingerprint(dataset), more, sorted(dataset.exhaustive_for), tree])


@cache
def _code(modules: tuple[str, ...], libraries: tuple[str, ...]) -> str:
    return code_fingerprint(modules, libraries, leave=_LEAVE)


def hashed(told: object) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def read(path: Path) -> dict[str, Any] | None:
    """What a file of ours says; None where there is none, or a crash left it torn."""
    try:
        told: dict[str, Any] = load_json(path)
    except DataError:
        return None
    return told


def write(path: Path, told: object) -> None:
    """Plain values, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(told, indent=1), "utf-8")
    partial.replace(path)


def remove(folder: Path) -> None:
    """A folder away at once, whatever happens while it is deleted."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
