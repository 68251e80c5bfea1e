"""The pixels of planned fields: if they still are what was planned, however often a share has to be asked."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from detect.errors import DataError, ImageError
from detect.images import decode, wholeslide
from detect.images.decode import Shrink
from detect.score.plan import Planned, content_hash, is_slide, slide_hash
from detect.score.remote import NOWHERE, Bringer
from detect.types import Field, Image

# What a share or a disk says when it may well be there again in a moment.
_PASSING = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED}
_PASSING |= {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ESTALE, errno.ENOTCONN}
_WAITS = (0.5, 1.0, 2.0)  # seconds before a read that failed so is tried again

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Picture:
    """A field that was read.

    Attributes:
        pixels: of it, or of a smaller picture of it. width, height: of the field itself, pixels.
        corner: left and top of it in its whole slide, with the margin around it; 0 for an image of its own.
    """

    pixels: Image
    width: int
    height: int
    corner: tuple[int, int] = (0, 0)

    @property
    def shrunk(self) -> tuple[float, float]:
        """Pixels of the field for each that is here, across and down."""
        return self.width / self.pixels.shape[1], self.height / self.pixels.shape[0]


class Room:
    """Memory for pictures that are read side by side: each waits until there is room for its pixels.

    They are let in by their numbers, 0, 1, 2, since they are taken out in that order: a later one cannot take the room
    that an earlier one waits for. As a context it ends with all of them let in, so that nobody waits for ever.

    Args:
        pixels: how many are held at once; a larger picture is held alone.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._held: dict[int, int] = {}  # pixels of those that were let in and are not taken out
        self._passed: set[int] = set()
        self._next, self._open = 0, False
        self._changed = threading.Condition()

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def take(self, number: int, pixels: int) -> None:
        """Wait until a picture can be unpacked."""

        def fits() -> bool:
            held = sum(self._held.values())
            return self._open or (self._next == number and (not held or held + pixels <= self._pixels))

        with self._changed:
            self._changed.wait_for(fits)
            self._held[number] = pixels
            self._pass(number)

    def settle(self, number: int, _: object) -> None:
        """A picture is read, or cannot be: those after it need not wait for it."""
        with self._changed:
            self._pass(number)

    def leave(self, number: int) -> None:
        """A picture is taken out."""
        with self._changed:
            self._held.pop(number, None)
            self._changed.notify_all()

    def _pass(self, number: int) -> None:
        if number >= self._next:
            self._passed.add(number)
        while self._next in self._passed:
            self._passed.remove(self._next)
            self._next += 1
        self._changed.notify_all()


def _unbounded(pixels: int) -> None:
    """There is room for any picture."""


class Reader:
    """Reads planned fields of an input folder.

    Args:
        alive: called when a field is begun. bringer: has files at hand that lie elsewhere.
    """

    def __init__(self, root: Path, alive: Callable[[int], None], bringer: Bringer | None = None) -> None:
        self._root, self._alive, self._bringer = root, alive, bringer or Bringer(NOWHERE, root)

    def at_hand(self, field: Field, *, planned: bool = True) -> Field:
        """The field where its file can be read.

        Args:
            planned: its file was there when the run was planned.

        Raises:
            ImageError: it cannot be had. DataError: nothing can any more.
        """
        return self._often(planned, lambda: self._bringer.bring(field))

    def tried(self, planned: Planned, shrink: Shrink, room: Callable[[int], None] = _unbounded) -> Picture | ImageError:
        """See `read`; the error is returned."""
        try:
            return self.read(planned, shrink, room)
        except ImageError as error:
            return error

    def read(
        self, planned: Planned, shrink: Shrink = decode.whole, room: Callable[[int], None] = _unbounded
    ) -> Picture:
        """A field, if it still is what was planned.

        Args:
            shrink: see `decode.decode`. room: called with the number of its pixels before they are unpacked.

        Raises:
            ImageError: it cannot be read, or changed. DataError: the whole input folder has gone.
        """
        self._alive(0)
        known = bool(planned.hash)
        field = self.at_hand(planned.field, planned=known)
        try:
            if is_slide(field):
                self._unchanged(planned, self._often(known, lambda: _hash_of_slide(field.path)))
                room(wholeslide.PIXELS)
                pixels, corner = self._often(known, lambda: wholeslide.read_placed(field))
                return Picture(pixels, pixels.shape[1], pixels.shape[0], corner)
            data = self._often(known, lambda: decode.raw(field.path))
            self._unchanged(planned, content_hash(data) if planned.hash else "")

            def fitted(width: int, height: int) -> int:
                times = shrink(width, height)
                room(width * height // times**2)
                return times

            pixels, width, height = decode.sized(data, fitted)
            return Picture(pixels, width, height)
        except MemoryError:
            raise ImageError("too large for this machine's memory") from None

    def still_there(self) -> None:
        """DataError where the input folder has gone: then nothing says that a field cannot be read."""
        if self._bringer.there():
            return
        there = False
        with suppress(OSError):
            there = self._root.is_dir()
        if not there:
            what = "the input folder cannot be reached any more"
            remedy = "bring it back, then go on with --resume: nothing is lost"
            raise DataError(what, where=str(self._root), remedy=remedy)

    def _unchanged(self, planned: Planned, now: str) -> None:
        if planned.hash and now != planned.hash:
            raise ImageError("changed since the run was planned", remedy="score it in a run of its own")

    def _often(self, planned: bool, read: Callable[[], T]) -> T:
        """What is read; tried again where a share or a disk is away for a moment."""
        for wait in (*_WAITS, None):
            try:
                return read()
            except ImageError as error:
                self.still_there()
                why = getattr(error.__cause__, "errno", None)
                if why == errno.ENOENT and planned:
                    raise ImageError("vanished since the run was planned", remedy="bring it back") from error
                if why not in _PASSING or wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError("the last try raises or returns")


def _hash_of_slide(path: Path) -> str:
    try:
        return slide_hash(path)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}", remedy="check the file") from error
