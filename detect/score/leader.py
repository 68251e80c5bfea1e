"""Who leads a scoring run: plans it, hands its parts to the workers, keeps the journal, and concludes it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detect import __version__
from detect.errors import DataError, StoppedRunError, StoreError
from detect.images import wholeslide
from detect.images.folder import Folder
from detect.pipeline.run import open_pipeline
from detect.runtime.base import EngineSettings
from detect.score import apart, differential, plan, record
from detect.score.chosen import check_slides, engine_of, fields_of, found_in, workers_of
from detect.score.conclude import conclude
from detect.score.engine import OpenCrew, Tasks
from detect.score.journal import Event, Journal
from detect.score.manifest import Manifest
from detect.score.patterns import Called, Patterns
from detect.score.plan import Plan, Planned
from detect.score.remote import Links, Sink
from detect.score.scales import Looked
from detect.score.settings import ScoreSettings
from detect.score.store import FINISHED, PLAN, FieldRecord, Store
from detect.score.work import Done, Job, Measure, Part, Ready, Result, Task


@dataclass(frozen=True)
class Outcome:
    """What a finished run comes to."""

    out: Path
    slides: tuple[differential.Slide, ...]
    fields: Mapping[str, int]  # how many were found, and how many of each status
    seconds: float
    others: tuple[str, ...]
    engine: EngineSettings
    called: tuple[Called, ...] = ()
    synthetic: tuple[str, ...] = ()
    not_asked: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()  # rows of the manifest that name no slide of this run

    @property
    def fields_ok(self) -> int:
        """Fields that were read."""
        return self.fields.get("ok", 0)

    @property
    def fields_failed(self) -> int:
        """Fields that could not be."""
        return self.fields.get("failed", 0)

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "report" / "index.html"


def never() -> bool:
    """Whether to stop: never."""
    return False


class Leader:
    """One run, led from this process. The workers write the parts; everything else is written here."""

    def __init__(
        self,
        folder: Path,
        found: Folder,
        out: Path,
        settings: ScoreSettings,
        known: Manifest,
        *,
        overwrite: bool,
        replaced: bool,
        resume: bool,
        only: frozenset[str],
        crew: OpenCrew,
        links: Links,
        sink: Sink,
    ) -> None:
        self.folder, self.out, self.resume = folder, out, resume
        self.links, self.sink, self.replaced = links, sink, replaced
        self.tell: Callable[[int], None] = lambda done: None
        self.watch: Callable[[Mapping[str, Any]], None] = lambda line: None
        self.stop: Callable[[], bool] = never
        self.before = 0  # fields of parts that an earlier call finished
        self.store = Store(out)
        self.begun: Mapping[str, Any] = self.store.run() if resume else {}
        if resume:
            record.check_input(links.input or str(folder.resolve()), self.begun, out)
            settings, known = record.same(settings, known, self.begun, out)
        self.settings, self.known, self.overwrite = settings, known, overwrite
        if resume:
            record.check_only(only, self.begun, out)
        else:
            check_slides(found, only)
        self.only = frozenset(self.begun.get("only", only))
        self.found = fields_of(found, folder, out, self.only)
        self.opened = open_pipeline(settings.pipeline)
        if resume:
            record.check_bundles(self.opened, self.begun, out)
        self.workers = workers_of(settings)
        self.engine = engine_of(settings, self.workers, self.opened.detector, self.begun)
        bundles = {b.card.name: b.hash for b in self.opened.bundles}
        job = Job(self.found.root, out, settings, self.engine, known, links, len(self.found.fields), bundles)
        self.patterns = Patterns(self.opened, self.engine, fab=settings.pipeline.fab)
        self.crew = crew(job, self.workers, settings)
        self.ready: Ready = self.crew.ready
        self.journal = Journal(out)
        self.looked: dict[str, Looked] = {}
        self.done: dict[int, Done] = {}
        self.blamed: dict[int, dict[str, str]] = {}
        self.plan = Plan(self.found.root, ())
        self.opened_at = time.monotonic()

    def close(self) -> None:
        """Send the workers home."""
        self.crew.close()
        self.journal.release()

    def lead(self) -> None:
        """Take the lead of the run folder; StoreError where it is somebody else's."""
        if self.out.exists() and not self.out.is_dir():
            raise StoreError("is a file", where=str(self.out), remedy="name a folder")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot be written to: {error.strerror}", where=str(self.out)) from error
        self.journal.claim()
        if self.resume:
            Store.again(self.out)
        else:
            self.sink.begin(overwrite=self.replaced)
            Store.create(self.out, overwrite=self.overwrite or bool(self.links.output))

    def prepare(self) -> None:
        """Have the plan on disk, or take it up where it was left."""
        if not self.resume:
            self.store.write_run({"state": "begun"} | self._about())
        if self.resume and (self.out / PLAN).is_file():
            self.plan = plan.read(self.out, self.found.root)
            self._recall()
            self.before = sum(len(rows) for number, rows in self.plan.parts if number in self.done)
            states: Counter[str] = Counter()
            for done in self.done.values():
                states.update(done.fields)
            sums = {key: sum(getattr(done, key) for done in self.done.values()) for key in ("cells", "white")}
            self._note("resumed", planned=len(self.plan.rows), done=dict(states), **sums)
            return
        stopping = self.settings.stop_at is not None
        self.found = apart.expand(self.found, self.stop)
        self.plan = plan.make(
            self.found, batch=self.settings.batch, part=self.settings.part, stopping=stopping, stop=self.stop
        )
        self.plan.write(self.out)
        self._note("begun", planned=len(self.plan.rows))

    def _recall(self) -> None:
        """What the journal says was done, as far as the files bear it out."""
        for line in self.journal.lines():
            if line["event"] == "slide":
                self.looked[line["slide"]] = Looked.from_told(line["looked"])
            elif line["event"] == "killed":
                self.blamed.setdefault(line["part"], {})[line["field"]] = line["reason"]
            elif line["event"] == "part" and self.store.holds(line["part"], line["files"]):
                told = (line[key] for key in ("fields", "cells", "white", "files", "seconds"))
                self.done[line["part"]] = Done(line["part"], *told)

    def work(self) -> None:
        """Look at the scale of every slide, then score every part that is not done."""
        by_slide: dict[str, list[Any]] = {}
        for row in self.plan.rows:
            by_slide.setdefault(row.field.slide, []).append(row.field)
        measures = [[Measure(s, tuple(own))] for s, own in by_slide.items() if s not in self.looked]
        self.crew.work(Tasks(measures), self)
        if not self.stop():
            self.crew.work(Tasks(self._rows()), self)
        if self.stop() and len(self.done) < len(list(self.plan.parts)):
            fields = sum(sum(done.fields.values()) for done in self.done.values())
            self._note("stopped", fields=fields)
            what = f"stopped: {fields} of {len(self.plan.rows)} fields are scored and safe"
            raise StoppedRunError(what, where=str(self.out), remedy="go on with --resume", asked=True)

    def _rows(self) -> list[list[Task]]:
        """Parts to do: side by side, but one after another within a slide that ends when enough is counted."""
        if self.settings.stop_at is None:
            return [[self._task(n, rows, 0)] for n, rows in self.plan.parts if n not in self.done]
        rows: dict[str, list[Task]] = {}
        counted: Counter[str] = Counter()
        for number, planned in self.plan.parts:
            slide = planned[0].field.slide
            if number in self.done and slide not in rows:
                counted[slide] += self.done[number].white
            else:  # what comes after a part that has to be done knows not yet what was counted
                rows.setdefault(slide, []).append(self._task(number, planned, counted[slide]))
        return list(rows.values())

    def _task(self, number: int, planned: tuple[Planned, ...], counted: int) -> Part:
        looked = {row.field.slide: self.looked[row.field.slide] for row in planned}
        return Part(number, planned, looked, self.blamed.get(number, {}), counted)

    # What the crew calls: see `engine.Calls`.

    def settled(self, task: Task, result: Result) -> None:
        """See `engine.Calls.settled`."""
        if isinstance(result, Looked) and isinstance(task, Measure):
            self.looked[task.slide] = result
            if not result.failed:  # why it did may have passed when the run is gone on with
                self._note("slide", slide=task.slide, looked=result.told())
        elif isinstance(result, Done):
            self.sink.have(result.number, result.files)
            self.done[result.number] = result
            told = {"fields": dict(result.fields), "cells": result.cells, "white": result.white}
            self._note("part", part=result.number, **told, files=dict(result.files), seconds=result.seconds)

    def killed(self, part: Part, field: str, reason: str) -> None:
        """See `engine.Calls.killed`."""
        self.blamed.setdefault(part.number, {})[field] = reason
        self._note("killed", part=part.number, field=field, reason=reason)

    def refused(self, why: str) -> None:
        """See `engine.Calls.refused`."""
        self._note("refused", reason=why)

    def progress(self, fields: int) -> None:
        """See `engine.Calls.progress`."""
        if fields:
            self.tell(fields)

    def finish(self, began: float) -> Outcome:
        """Count, call, report."""
        worked = time.monotonic()
        self.crew.close()  # what follows takes memory too
        self._check_parts()
        found = self._late()
        came = conclude(
            self.store,
            found,
            self.opened,
            self.patterns,
            self.settings,
            self.known,
            self._about(),
            asked=self.ready.asked,
            not_asked=self.ready.unreached,
        )
        scoring = max(worked - self.opened_at, 1e-6)
        fresh = len(self.plan.rows) - self.before
        seconds = time.monotonic() - began
        self.store.write_run(
            {
                "state": FINISHED,
                **came.about,
                "fields": dict(came.fields),
                "cells": came.cells,
                "seconds": {
                    "loading": round(self.opened_at - began, 2),
                    "scoring": round(scoring, 2),
                    "report": round(time.monotonic() - worked, 2),
                },
                "fields_per_second": round(fresh / scoring, 2),
                "scales": {name: record.told(self.looked[name]) for name in sorted(self.looked)},
                "workers": self.crew.workers,
                **record.machine(),
            }
        )
        self._note("finished", fields=dict(came.fields))
        self.sink.finish(self.done)
        slides = {row.field.slide for row in self.plan.rows}
        unknown = () if self.only else tuple(sorted(set(self.known.slides) - slides))
        told = came.called, tuple(self.opened.drawn), self.ready.unreached, unknown
        return Outcome(self.out, came.slides, came.fields, seconds, found.others, self.engine, *told)

    def _check_parts(self) -> None:
        """DataError where a part is missing, or is not what its worker wrote."""
        for number, _ in self.plan.parts:
            if number not in self.done or not self.store.holds(number, self.done[number].files):
                what = f"part {number} is not what was written there: somebody else writes into this folder"
                raise DataError(what, where=str(self.out), remedy="end them, then go on with --resume")

    def _note(self, event: Event, **told: Any) -> None:
        """A line of the journal, which whoever watches the run is shown too."""
        self.journal.add(event, **told)
        if event != "finished":
            self.sink.led()
        self.watch({"event": event, **told})

    def _late(self) -> Folder:
        """Rows for the files that came too late for the plan; returns what the run was about."""
        seen = {row.field.path for row in self.plan.rows}
        number = 1 + max((number for number, _ in self.plan.parts), default=-1)
        self.store.drop_parts(number)
        now = fields_of(found_in(self.folder, self.links, self.stop), self.folder, self.out, self.only)
        late = [f for f in now.fields if f.path not in seen]
        if any(f.path.suffix.lower() == wholeslide.DICOM for f in late):  # files of slides that were planned are not
            known = set(apart.series(sorted(seen))) - {None}
            own = apart.series([f.path for f in late])
            late = [f for f, series in zip(late, own, strict=True) if series not in known]
        why = "appeared after the run was planned: score its slide in a run of its own, with --slide"
        if late:
            rows = [FieldRecord(f.slide, f.id, "failed", why) for f in late]
            self.store.write_part(number, rows, [], self.known, self.opened.trained_on)
        return Folder(self.found.root, tuple(row.field for row in self.plan.rows), now.others)

    def _about(self) -> dict[str, Any]:
        """What is known of a run from its beginning."""
        opened, engine = self.opened, self.engine
        told = {name: one.model_dump(exclude_none=True) for name, one in self.known.slides.items()}
        return {
            "statement": record.STATEMENT,
            "smear_detect": __version__,
            "input": self.begun.get("input", self.links.input or str(self.folder)),
            "root": self.links.input or str(self.folder.resolve()),
            "only": sorted(self.only),
            "slides": len({row.field.slide for row in self.plan.rows}) or len(self.found.slides),
            "other_files": list(self.found.others),
            "settings": self.settings.model_dump(mode="json"),
            "manifest": told,
            "engine": {
                "name": engine.name,
                "precision": engine.precision,
                "device": engine.device,
                "threads": engine.threads,
            },
            "bundles": {b.card.name: b.hash for b in opened.bundles},
            "models": {b.card.name: b.model for b in opened.bundles},
            "synthetic": opened.drawn,
            "trained_on": opened.trained_on,
            "drawn_slides": record.is_drawn(self.folder),
        }
