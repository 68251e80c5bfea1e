"""What a row of a table of classifiers rests on, hashed: cells and their parts, files that recipes name, code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detect import assets
from detect.bundles.card import CARD
from detect.bundles.folder import open_bundle
from detect.classify import networks
from detect.classify.legs import Leg
from detect.data.fingerprint import READERS, code_fingerprint, file_hash

# Legs are hashed as they are, and recipes, where what settings and reports are made of ends.
_MODULES = ("detect.classify.fit", "detect.data.augment", "detect.images.preprocess")
_TOLD = (
    "detect.classify.bundled", "detect.classify.recipes", "detect.classify.settings", "detect.evaluate.classification",
    "detect.evaluate.conformal", "detect.evaluate.intervals", "detect.taxonomy", "detect.types",
)  # fmt: skip
_LIBRARIES = (
    "torch", "torchvision", "timm", "scikit-learn", "scikit-image", "albumentations", "numpy", "opencv-python-headless",
)  # fmt: skip


def code(*, detected: bool) -> str:
    """Hash of the code and the libraries that change an answer.

    Args:
        detected: a detector's boxes are learnt from.
    """
    return code_fingerprint([*_MODULES, *_networks()], _LIBRARIES, leave=_left(detected))


def identity(legs: Sequence[Leg]) -> str:
    """Hash of every cell's picture, box, outline, type and group, and of its part in every leg."""
    cells = {c.id: c for leg in legs for c in (*leg.train, *leg.dev, *leg.test)}
    files = {path: file_hash(path) for path in {c.path for c in cells.values()}}
    total = hashlib.sha256()
    for name in sorted(cells):
        cell = cells[name]
        total.update(f"{name} {files[cell.path]} {cell.box} {cell.outline} {cell.type} {cell.group}\0".encode())
    for leg in legs:
        for part in ("train", "dev", "test"):
            total.update(f"{leg.name} {leg.kind} {part} {[c.id for c in getattr(leg, part)]}\0".encode())
    return total.hexdigest()


def by_content(told: Any) -> Any:
    """Plain values in which what a text names that is not in the recipe itself, a file of weights or a bundle, stands
    by its hash: a table may be moved."""
    if isinstance(told, Mapping):
        return {k: by_content(v) for k, v in told.items()}
    if isinstance(told, list | tuple):
        return [by_content(v) for v in told]
    if not isinstance(told, str):
        return told
    path = Path(told)
    if path.suffix and path.is_file():
        return file_hash(path)
    folder = path if (path / CARD).is_file() else assets.RELEASED_BUNDLES / told
    return [told, open_bundle(folder).hash] if (folder / CARD).is_file() else told


def _left(detected: bool) -> tuple[str, ...]:
    """Modules that change no row: with `detected`, where a detector's boxes are learnt from."""
    return (*READERS, *_TOLD, "detect.detectors.train", *(() if detected else ("detect.detectors.opened",)))


def _networks() -> list[str]:
    """Modules that networks are built by, which tables of names lead to."""
    return [
        f"{networks.__name__}.{p.stem}" for p in Path(networks.__file__).parent.glob("*.py") if p.stem != "__init__"
    ]
