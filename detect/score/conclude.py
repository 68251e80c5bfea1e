"""What the parts of a run come to: slides counted and called, tables, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detect.images.folder import Folder
from detect.pipeline.run import Opened
from detect.score import differential, overlaps, report
from detect.score.differential import Slide
from detect.score.manifest import Manifest
from detect.score.patterns import Called, Patterns
from detect.score.patterns import write as write_patterns
from detect.score.settings import ScoreSettings
from detect.score.store import Store


@dataclass(frozen=True)
class Conclusion:
    """What was found, for the record and for people.

    Attributes:
        about: what the report was told of the run. fields: how many of each status.
    """

    slides: tuple[Slide, ...]
    called: tuple[Called, ...]
    about: Mapping[str, Any]
    fields: Mapping[str, int]
    cells: int


def conclude(
    store: Store,
    found: Folder,
    opened: Opened,
    patterns: Patterns,
    settings: ScoreSettings,
    known: Manifest,
    about: Mapping[str, Any],
    *,
    asked: Sequence[str],
    not_asked: Sequence[str],
) -> Conclusion:
    """Count every slide and write what is not a part: `repeats.parquet`, `slides.*`, `patterns.*` and the report.

    Args:
        found: where the fields lie, for pictures. known: what the lab told of the slides.
        asked: bundles that were asked. not_asked: those that nothing led to, in words.
    """
    nodes = [node for node in opened.nodes if node.bundle.card.name in asked]
    types = list(dict.fromkeys(name for node in nodes for name in node.bundle.names))
    overlaps.write(overlaps.find(store), store.out)
    slides = tuple(differential.count(store, types))
    differential.write(slides, store.out, opened.trained_on, known)
    called = tuple(patterns.call(store, slides))
    if called:
        write_patterns(called, store.out, known)
    told = {
        **about,
        "asked": list(asked),
        "not_asked": list(not_asked),
        "not_seen": differential.not_seen(differential.seen([opened.detector, *(node.bundle for node in nodes)])),
    }
    report.write(store, found, slides, called, [b.card for b in opened.bundles], settings, told)
    states = Counter(store.fields().column("status").to_pylist())
    fields = {"found": sum(states.values()), **{s: states[s] for s in ("ok", "failed", "skipped")}}
    told["cells_repeated"] = sum(slide.repeated for slide in slides)
    return Conclusion(slides, called, told, fields, sum(len(t) for t in store.cells(("cell",))))
