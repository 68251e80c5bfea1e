"""What `run.yaml` says of a run, and what of it a run that is gone on with has to keep."""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from detect import __version__
from detect.config import parse
from detect.errors import ConfigError, StoreError
from detect.pipeline.run import Opened
from detect.runtime.base import cores
from detect.score.manifest import Manifest, Specimen
from detect.score.scales import Looked
from detect.score.settings import ScoreSettings
from detect.score.store import RUN

DRAWN = "smear.yaml"
_TOLD = ("numpy", "opencv-python-headless", "pillow", "onnxruntime", "openvino", "pyarrow")
# What may differ when a run is gone on with: it changes how long that takes, and not what comes out.
_FREE = {"engine", "address", "workers"}

STATEMENT = "morphology, for research use, not a diagnosis"


def is_drawn(folder: Path) -> bool:
    """Whether these slides were drawn by `smear data synthesize`, which leaves its settings beside them."""
    return any((place / DRAWN).is_file() for place in (folder, folder.resolve().parent))


def check_input(root: str, record: Mapping[str, Any], out: Path) -> None:
    """StoreError where another folder, or URL, is given than the run was begun with."""
    if root != record.get("root"):
        what = f"the run was begun with the slides in {record.get('root')}, not in {root}"
        raise StoreError(what, where=str(out / RUN), remedy="name that folder, or another --out")


def check_only(only: Collection[str], record: Mapping[str, Any], out: Path) -> None:
    """ConfigError where other slides are named than the run is about."""
    if only and set(only) != set(record.get("only", ())):
        what = (
            f"the run was begun with {', '.join(record.get('only') or ['all slides'])}, not {', '.join(sorted(only))}"
        )
        raise ConfigError(what, where=str(out / RUN), remedy="leave --slide out, or name another --out")


def same(
    settings: ScoreSettings, known: Manifest, record: Mapping[str, Any], out: Path
) -> tuple[ScoreSettings, Manifest]:
    """The settings and the manifest of the run that is gone on with.

    Raises:
        StoreError: it was another version of the program. ConfigError: an option says otherwise than it did.
    """
    where = str(out / RUN)
    if record.get("smear_detect") != __version__:
        what = f"begun with smear-detect {record.get('smear_detect')}, this is {__version__}"
        raise StoreError(what, where=where, remedy="go on with that version, or begin again with --overwrite")
    begun = parse(ScoreSettings, record["settings"], where)
    given, plain = settings.model_dump(), ScoreSettings().model_dump()
    if given["precision"] == record.get("engine", {}).get("precision"):  # as it turned out to be
        given["precision"] = begun.precision
    for name, value in begun.model_dump().items():
        if name not in _FREE and given[name] not in (plain[name], value):
            what = f"the run was begun with {name} {value}, not {given[name]}"
            raise ConfigError(what, where=where, remedy="leave the option out, or begin again with --overwrite")
    before = Manifest({name: parse(Specimen, told, where) for name, told in record["manifest"].items()})
    if known.slides and known.slides != before.slides:
        raise ConfigError("the manifest has changed", where=where, remedy="begin again with --overwrite")
    return begun.model_copy(update={name: getattr(settings, name) for name in _FREE}), before


def check_bundles(opened: Opened, record: Mapping[str, Any], out: Path) -> None:
    """StoreError where a bundle is not what it was when the run was begun."""
    for bundle in opened.bundles:
        if record["bundles"].get(bundle.card.name) != bundle.hash:
            what = f"the bundle {bundle.card.name} has changed since the run was begun"
            raise StoreError(what, where=str(out / RUN), remedy="bring it back, or begin again with --overwrite")


def told(slide: Looked) -> dict[str, Any] | str:
    """How a slide was looked at, for the record."""
    scale = slide.scale
    if scale is None:
        return "could not be measured" if slide.failed else "not measured"
    return {
        "red_cell_px": [round(scale.width_px, 1), round(scale.height_px, 1)],
        "um_per_px": round(scale.um_per_px, 4),
        "spread": round(scale.spread, 3),
        "cells": scale.cells,
        "how": scale.how,
        "sure": scale.sure,
        "each_field": slide.each,
    }


def machine() -> dict[str, Any]:
    """Where a run was made, and with what; not a part of its results."""
    return {
        "peak_memory_mib": _peak_memory(),
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores",
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    out = {}
    for name in _TOLD:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed"
    return out


def _peak_memory() -> int | None:
    """Most resident memory of this process, MiB; None on systems that do not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / (2**20 if sys.platform == "darwin" else 2**10))
