"""Processes that score uploads, one upload each at a time, and the thread that keeps them alive.

An upload is scored by `score.run.score`, as `smear score` does: into a run folder, each pipeline its own, always with
`resume`. Whoever dies, or a page that was ended and started again, so loses nothing. Small uploads are scored within
the process, whose pipelines stay open; larger ones, and those that ended a process before, by processes of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from detect.errors import ImageError, SmearError, StoppedRunError
from detect.runtime.base import cores
from detect.score.engine import OpenCrew, open_crew
from detect.score.inline import Inline
from detect.score.run import score
from detect.score.store import Store
from detect.web.records import Picture, Records, Upload
from detect.web.settings import WebSettings

_SMALL = 24  # fields that are scored within the process; more keep the other cores waiting
_LOOK, _TELL = 0.05, 0.25  # seconds between looks for work, and between words of how far it is
_WATCH = 0.5  # seconds between looks at the processes
_SAID = 5  # pictures whose reasons are told
_SWEEP = 60.0  # seconds between looks for what is to be deleted
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


def serve(told: str) -> None:
    """What a process does until whoever began it has gone."""
    settings = WebSettings.model_validate_json(told)
    leader, stopped = os.getppid(), threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the page says when to stop
    signal.signal(signal.SIGTERM, lambda kind, frame: stopped.set())
    records, inline = Records(settings.database, settings.queue), Inline()

    def stop() -> bool:
        return stopped.is_set() or os.getppid() != leader

    while not stop():
        upload = records.take(os.getpid())
        if upload is None:
            time.sleep(_LOOK)
            continue
        try:
            work(settings, upload, records, inline, stop)
        except StoppedRunError as error:
            if not error.asked:
                records.end(upload.id, "failed", str(error))
            # else it stays as it is, and is taken up again when the page is
        except SmearError as error:
            records.end(upload.id, "failed", str(error))
        else:
            records.end(upload.id, "done")


class Scorers:
    """The processes, watched by a thread of this one."""

    def __init__(self, settings: WebSettings, records: Records) -> None:
        self._settings, self._records = settings, records
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[BaseProcess] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scorers", daemon=True)
        self.restarts = 0

    def start(self) -> None:
        """Begin; uploads that an earlier page left half scored come first."""
        self._records.again([])
        for _ in range(self._settings.workers or cores()):
            self._hire()
        self._thread.start()

    def close(self) -> None:
        """Have them finish the part in hand, and go."""
        self._ended.set()
        self._thread.join(5)
        for hand in self._hands:
            hand.terminate()
        for hand in self._hands:
            hand.join(10)
            if hand.is_alive():
                hand.kill()
                hand.join()

    @property
    def alive(self) -> int:
        """Processes that are there."""
        return sum(hand.is_alive() for hand in self._hands)

    def _hire(self) -> None:
        told: Any = self._settings.model_dump_json()
        hand = self._context.Process(target=serve, args=(told,), daemon=False)
        hand.start()
        self._hands.append(hand)

    def _watch(self) -> None:
        swept = 0.0
        while not self._ended.wait(_WATCH):
            with suppress(Exception):  # a full disk, a database that is busy: the next look may do better
                self._look_after()
                if time.monotonic() - swept > _SWEEP:
                    swept = time.monotonic()
                    sweep(self._settings, self._records)

    def _look_after(self) -> None:
        now = time.time()
        for upload in self._records.uploads():
            late = upload.began is not None and now - upload.began > self._settings.patience
            if upload.state == "running" and late:
                for hand in self._hands:
                    if hand.pid == upload.worker:
                        hand.kill()
                        hand.join(5)
                self._records.end(upload.id, "failed", f"took longer than {self._settings.patience:g} s")
        gone = [hand for hand in self._hands if not hand.is_alive()]
        if gone:
            self._hands = [hand for hand in self._hands if hand.is_alive()]
            self._records.again([hand.pid for hand in self._hands if hand.pid is not None])
            for _ in gone:
                self.restarts += 1
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
