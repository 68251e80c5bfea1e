"""What has been done of a run, a line each, on disk before anything relies on it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from detect.errors import LedError, StoreError
from detect.score.store import JOURNAL

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

# begun, resumed, stopped, finished: the run. slide: how one is looked at. part: one is written, whole. killed: a field
# that ended the process which worked on it. refused: a worker could not open the pipeline.
Event = Literal["begun", "resumed", "stopped", "finished", "slide", "part", "killed", "refused"]


class Journal:
    """Lines are only ever added, by the one process that leads a run."""

    def __init__(self, out: Path) -> None:
        self.path = out / JOURNAL
        self._handle: int | None = None

    def claim(self) -> None:
        """Take the lead of this run until `release`; LedError where another process has it.

        The folder itself is locked: nobody deletes it, whatever becomes of the files in it.
        """
        if fcntl is None:
            return
        try:
            self._handle = os.open(self.path.parent, os.O_RDONLY)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            what = "another process leads this run"
            raise LedError(what, where=str(self.path.parent), remedy="wait for it, or end it") from None
        except OSError:  # a file system that knows no locks
            self.release()

    def release(self) -> None:
        """Let others lead."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def add(self, event: Event, **told: Any) -> None:
        """One line; on disk when this returns. A line that a crash left half written is ended first."""
        line = json.dumps({"event": event, "time": round(time.time(), 1), **told}, ensure_ascii=False)
        try:
            with self.path.open("a+b") as file:
                if file.tell() and not self._ended():
                    file.write(b"\n")
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"cannot be written to: {error.strerror}", where=str(self.path)) from error

    def _ended(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def lines(self, event: Event | None = None) -> Iterator[dict[str, Any]]:
        """What was written, in order; what a crash left half written is passed over."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if isinstance(told, dict) and (event is None or told.get("event") == event):
                yield told
