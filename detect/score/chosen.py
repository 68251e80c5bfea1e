"""What a run is about and what it runs on: the fields of its input, how many workers, which engine and precision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detect.bundles.folder import Bundle
from detect.errors import ConfigError, DataError
from detect.images.folder import Folder, scan
from detect.runtime.base import FRAMEWORK, EngineSettings, cores, fast_precisions
from detect.score.remote import Links, bring_all
from detect.score.settings import ScoreSettings
from detect.types import Field

_CALLS = 4  # batches at once on one GPU: while it works on one, others are made ready


def workers_of(settings: ScoreSettings) -> int:
    """Processes that score side by side."""
    if settings.workers:
        return settings.workers
    if settings.runtime != FRAMEWORK:
        return cores()
    return len(settings.device.split(","))


def engine_of(settings: ScoreSettings, workers: int, detector: Bundle, begun: Mapping[str, Any]) -> EngineSettings:
    """What one worker runs graphs with. A run that is gone on with keeps its own, so that its bytes stay the same."""
    chosen = begun.get("engine", {})
    threads = chosen.get("threads") or max(1, cores() // workers)
    calls = 1 if settings.device == "cpu" else max(1, min(_CALLS, cores() // workers))
    name = chosen.get("name", settings.runtime)
    precision = chosen.get("precision", settings.precision)
    if precision != "auto":
        found = EngineSettings(name, precision, calls, settings.device, threads).resolved()
        if settings.precision == "auto" and precision != "fp32" and precision not in fast_precisions(found.name):
            what = f"the run was begun in {precision}, which this processor does not have"
            raise ConfigError(what, remedy="go on on such a machine as it was begun on, or begin again")
        return found
    plain = EngineSettings(name, "fp32", calls, settings.device, threads).resolved()
    return replace(plain, precision=detector.first_offered(fast_precisions(plain.name), plain.name) or "fp32")


def found_in(folder: Path, links: Links, stop: Callable[[], bool]) -> Folder:
    """What lies in the input folder, or at the URL that it is a copy of."""
    return bring_all(links, folder, stop) if links.input else scan(folder)


def fields_of(found: Folder, folder: Path, out: Path, only: Collection[str]) -> Folder:
    """What is to be scored; an output folder within the slides is not scored again."""
    if only:
        found = Folder(found.root, tuple(f for f in found.fields if _names(f) & set(only)), ())
    if not found.fields:
        what = f"no images in it ({len(found.others)} other files)"
        raise DataError(what, where=str(folder), remedy="give a folder with one sub-folder of images a slide")
    if out.resolve() == folder.resolve() or folder.resolve().is_relative_to(out.resolve()):
        raise ConfigError("the output would overwrite the slides", where=str(out), remedy="name another folder")
    if out.resolve().is_relative_to(folder.resolve()):
        found = _without(found, out)
        if not found.fields:
            what = "no images in it but those of the output folder"
            raise DataError(what, where=str(folder), remedy="name another --out")
    return found


def check_slides(found: Folder, only: Collection[str]) -> None:
    """DataError where a slide that somebody names is not there."""
    missing = sorted(set(only).difference(*map(_names, found.fields)))
    if missing:
        near = get_close_matches(missing[0], found.slides, 1)
        remedy = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(found.slides[:10])}"
        raise DataError(f"no slide '{missing[0]}' with images in it", where=str(found.root), remedy=remedy)


def _names(field: Field) -> set[str]:
    """By which a slide can be chosen: its own, its folder's, and of a whole slide that of its file."""
    return {field.slide, field.id, field.id.partition("/")[0]}


def _without(found: Folder, out: Path) -> Folder:
    """The folder without what an earlier run wrote into it."""
    inside = out.resolve()
    kept = tuple(f for f in found.fields if not f.path.resolve().is_relative_to(inside))
    others = tuple(o for o in found.others if not (found.root / o).resolve().is_relative_to(inside))
    return Folder(found.root, kept, others)
