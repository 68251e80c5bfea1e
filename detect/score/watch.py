"""A folder that a scanner writes slides into: each is scored once, when it is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detect.errors import ConfigError, DataError, SmearError, StoppedRunError
from detect.images.folder import scan
from detect.images.wholeslide import ALWAYS
from detect.score import apart, manifest, plan
from detect.score.leader import Outcome
from detect.score.manifest import Manifest
from detect.score.run import score
from detect.score.settings import ScoreSettings
from detect.score.store import FINISHED, RUN, Store

_AGAIN = 300.0  # seconds after which a slide that could not be scored is tried again: a disk may have room by then
_NAP = 0.5  # seconds between looks at whether somebody wants it to end


@dataclass(frozen=True)
class Watched:
    """What came of one slide. `wrong` says why it was not finished, and is tried again later; or what came too late."""

    slide: str
    outcome: Outcome | None
    wrong: str = ""


@dataclass(frozen=True)
class Delivery:
    """When a slide counts as complete.

    Attributes:
        settle: seconds in which none of its files may have changed.
        mark: a file of that name in its folder says that it is complete, at once; without it nothing is. Of a slide in
            one file, a file beside it says so, whose name is that file's with a dot and the mark behind it.
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
    known: Callable[[], Manifest] = lambda: manifest.NONE,
    every: float = 5.0,
    once: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Watched]:
    """Score the slides of a folder as they come, each into a run folder of its own, named like the slide.

    A slide is a folder, or one file of a whole slide. A run that was stopped is gone on with. A slide whose run is
    finished is not scored again, whatever comes late: that would count its cells anew without anybody knowing. What
    came late is told.

    Args:
        known: what the lab tells of its slides by then, asked before each slide: those that come later are in it later.
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
    done: dict[str, int] = {}  # when its folder had changed last, as it was looked for what came late
    told: dict[str, int] = {}  # how much did
    while not stop():
        slides = _slides(folder)
        for slide in sorted(slides):
            if slide in done and not (out / slide / RUN).is_file():  # somebody wants it scored anew
                del done[slide]
            if slide in done or _is_done(out / slide):
                if done.get(slide) != (changed := _changed(slides[slide])):
                    done[slide] = changed
                    late = _late(folder, slides[slide], out / slide)
                    if late > told.get(slide, 0):
                        told[slide] = late
                        what = f"came after it was scored, and not counted: {late} fields"
                        yield Watched(slide, None, f"{what}; delete {out / slide} to have it scored anew")
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
                mine = _of_slide(known(), slide)
                yield Watched(slide, _score(folder, slide, out / slide, settings, mine, stop))
            except StoppedRunError as error:
                if error.asked:
                    return
                given_up[slide] = (state, time.monotonic())
                yield Watched(slide, None, str(error))
            except SmearError as error:
                given_up[slide] = (state, time.monotonic())
                yield Watched(slide, None, str(error))
        waits = [s for s in slides if s not in done and s not in given_up]
        if once and all(delivery.mark is not None and not _is_marked(slides[s], delivery.mark) for s in waits):
            return
        until = time.monotonic() + every
        while time.monotonic() < until and not stop():
            time.sleep(min(_NAP, every))


def _slides(folder: Path) -> dict[str, Path]:
    """Sub-folders and files of whole slides, by their names. The folder that belongs to an MRXS file is none."""
    try:
        there = [p for p in folder.iterdir() if not p.name.startswith(".")]
        files = [p for p in there if p.suffix.lower() in ALWAYS and p.is_file()]
        of_files = {p.with_suffix("") for p in files}
        return {p.name: p for p in (*files, *(p for p in there if p.is_dir() and p not in of_files))}
    except OSError:  # the share is away for a moment
        return {}


def _of_slide(known: Manifest, slide: str) -> Manifest:
    """What is known of a slide, and of whole slides in its folder."""
    return Manifest({n: s for n, s in known.slides.items() if n == slide or n.startswith(f"{slide}/")})


def _late(folder: Path, slide: Path, run: Path) -> int:
    """How many fields of a slide its finished run has no row for."""
    if not slide.is_dir():
        return 0
    try:
        seen = {row.field.path for row in plan.read(run, folder).rows}
        rows = set(Store(run).fields().column("field").to_pylist())
        late = [f for f in scan(slide).fields if f.path not in seen]
        late = [f for f, series in zip(late, apart.series([f.path for f in late]), strict=True) if series is None]
    except (SmearError, OSError):  # it is being written, or was taken away
        return 0
    return sum(f"{slide.name}/{f.id}" not in rows for f in late)


def _changed(slide: Path) -> int:
    """When anything came into its folder, or left it; 0 where that cannot be told."""
    try:
        return slide.stat().st_mtime_ns
    except OSError:
        return 0


def _state(slide: Path) -> State:
    """What files are there, how large and how old; different whenever anything was written."""
    out = []
    beside = [slide, *slide.with_suffix("").rglob("*")] if slide.is_file() else []
    for path in beside or slide.rglob("*"):
        try:
            about = path.stat()
        except OSError:  # it has just been renamed
            continue
        out.append((path.relative_to(slide.parent).as_posix(), about.st_size, about.st_mtime_ns))
    return tuple(sorted(out))


def _complete(slide: Path, since: float, delivery: Delivery) -> bool:
    if delivery.mark is not None:
        return _is_marked(slide, delivery.mark)
    return time.monotonic() - since >= delivery.settle


def _is_marked(slide: Path, mark: str) -> bool:
    return (slide / mark if slide.is_dir() else slide.with_name(f"{slide.name}.{mark}")).is_file()


def _is_done(run: Path) -> bool:
    return (run / RUN).is_file() and Store(run).run().get("state") == FINISHED


def _score(
    folder: Path, slide: str, out: Path, settings: ScoreSettings, known: Manifest, stop: Callable[[], bool]
) -> Outcome:
    found = scan(folder / slide).fields if (folder / slide).is_dir() else (slide,)
    if not found:
        raise DataError("no images in it", where=str(folder / slide), remedy="see what the scanner wrote")
    return score(folder, out, settings, known=known, resume=True, stop=stop, only=[slide])
