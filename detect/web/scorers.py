"""Processes that score uploads, one upload each at a time, and the thread that keeps them alive.

An upload is scored by `score.run.score`, as `smear score` does: into a run folder, each pipeline its own, always with
`resume`. Whoever dies, or a page that was ended and started again, so loses nothing. Small uploads are scored within
the process, whose pipelines stay open; larger ones, and those that ended a process before, by processes of their own.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from detect.errors import ImageError, LedError, SmearError, StoppedRunError
from detect.runtime.base import cores
from detect.score.engine import OpenCrew, open_crew
from detect.score.inline import Inline
from detect.score.run import score
from detect.score.store import Store
from detect.web.records import Picture, Records, Upload
from detect.web.settings import WebSettings

_SMALL = 24  # fields that are scored within the process; more keep the other cores waiting
_LOOK, _TELL = 0.1, 0.25  # seconds between looks for work, and between words of how far it is
_PAUSE = 0.5  # seconds before an upload is tried again that somebody else still has
_GOING = 30.0  # seconds in which the parts in hand may be finished when the page ends
_EARLY, _LONGEST = 5.0, 30.0  # a process that lives no longer could not begin; most seconds before the next try
_WATCH = 0.5  # seconds between looks at the processes
_SAID = 5  # pictures whose reasons are told
_SWEEP = 60.0  # seconds between looks for what is to be deleted
_log = logging.getLogger("smear.web")
CALLED = "called.json"  # what slides were called, beside the run


def run_folder(settings: WebSettings, upload: str, number: int) -> Path:
    """The run of an upload by the pipeline of that number."""
    return settings.uploads / upload / f"run-{number}"


def input_folder(settings: WebSettings, upload: str) -> Path:
    """The pictures of an upload."""
    return settings.uploads / upload / "input"


def work(settings: WebSettings, upload: Upload, records: Records, inline: Inline, stop: Callable[[], bool]) -> None:
    """Score an upload by every pipeline; SmearError where that cannot be done."""
    crew: OpenCrew = inline.open_crew if upload.fields <= _SMALL and upload.tries == 1 else open_crew
    done, told = 0, 0.0

    def progress(fields: int) -> None:
        nonlocal done, told
        done += fields
        if time.monotonic() - told > _TELL:
            told = time.monotonic()
            records.progress(upload.id, done // len(settings.scorings))

    for number, scoring in enumerate(settings.scorings):
        out = run_folder(settings, upload.id, number)
        came = score(
            input_folder(settings, upload.id), out, scoring, resume=True, progress=progress, stop=stop, crew=crew
        )
        (out / CALLED).write_text(json.dumps([asdict(one) for one in came.called]), "utf-8")
        if not came.fields_ok:
            raise ImageError(_unread(out, records.pictures(upload.id)), remedy="send other pictures")
    records.progress(upload.id, upload.fields)


def _unread(run: Path, pictures: Sequence[Picture]) -> str:
    """Why none of them could be read."""
    names = {one.file: one.name for one in pictures}
    rows = Store(run).fields().to_pylist()
    said = [f"{names[row['field']]}: {row['reason']}" for row in rows[:_SAID]]
    more = f"; and {len(rows) - _SAID} more" if len(rows) > _SAID else ""
    return f"none of its pictures could be read: {'; '.join(said)}{more}"


def serve(told: str, leader: int) -> None:
    """What a process does until the page, whose process id is given, has gone."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that it can be ended with all that it began
    settings, stopped = WebSettings.model_validate_json(told), threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the page says when to stop
    signal.signal(signal.SIGTERM, lambda kind, frame: stopped.set())
    threading.Thread(target=_follow, args=(leader,), daemon=True).start()
    records, inline = Records(settings.database, settings.queue), Inline()
    while not stopped.is_set():
        upload = records.take(os.getpid())
        if upload is None:
            time.sleep(_LOOK)
            continue
        try:
            work(settings, upload, records, inline, stopped.is_set)
        except LedError:  # by one that an earlier page left, and that is about to go
            records.put_back(upload)
            time.sleep(_PAUSE)
        except StoppedRunError as error:
            if error.asked:
                records.put_back(upload)
            else:
                records.end(upload, "failed", error.problem)
        except SmearError as error:
            records.end(upload, "failed", error.problem)
        else:
            records.end(upload, "done")


def _follow(leader: int) -> None:
    """End this process, and those that it began, when the page has gone: nothing is lost by it."""
    while os.getppid() == leader:
        time.sleep(_WATCH)
    _end(os.getpid())


def _end(process: int) -> None:
    """End a process and those that it began, at once."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process, signal.SIGKILL)
        else:
            os.kill(process, signal.SIGTERM)


@dataclass
class _Hand:
    """One process, and when it was begun."""

    process: BaseProcess
    begun: float


class Scorers:
    """The processes, watched by a thread of this one."""

    def __init__(self, settings: WebSettings, records: Records) -> None:
        self._settings, self._records = settings, records
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[_Hand] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scorers", daemon=True)
        self._pause, self._next = 0.0, 0.0  # of one that cannot even begin: seconds between tries, and the next one
        self.restarts = 0

    def start(self) -> None:
        """Begin; uploads that an earlier page left half scored come first."""
        for upload in self._records.running():
            self._records.put_back(upload)
        for _ in range(self._settings.workers or cores()):
            self._hire()
        self._thread.start()

    def close(self) -> None:
        """Have them finish the part in hand, and go."""
        self._ended.set()
        self._thread.join(5)
        for hand in self._hands:
            hand.process.terminate()
        until = time.monotonic() + _GOING
        for hand in self._hands:
            hand.process.join(max(0.1, until - time.monotonic()))
            if hand.process.is_alive() and hand.process.pid is not None:
                _end(hand.process.pid)
                hand.process.join(5)

    @property
    def alive(self) -> int:
        """Processes that are there."""
        return sum(hand.process.is_alive() for hand in self._hands)

    def _hire(self) -> None:
        told: Any = self._settings.model_dump_json()
        process = self._context.Process(target=serve, args=(told, os.getpid()), daemon=False)
        process.start()
        self._hands.append(_Hand(process, time.monotonic()))

    def _watch(self) -> None:
        swept = 0.0
        while not self._ended.wait(_WATCH):
            try:
                self._look_after()
                if time.monotonic() - swept > _SWEEP:
                    swept = time.monotonic()
                    sweep(self._settings, self._records)
            except Exception as error:  # a full disk, a database that is busy: the next look may do better
                _log.warning("the processes that score could not be looked after: %s", error)

    def _look_after(self) -> None:
        pids = [hand.process.pid for hand in self._hands]
        for upload in self._records.running():
            late = upload.began is not None and time.time() - upload.began > self._settings.patience
            said = f"took longer than {self._settings.patience:g} s"
            if late and self._records.end(upload, "failed", said) and upload.worker in pids and upload.worker:
                _end(upload.worker)
        for hand in [hand for hand in self._hands if not hand.process.is_alive()]:
            self._hands.remove(hand)
            if hand.process.pid is not None:
                _end(hand.process.pid)  # what it began, and is still there
            early = time.monotonic() - hand.begun < _EARLY
            self._pause = min(_LONGEST, 2 * self._pause + 1) if early else 0.0
            self._next = time.monotonic() + self._pause
        self._records.again([hand.process.pid for hand in self._hands if hand.process.pid is not None])
        missing = (self._settings.workers or cores()) - len(self._hands)
        if missing and time.monotonic() >= self._next:
            self.restarts += missing
            for _ in range(missing):
                self._hire()


def delete(settings: WebSettings, records: Records, upload: str) -> None:
    """An upload, and everything made of it; what people said of it stays."""
    records.forget(upload)
    shutil.rmtree(settings.uploads / upload, ignore_errors=True)


def sweep(settings: WebSettings, records: Records) -> None:
    """Delete uploads whose time is over, and folders without an upload: of one that came while the power went."""
    for upload in records.older(time.time() - settings.keep_hours * 3600):
        delete(settings, records, upload)
    known = {one.id for one in records.uploads(most=1_000_000)}
    for folder in settings.uploads.iterdir():
        if folder.name not in known and time.time() - folder.stat().st_mtime > 3600:
            shutil.rmtree(folder, ignore_errors=True)
