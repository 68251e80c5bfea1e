"""One scoring run from a folder to a finished run folder."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from detect import __version__
from detect.errors import ConfigError, DataError
from detect.images.folder import Folder, scan
from detect.pipeline.route import names_of
from detect.pipeline.run import Opened, Pipeline, open_pipeline
from detect.runtime.base import EngineSettings, cores
from detect.score import differential, report
from detect.score.local import Row, score_fields
from detect.score.patterns import Called, Patterns
from detect.score.patterns import write as write_patterns
from detect.score.scales import Looked, check_scale, looked
from detect.score.settings import ScoreSettings
from detect.score.store import Store

STATEMENT = "morphology, for research use, not a diagnosis"
DRAWN = "smear.yaml"
_TOLD = ("numpy", "opencv-python-headless", "pillow", "onnxruntime", "openvino", "pyarrow")


@dataclass(frozen=True)
class Outcome:
    """What a finished run comes to."""

    out: Path
    slides: tuple[differential.Slide, ...]
    fields_ok: int
    fields_failed: int
    seconds: float
    others: tuple[str, ...]
    called: tuple[Called, ...] = ()
    synthetic: tuple[str, ...] = ()
    not_asked: tuple[str, ...] = ()

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report" / "index.html"


def score(
    folder: Path,
    out: Path,
    settings: ScoreSettings,
    *,
    overwrite: bool = False,
    start: Callable[[int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Score every field of a folder of slides.

    Args:
        out: run folder; refused where it is not empty, unless `overwrite`.
        start: called once with the number of fields. progress: called with the fields done since the last call.
    """
    started = time.monotonic()
    found = _fields(folder, out)
    opened = open_pipeline(settings.pipeline)
    workers = settings.workers or cores()
    engine = EngineSettings(settings.engine, settings.precision, workers, settings.device).resolved()
    pipeline = Pipeline(opened, engine, min_score=settings.min_score, thresholds=settings.thresholds)
    patterns = Patterns(opened, engine, fab=settings.pipeline.fab)
    check_scale(pipeline.detector, settings)
    store = Store.create(out, overwrite=overwrite)
    scales = looked(pipeline.detector, found.fields, settings, workers)
    if start is not None:
        start(len(found.fields))
    loaded = time.monotonic()
    for number, first in enumerate(range(0, len(found.fields), settings.part)):
        fields = found.fields[first : first + settings.part]
        rows = score_fields(pipeline, fields, scales, batch=settings.batch, workers=workers, progress=progress)
        _store(store, number, rows)
    scored = time.monotonic()
    types = list(dict.fromkeys(t for node in pipeline.asked for t in names_of(node.bundle)))
    slides = tuple(differential.count(store, types))
    differential.write(slides, out, opened.trained_on)
    called = patterns.call(store, slides)
    if called:
        write_patterns(called, out)
    states = store.fields().column("status").to_pylist()
    about = _about(folder, found, settings, engine, opened) | {
        "asked": [node.bundle.card.name for node in pipeline.asked],
        "not_asked": list(pipeline.unreached),
        "not_seen": differential.not_seen([*opened.detector.card.classes, *types]),
    }
    report.write(store, found, slides, called, [b.card for b in opened.bundles], settings, about)
    ok = states.count("ok")
    seconds = time.monotonic() - started
    store.write_run(
        about
        | {
            "fields": {"found": len(found.fields), "ok": ok, "failed": len(states) - ok},
            "cells": sum(len(t) for t in store.cells(("cell",))),
            "seconds": {
                "loading": round(loaded - started, 2),
                "scoring": round(scored - loaded, 2),
                "report": round(time.monotonic() - scored, 2),
            },
            "fields_per_second": round(len(found.fields) / max(scored - loaded, 1e-6), 2),
            "peak_memory_mib": _peak_memory(),
            "scales": {name: _told(one) for name, one in scales.items()},
            "workers": workers,
            "machine": f"{platform.system()} {platform.machine()}, {cores()} cores",
            "python": platform.python_version(),
            "versions": _versions(),
        }
    )
    told = tuple(called), tuple(opened.drawn), pipeline.unreached
    return Outcome(out, slides, ok, len(states) - ok, seconds, found.others, *told)


def _fields(folder: Path, out: Path) -> Folder:
    """What is to be scored; an output folder within the slides is not scored again."""
    found = scan(folder)
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


def is_drawn(folder: Path) -> bool:
    """Whether these slides were drawn by `smear data synthesize`, which leaves its settings beside them."""
    return any((place / DRAWN).is_file() for place in (folder, folder.resolve().parent))


def _without(found: Folder, out: Path) -> Folder:
    """The folder without what an earlier run wrote into it."""
    inside = out.resolve()
    kept = tuple(f for f in found.fields if not f.path.resolve().is_relative_to(inside))
    others = tuple(o for o in found.others if not (found.root / o).resolve().is_relative_to(inside))
    return Folder(found.root, kept, others)


def _store(store: Store, number: int, rows: list[Row]) -> None:
    store.write_part(number, [field for field, _ in rows], [cell for _, cells in rows for cell in cells])


def _about(
    folder: Path,
    found: Folder,
    settings: ScoreSettings,
    engine: EngineSettings,
    opened: Opened,
) -> dict[str, Any]:
    return {
        "statement": STATEMENT,
        "smear_detect": __version__,
        "input": str(folder),
        "slides": len(found.slides),
        "other_files": list(found.others),
        "settings": settings.model_dump(mode="json"),
        "engine": {"name": engine.name, "precision": engine.precision, "device": engine.device},
        "bundles": {b.card.name: b.hash for b in opened.bundles},
        "synthetic": opened.drawn,
        "trained_on": opened.trained_on,
        "drawn_slides": is_drawn(folder),
    }


def _told(slide: Looked) -> dict[str, Any] | str:
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
