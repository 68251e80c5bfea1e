"""A folder that a scanner writes slides into: each is scored once, when it is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detect.errors import ConfigError, DataError, SmearError, StoppedRunError
from detect.images.folder import scan
from detect.score import manifest
from detect.score.manifest import Manifest
from detect.score.run import Outcome, score
from detect.score.settings import ScoreSettings
from detect.score.store import FINISHED, RUN, Store

_AGAIN = 300.0  # seconds after which a slide that could not be scored is tried again: a disk may have room by then
_NAP = 0.5  # seconds between looks at whether somebody wants it to end


@dataclass(frozen=True)
class Watched:
    """What came of one slide. `wrong` says why it was not finished; it is tried again later."""

    slide: str
    outcome: Outcome | None
    wrong: str = ""


@dataclass(frozen=True)
class Delivery:
    """When a slide counts as complete.

    Attributes:
        settle: seconds in which none of its files may have changed.
        mark: a file of that name in its folder says that it is complete, at once; without it nothing is.
    """

    settle: float = 30.0
    mark: str | None = None


State = tuple[tuple[str, int, int], ...]


def watch(
    folder: Path,
    out: Path,
    settings: ScoreSettings,
    *,
    delivery: Delivery,
    known: Manifest = manifest.NONE,
    every: float = 5.0,
    once: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Watched]:
    """Score the slides of a folder as they come, each into a run folder of its own, named like the slide.

    A run that was stopped is gone on with. A slide whose run is finished is not looked at again, whatever comes late:
    that would count its cells anew without anybody knowing.

    Args:
        every: seconds between looks at the folder. once: end when all that is complete is scored; slides that wait for
            their mark are left.
        stop: asked now and then; parts in hand are finished.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), remedy="give the folder that the scanner writes into")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError("the results would lie among the slides", where=str(out), remedy="name another folder")
    seen: dict[str, tuple[State, float]] = {}  # what each slide was like, and since when
    given_up: dict[str, tuple[State, float]] = {}
    done: set[str] = set()
    while not stop():
        slides = _slides(folder)
        for slide in sorted(set(slides) - done):
            if _is_done(out / slide):
                done.add(slide)
                continue
            state = _state(slides[slide])
            before = seen.get(slide)
            if before is None or before[0] != state:
                seen[slide] = (state, time.monotonic())
            failed = given_up.get(slide)
            if failed is not None and (once or failed[0] == state) and time.monotonic() - failed[1] < _AGAIN:
                continue
            if not _complete(slides[slide], seen[slide][1], delivery):
                continue
            try:
                yield Watched(slide, _score(folder, slide, out / slide, settings, known, stop))
            except StoppedRunError as error:
                if error.asked:
                    return
                given_up[slide] = (state, time.monotonic())
                yield Watched(slide, None, str(error))
            except SmearError as error:
                given_up[slide] = (state, time.monotonic())
                yield Watched(slide, None, str(error))
        waits = [s for s in slides if s not in done and s not in given_up]
        if once and all(delivery.mark is not None and not (slides[s] / delivery.mark).is_file() for s in waits):
            return
        until = time.monotonic() + every
        while time.monotonic() < until and not stop():
            time.sleep(min(_NAP, every))


def _slides(folder: Path) -> dict[str, Path]:
    """Sub-folders, each a slide."""
    try:
        return {p.name: p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    except OSError:  # the share is away for a moment
        return {}


def _state(slide: Path) -> State:
    """What files are there, how large and how old; different whenever anything was written."""
    out = []
    for path in slide.rglob("*"):
        try:
            about = path.stat()
        except OSError:  # it has just been renamed
            continue
        out.append((path.relative_to(slide).as_posix(), about.st_size, about.st_mtime_ns))
    return tuple(sorted(out))


def _complete(slide: Path, since: float, delivery: Delivery) -> bool:
    if delivery.mark is not None:
        return (slide / delivery.mark).is_file()
    return time.monotonic() - since >= delivery.settle


def _is_done(run: Path) -> bool:
    return (run / RUN).is_file() and Store(run).run().get("state") == FINISHED


def _score(
    folder: Path, slide: str, out: Path, settings: ScoreSettings, known: Manifest, stop: Callable[[], bool]
) -> Outcome:
    if not any(f.slide == slide for f in scan(folder).fields):
        raise DataError("no images in it", where=str(folder / slide), remedy="see what the scanner wrote")
    return score(folder, out, settings, known=known, resume=True, stop=stop, only=[slide])
