"""Folders that several processes make and read: one makes, nobody reads meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detect.errors import LedError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

READING_S = 60.0  # one who only reads is waited for so long


@contextmanager
def alone(folder: Path, patience: float | None = None) -> Iterator[bool]:
    """One process at a time works on a folder; LedError where another does, and is not done within `patience`.

    Args:
        patience: seconds; `READING_S` by default.
    """
    with _locked(folder, exclusive=True, patience=READING_S if patience is None else patience) as ours:
        if not ours:
            raise LedError("another process makes it", where=str(folder), remedy="wait for it, or end it")
        yield True


@contextmanager
def seen(folder: Path) -> Iterator[bool]:
    """Nobody works on a folder while it is read; False where somebody does."""
    with _locked(folder, exclusive=False) as ours:
        yield ours


@contextmanager
def _locked(folder: Path, *, exclusive: bool, patience: float = 0.0) -> Iterator[bool]:
    if fcntl is None:
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the folder, which may be taken away and made anew by who holds the lock.
    handle = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                held = False
            if held or time.monotonic() >= end:
                break
            time.sleep(0.2)
        yield held
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was begun meanwhile may hold it open
        os.close(handle)
