"""What one worker does, on whatever engine: look at a slide's scale, or score one part of the plan and write it.

What goes into which batch depends only on the part's fields, their order and their sizes, and results are kept in that
order: the same part gives the same bytes, whoever works on it and whenever.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2

from detect.detectors.scale import looked_at
from detect.errors import ImageError, StoreError
from detect.images import wholeslide
from detect.images.decode import Shrink
from detect.images.magnification import given
from detect.pipeline.run import Pipeline, open_pipeline
from detect.runtime.base import EngineSettings
from detect.score.manifest import Manifest
from detect.score.plan import Planned
from detect.score.reading import Picture, Reader, Room
from detect.score.remote import NOWHERE, Bringer, Links, Sink, is_leaders
from detect.score.rows import Row, grown_cells, own_cells, row_beyond, row_of, shrunk_scale, white_cells
from detect.score.scales import Looked, check_scale, look
from detect.score.settings import ScoreSettings
from detect.score.store import FieldRecord, Store
from detect.types import Field

_HELD_PIXELS = 24_000_000  # most pixels that wait for a batch: huge fields make small batches, so memory stays flat
_AHEAD = 2  # batches that are decoded while one is worked on


@dataclass(frozen=True)
class Job:
    """What every worker of a run is told, once.

    Attributes:
        root, out: the input folder and the run folder. links: the URLs that they are copies of.
        files: how many there are at least, so that workers for them can be opened side by side.
        bundles: hashes of the pipeline's bundles by their names, as whoever leads has opened them.
    """

    root: Path
    out: Path
    settings: ScoreSettings
    engine: EngineSettings
    manifest: Manifest
    links: Links = NOWHERE
    files: int = 0
    bundles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """Look at the scale of one slide."""

    slide: str
    fields: tuple[Field, ...]

    @property
    def key(self) -> str:
        """What it is told apart by."""
        return self.slide


@dataclass(frozen=True)
class Part:
    """Score one part.

    Attributes:
        looked: how the slides in it are looked at.
        killed: fields by id that ended a worker which worked on them, and how.
        counted: white cells of its slide counted in earlier parts, where slides end once enough are.
    """

    number: int
    rows: tuple[Planned, ...]
    looked: Mapping[str, Looked]
    killed: Mapping[str, str]
    counted: int = 0

    @property
    def key(self) -> int:
        """What it is told apart by."""
        return self.number


Task = Measure | Part


@dataclass(frozen=True)
class Done:
    """A part that is on disk.

    Attributes:
        fields: how many of each status. white: nucleated white cells. files: SHA-256 of its files by their folder.
    """

    number: int
    fields: Mapping[str, int]
    cells: int
    white: int
    files: Mapping[str, str]
    seconds: float


class LeftAloneError(Exception):
    """Whoever led the run has gone."""


Result = Looked | Done


@dataclass(frozen=True)
class Ready:
    """What a worker found when it opened the pipeline: bundles that are asked, and those that nothing leads to."""

    asked: tuple[str, ...]
    unreached: tuple[str, ...]


def opened(job: Job) -> Pipeline:
    """The pipeline that a job asks for."""
    settings = job.settings
    bundles = open_pipeline(settings.pipeline)
    for bundle in bundles.bundles:
        if job.bundles.get(bundle.card.name, bundle.hash) != bundle.hash:
            what = f"the bundle {bundle.card.name} is another one here than where the run is led"
            raise StoreError(what, where=str(bundle.path), remedy="have the same bundles on every machine")
    return Pipeline(bundles, job.engine, min_score=settings.min_score, thresholds=settings.thresholds)


class Worker:
    """One pipeline, opened.

    Args:
        alive: called with the number of fields done since the last call, and with 0 when one begins.
        pipeline: the job's, where it is open already.
        led: asked before anything is written: does anybody still lead the run? If not, another run may have the folder.
    """

    def __init__(
        self,
        job: Job,
        alive: Callable[[int], None] = lambda done: None,
        pipeline: Pipeline | None = None,
        led: Callable[[], bool] = lambda: True,
    ) -> None:
        cv2.setNumThreads(1)
        self._job, self._alive, self._led = job, alive, led
        self._pipeline = pipeline or opened(job)
        self._trained_on = self._pipeline.trained_on
        check_scale(self._pipeline.detector, job.settings)
        self._bringer, self._sink = Bringer(job.links, job.root), Sink(job.links, job.out)
        self._leads = is_leaders(job.links, job.out)
        self._store, self._reader = Store(job.out), Reader(job.root, alive, self._bringer)
        asked = tuple(node.bundle.card.name for node in self._pipeline.asked)
        self.ready = Ready(asked, tuple(self._pipeline.unreached))

    def do(self, task: Task) -> Result:
        """Do a task."""
        try:
            return self._measure(task) if isinstance(task, Measure) else self._part(task)
        finally:
            self._bringer.forget()

    def alone(self, planned: Planned, looked: Looked) -> None:
        """Look at one field by itself, and forget what was found: does it end this process?"""
        try:
            picture = self._reader.read(planned, self._shrink(looked))
        except ImageError:
            return
        self._score([planned.field], [picture], {planned.field.slide: looked})
        self._bringer.forget()

    def _measure(self, task: Measure) -> Looked:
        known = self._job.manifest.scale(task.slide)
        told = None
        fields = [self._at_hand(field) for field in looked_at(task.fields)] if self._job.links.input else task.fields
        if task.fields[0].region is not None:
            with suppress(ImageError):  # gone since the run was planned: its fields will tell
                told = given(mpp=wholeslide.opened(fields[0].path).mpp)
        found = look(self._pipeline.detector, fields, self._job.settings, known, told, alive=lambda: self._alive(0))
        self._reader.still_there()
        return found

    def _at_hand(self, field: Field) -> Field:
        """A field where it can be read; scoring tells of one that cannot."""
        with suppress(ImageError):
            return self._reader.at_hand(field)
        return field

    def _part(self, part: Part) -> Done:
        started = time.monotonic()
        rows = self._enough(self._rows(part), part.counted)
        fields, cells = [field for field, _ in rows], [cell for _, found in rows for cell in found]
        if not self._led():
            raise LeftAloneError(f"part {part.number} is not written: nobody leads its run any more")
        files = self._store.write_part(part.number, fields, cells, self._job.manifest, self._trained_on)
        self._sink.wrote(part.number, leads=self._leads)
        states: Counter[str] = Counter(field.status for field in fields)
        seconds = round(time.monotonic() - started, 3)
        return Done(part.number, states, len(cells), sum(map(white_cells, rows)), files, seconds)

    def _enough(self, rows: list[Row], counted: int) -> list[Row]:
        """Rows with those left out that come after the field with which enough white cells were counted."""
        most = self._job.settings.stop_at
        if most is None:
            return rows
        out = []
        for row in rows:
            beyond = counted >= most and row[0].status == "ok"
            counted += 0 if beyond else white_cells(row)
            out.append(row_beyond(row[0].slide, row[0].field, most) if beyond else row)
        return out

    def _rows(self, part: Part) -> list[Row]:
        """A row for every field of a part, in its order."""
        rows: list[Row | None] = [None] * len(part.rows)
        enough = self._job.settings.stop_at
        for slot, planned in enumerate(part.rows):
            field = planned.field
            if planned.reason:
                rows[slot] = (FieldRecord(field.slide, field.id, "skipped", planned.reason), ())
            elif field.id in part.killed:
                rows[slot] = (FieldRecord(field.slide, field.id, "failed", part.killed[field.id]), ())
            elif enough is not None and part.counted >= enough:
                rows[slot] = row_beyond(field.slide, field.id, enough)
        with (
            ThreadPoolExecutor(self._job.engine.workers) as pool,
            ThreadPoolExecutor(self._job.engine.workers) as readers,
            Room(_HELD_PIXELS) as room,
        ):
            running: deque[tuple[list[int], Future[list[Row]]]] = deque()

            def settle(keep: int) -> None:
                while len(running) > keep:
                    slots, future = running.popleft()
                    for slot, row in zip(slots, future.result(), strict=True):
                        rows[slot] = row
                    self._alive(len(slots))

            for slots, pictures in self._batches(part, readers, room, rows):
                names = [part.rows[i].field for i in slots]
                running.append((slots, pool.submit(self._score, names, pictures, part.looked)))
                settle(_AHEAD if self._job.engine.workers > 1 else 1)
            settle(0)
        return [row for row in rows if row is not None]

    def _batches(
        self, part: Part, readers: ThreadPoolExecutor, room: Room, rows: list[Row | None]
    ) -> Iterator[tuple[list[int], list[Picture]]]:
        """Batches of one shape in the detector; a field that cannot be read becomes its row at once."""
        size = self._job.settings.batch
        buckets: dict[tuple[int, int], _Bucket] = {}
        wanted = [slot for slot, row in enumerate(rows) if row is None]
        self._alive(len(rows) - len(wanted))
        for slot, result in zip(wanted, self._decoded(part, wanted, readers, room), strict=True):
            field = part.rows[slot].field
            if isinstance(result, ImageError):
                rows[slot] = (FieldRecord(field.slide, field.id, "failed", result.problem), ())
                self._alive(1)
                continue
            key = self._pipeline.detector.shape(result.width, result.height, part.looked[field.slide].scale)
            bucket = buckets.setdefault(key, _Bucket([], []))
            bucket.slots.append(slot)
            bucket.pictures.append(result)
            bucket.area += result.pixels.shape[0] * result.pixels.shape[1]
            if len(bucket.slots) >= size:
                yield bucket.slots, bucket.pictures
                del buckets[key]
            while sum(b.area for b in buckets.values()) >= _HELD_PIXELS:
                fullest = max(buckets, key=lambda k: buckets[k].area)
                yield buckets[fullest].slots, buckets[fullest].pictures
                del buckets[fullest]
        for bucket in buckets.values():
            yield bucket.slots, bucket.pictures

    def _decoded(
        self, part: Part, slots: Sequence[int], readers: ThreadPoolExecutor, room: Room
    ) -> Iterator[Picture | ImageError]:
        """Decoded fields in order, some read ahead: no more than a few batches, and what there is room for."""
        waiting: deque[Future[Picture | ImageError]] = deque()
        most = _AHEAD * self._job.settings.batch
        for position in range(len(slots) + most):
            if position < len(slots):
                planned = part.rows[slots[position]]
                shrink = self._shrink(part.looked[planned.field.slide])
                waiting.append(readers.submit(self._reader.tried, planned, shrink, partial(room.take, position)))
                waiting[-1].add_done_callback(partial(room.settle, position))
            if position >= most and waiting:
                result = waiting.popleft().result()
                room.leave(position - most)
                yield result

    def _shrink(self, looked: Looked) -> Shrink:
        """How much smaller a field of a slide may be read: to no less than the pixels that the detector looks at."""

        def times(width: int, height: int) -> int:
            ratio = None if looked.each else self._pipeline.ratio(width, height, looked.scale)
            return 1 if ratio is None else next((n for n in (8, 4, 2) if n * ratio <= 1), 1)

        return times

    def _score(self, fields: Sequence[Field], pictures: list[Picture], slides: Mapping[str, Looked]) -> list[Row]:
        cv2.setNumThreads(1)
        detector = self._pipeline.detector
        pixels = [picture.pixels for picture in pictures]
        scales = [slides[f.slide].of(detector, p) for f, p in zip(fields, pixels, strict=True)]
        failed = [slides[f.slide].failed for f in fields]
        looked = [shrunk_scale(scale, picture) for scale, picture in zip(scales, pictures, strict=True)]
        results = self._pipeline.run(pixels, [(f.slide, f.id) for f in fields], looked)
        return [
            row_of(
                field,
                picture,
                own_cells(field, grown_cells(cells, picture), picture.corner),
                scale,
                unsure=bad or bool(scale and not scale.sure),
            )
            for field, picture, cells, scale, bad in zip(fields, pictures, results, scales, failed, strict=True)
        ]


@dataclass
class _Bucket:
    """Fields of one shape in the detector that wait for their batch."""

    slots: list[int]
    pictures: list[Picture]
    area: int = 0
