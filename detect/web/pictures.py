"""Pictures as they are served: made anew from pixels, so nothing that a file carried beside them goes out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.classify import heat
from detect.classify.bundled import BundleClassifier
from detect.classify.crops import crop
from detect.errors import ImageError
from detect.images import decode
from detect.pipeline.run import Opened
from detect.runtime.base import EngineSettings
from detect.score.store import rle_of
from detect.types import CellCrop, Image
from detect.web.reading import Scored
from detect.web.records import FullError
from detect.web.told import CellTold

_QUALITY, _MARGIN = 90, 0.25
_LARGEST, WHOLE = 4096, 1_000_000  # pixels of a served picture's longer side, and where it is to be whole
_SEATS = 8  # visitors who may wait for a classifier at once; more are told to come again
_CROP = 240


def jpeg(pixels: Image) -> bytes:
    """A JPEG of pixels, and of nothing else."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()


def png(pixels: Image) -> bytes:
    """A PNG of pixels, and of nothing else."""
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def _pixels(scored: Scored, number: int) -> Image:
    """A field; ImageError with its name where it cannot be read.

    One that scoring could not read is not tried again: it may end the process that does.
    """
    picture = scored.pictures[number]
    if scored.field(number).status != "ok":
        raise ImageError("was not read", where=picture.name, remedy="see the list of fields")
    try:
        return decode.read(scored.path(picture))
    except ImageError as error:
        raise ImageError(error.problem, where=picture.name, remedy=error.remedy) from error


def field(scored: Scored, number: int, side: int = _LARGEST) -> Image:
    """A field, its longer side at most that many pixels; ImageError where it cannot be read."""
    pixels = _pixels(scored, number)
    factor = min(1.0, side / max(pixels.shape[:2]))
    if factor < 1:
        size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return pixels


def cell(scored: Scored, told: CellTold) -> Image:
    """A cell with some of what is around it."""
    pixels = _pixels(scored, told.field)
    return _sized(crop(pixels, told.box, _MARGIN).pixels)


def _sized(pixels: Image) -> Image:
    how = cv2.INTER_AREA if pixels.shape[0] > _CROP else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (_CROP, _CROP), interpolation=how), np.uint8)


class Typist:
    """The classifiers of the first pipeline, for maps of where they look and for what cells look like to them.

    One call at a time: a map is some eighty crops.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened, self._lock, self._seats = opened, threading.Lock(), threading.Semaphore(_SEATS)
        self._models: dict[str, BundleClassifier] = {}

    def _asked(self, scored: Scored, told: CellTold) -> tuple[BundleClassifier, CellCrop] | None:
        """Who named a cell, and the crop as it wants it: the last whose types hold its name; None where none did."""
        for node in reversed(self._opened.nodes):
            if any(name in told.probabilities for name in node.bundle.names):
                key = node.bundle.card.name
                if key not in self._models:
                    self._models[key] = BundleClassifier(node.bundle, EngineSettings(), error=self._opened.error)
                model, outline = self._models[key], None if told.mask is None else rle_of(told.mask)
                return model, model.cut(model.ready(_pixels(scored, told.field)), told.box, outline)
        return None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One visitor at a time; FullError where many wait, as each of them holds up others who want less."""
        if not self._seats.acquire(blocking=False):
            raise FullError(2)
        try:
            with self._lock:
                yield
        finally:
            self._seats.release()

    def map(self, scored: Scored, told: CellTold) -> tuple[Image, str] | None:
        """Where the classifier looks for its likeliest type, drawn over the crop, and that type's name; None where no
        classifier was asked of the cell."""
        with self._turn():
            asked = self._asked(scored, told)
            if asked is None:
                return None
            model, cut = asked
            answer = int(model.predict([cut])[0].argmax())
            found = heat.occlusion(model, cut, answer)
        return _sized(heat.over(cut.pixels, found)), model.classes.names[answer]

    def looks(self, scored: Scored, told: CellTold) -> NDArray[np.float32] | None:
        """What tells a cell from others, as numbers of about one size: what the classifier makes of it before it
        decides, and its colours."""
        with self._turn():
            asked = self._asked(scored, told)
            if asked is None:
                return None
            model, cut = asked
            scores = model.told([cut])[0][0]
        lab = cv2.cvtColor(cut.pixels, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
        return np.concatenate([scores - scores.mean(), lab.mean(axis=0) / 20, lab.std(axis=0) / 20]).astype(np.float32)
