"""The pixels of planned fields: if they still are what was planned, however often a share has to be asked."""

from __future__ import annotations

import errno
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
    """

    pixels: Image
    width: int
    height: int

    @property
    def shrunk(self) -> tuple[float, float]:
        """Pixels of the field for each that is here, across and down."""
        return self.width / self.pixels.shape[1], self.height / self.pixels.shape[0]


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

    def tried(self, planned: Planned, shrink: Shrink) -> Picture | ImageError:
        """See `read`; the error is returned."""
        try:
            return self.read(planned, shrink)
        except ImageError as error:
            return error

    def read(self, planned: Planned, shrink: Shrink = decode.whole) -> Picture:
        """A field, if it still is what was planned.

        Args:
            shrink: see `decode.decode`.

        Raises:
            ImageError: it cannot be read, or changed. DataError: the whole input folder has gone.
        """
        self._alive(0)
        known = bool(planned.hash)
        field = self.at_hand(planned.field, planned=known)
        try:
            if is_slide(field):
                self._unchanged(planned, self._often(known, lambda: _hash_of_slide(field.path)))
                pixels = self._often(known, lambda: wholeslide.read_field(field))
                return Picture(pixels, pixels.shape[1], pixels.shape[0])
            data = self._often(known, lambda: decode.raw(field.path))
            self._unchanged(planned, content_hash(data) if planned.hash else "")
            pixels, width, height = decode.sized(data, shrink)
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
