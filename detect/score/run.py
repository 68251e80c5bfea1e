"""One scoring run from a folder to a finished run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from detect.errors import DataError, StoppedRunError, StoreError, UnreachableError
from detect.score import manifest
from detect.score.chosen import found_in
from detect.score.engine import OpenCrew, open_crew
from detect.score.leader import Leader, Outcome, never
from detect.score.manifest import Manifest
from detect.score.remote import NOWHERE, Links, Sink
from detect.score.settings import ScoreSettings
from detect.score.store import RUN, Store


def score(
    folder: Path,
    out: Path,
    settings: ScoreSettings,
    *,
    known: Manifest = manifest.NONE,
    overwrite: bool = False,
    resume: bool = False,
    start: Callable[[int, int], None] | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Mapping[str, Any]], None] | None = None,
    stop: Callable[[], bool] = never,
    only: Collection[str] = (),
    crew: OpenCrew = open_crew,
    links: Links = NOWHERE,
) -> Outcome:
    """Score every field of a folder of slides.

    The work is done in processes of their own, so a script that calls this does so under `if __name__ == "__main__"`.

    Args:
        out: run folder; refused where it is not empty, unless `overwrite` or `resume`.
        known: what the lab tells of the slides.
        resume: go on with the run that was stopped there, or begin where there is none. Its own settings count; what
            `settings` says otherwise is refused, but for what changes no result.
        start: called once with the number of fields, and how many of them were done before. progress: called with the
            fields done since the last call. watch: called with every line of the journal.
        only: slides that the run is about; by default all.
        stop: asked now and then; once it says so, parts in hand are finished, and StoppedRunError is raised.
        crew: who opens the workers, in place of the engine that the settings name.
        links: URLs of which `folder` and `out` are copies, see `remote.places`.

    Raises:
        StoppedRunError: it was stopped, or could not go on; what is done is safe, go on with `resume`.
    """
    began = time.monotonic()
    sink, replaced = Sink(links, out), overwrite
    try:
        if resume:
            sink.again()
        if resume and not (out / RUN).is_file():  # nothing, or a run that was killed before it had a plan
            resume, overwrite = False, overwrite or Store(out).hardly_begun()
        if not resume:
            sink.check(overwrite=replaced)
        found = found_in(folder, links, stop)
    except UnreachableError as error:
        raise StoppedRunError(error.problem, where=error.where, remedy=error.remedy) from error
    chosen = frozenset(only)
    leader = Leader(
        folder, found, out, settings, known, overwrite=overwrite, replaced=replaced, resume=resume, only=chosen,
        crew=crew, links=links, sink=sink,
    )  # fmt: skip
    with closing(leader):
        leader.stop, leader.tell, leader.watch = stop, progress or leader.tell, watch or leader.watch
        leader.lead()
        try:
            leader.prepare()
            if start is not None:
                start(len(leader.plan.rows), leader.before)
            leader.work()
            return leader.finish(began)
        except StoppedRunError:
            raise
        except (StoreError, DataError) as error:
            # Not a fault of what was asked: the disk is full, or a share has gone.
            leader.watch({"event": "stopped"})
            raise StoppedRunError(error.problem, where=error.where, remedy=error.remedy) from error
        except OSError as error:
            leader.watch({"event": "stopped"})
            remedy = "see to it, then go on with --resume: nothing is lost"
            raise StoppedRunError(str(error.strerror), where=str(error.filename or out), remedy=remedy) from error
