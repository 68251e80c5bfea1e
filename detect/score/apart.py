"""Whole slides taken apart into fields, in processes of their own: the libraries that read them are C, and one that
falls over a damaged slide must not take the run with it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from detect.errors import StoppedRunError
from detect.images.folder import Folder
from detect.images.wholeslide import ALWAYS, DICOM, MAYBE, Series, series_of, taken_apart
from detect.runtime.base import cores
from detect.types import Field

_TRIES = 2  # of a slide whose process ended: it may have been another's fault, such as a full memory

T = TypeVar("T")
R = TypeVar("R")


def expand(found: Folder, stop: Callable[[], bool] = lambda: False) -> Folder:
    """The folder with its whole slides taken apart into fields. One that cannot be stays as it is, and fails later.

    Of DICOM files that are the levels of one slide, the first is that slide.

    Raises:
        StoppedRunError: `stop` said so.
    """

    def checked(field: Field) -> Field:
        if stop():
            what = "stopped while the run was planned"
            raise StoppedRunError(what, where=str(found.root), remedy="begin it again", asked=True)
        return field

    whole = [f for f in found.fields if f.path.suffix.lower() in ALWAYS | MAYBE]
    came = dict(zip(whole, each(taken_apart, whole, checked), strict=True))
    fields: list[Field] = []
    seen: set[Series] = set()
    for field in found.fields:
        series, own = came.get(field) or (None, [field])
        if series is not None:
            if series in seen:
                continue
            seen.add(series)
        fields += own
    return replace(found, fields=tuple(fields))


def series(paths: Sequence[Path]) -> list[Series | None]:
    """What the DICOM files of one slide have in common, of each of these files; None of any other."""
    dicom = [p for p in paths if p.suffix.lower() == DICOM]
    came = dict(zip(dicom, each(series_of, dicom), strict=True))
    return [came.get(p) for p in paths]


def each(do: Callable[[T], R], things: Sequence[T], check: Callable[[T], T] = lambda thing: thing) -> list[R | None]:
    """What a function of a module comes to, of each thing; None of one that ends the process it is looked at in."""
    if not things:
        return []
    with _helpers(min(cores(), len(things))) as free:

        def one(thing: T) -> R | None:
            check(thing)
            for _ in range(_TRIES):
                helper = free.get()
                try:
                    return helper.submit(do, thing).result()
                except BrokenProcessPool:
                    helper.shutdown()
                    helper = _helper()
                finally:
                    free.put(helper)
            return None

        with ThreadPoolExecutor(free.qsize()) as hands:
            return list(hands.map(one, things))


@contextmanager
def _helpers(number: int) -> Iterator[SimpleQueue[ProcessPoolExecutor]]:
    """Pools of one process: when one breaks, it is known over what."""
    free: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
    for _ in range(number):
        free.put(_helper())
    try:
        yield free
    finally:
        while not free.empty():
            free.get().shutdown()


def _helper() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
