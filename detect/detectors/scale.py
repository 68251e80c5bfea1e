"""How large the cells of a slide are in its pixels, told by its red cells: the ruler in every field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.detectors.base import Detector
from detect.detectors.classical import red_cell_diameter
from detect.errors import ImageError
from detect.images import decode, wholeslide
from detect.images.magnification import Scale
from detect.types import Field, Image

RED_CELL = "RBC"

_LADDER = (0.5, 2**-0.5, 2**0.5, 2.0)  # factors of the first guess that are tried where it is not confirmed
_HARDLY = 0.02  # part of a field that red cells of the right size take up; less, and they were not found
_RUNG, _LEAST_PX, _MOST_PART = 2**0.5, 6.0, 0.25  # all that is tried then: from 6 pixels to a quarter of a field
_CONFIRMED = 0.15  # red cells whose median differs from the guess by less than this part confirm it
_ROUNDS = 3  # of looking again at the scale that was found
_SETTLED = 0.03  # a change below this ends them
_ROUND = 0.08  # sides of red cells that differ by less on the whole are taken for equal
_CERTAIN = 4.0  # standard errors by which they must differ besides
_ENOUGH = 8  # red cells; fewer tell little
_FEWEST = 3  # and fewer than these nothing
_WIDE = 0.2  # a spread above it says that these are not red cells of one scale
_UNEVEN = 1.6  # fields whose first guesses differ by more than this factor may be of several scales
_OTHER = 1.35  # and those whose red cells do are
_APART = 0.3  # the two ways of measuring may differ by this part
_SEEN = 0.4  # least score of a red cell that counts, whatever the detector's threshold
_SAMPLE = 5  # fields of a slide that are looked at
_TRIED = 25  # and so many at most are opened to find them
_MOST = 2400  # pixels of the middle of a field that are kept
_SIDE = 640  # pixels of the detector's input that are looked at in each field


def of_slide(detector: Detector, fields: Sequence[Field], alive: Callable[[], None] = lambda: None) -> Scale | None:
    """The scale of a slide from a few of its fields that can be read, taken evenly; None where no red cell is seen.

    Args:
        alive: called before each of them is read.
    """
    pictures: list[Image] = []
    for field in looked_at(fields):
        alive()
        try:
            pixels = decode.read(field.path) if field.region is None else wholeslide.read_field(field)
        except (ImageError, MemoryError):
            continue  # scoring tells of it
        middle = _middle(pixels, _MOST, _MOST)
        if red_cell_diameter(middle) is not None:
            pictures.append(middle.copy())
        if len(pictures) == _SAMPLE:
            break
    return estimate(detector, pictures) if pictures else None


def looked_at(fields: Sequence[Field]) -> list[Field]:
    """The fields of a slide that `of_slide` opens, at most; of these alone it opens the same."""
    return list(fields) if len(fields) <= _TRIED else _evenly(fields, _TRIED)


def _evenly(fields: Sequence[Field], most: int) -> list[Field]:
    """Fields from all over a slide, the first few of them already so."""
    order: list[int] = []
    for parts in (_SAMPLE, most):
        wanted = min(parts, len(fields))
        order += [(2 * i + 1) * len(fields) // (2 * wanted) for i in range(wanted)]
    return [fields[i] for i in dict.fromkeys(order)]


def estimate(detector: Detector, fields: Sequence[Image]) -> Scale | None:
    """The scale of a slide from some of its fields; None where no red cell is seen.

    A first guess comes from the pixels alone (the granulometry of the classical detector). The detector then looks at
    the middle of each field at that scale; where what it finds does not confirm the guess, at scales around it, and the
    one counts at which most red cells of the size that it was trained with are found. Where it finds hardly any at all
    of these, it looks at every scale: among red cells too pale to stand out the guess may be wrong by any factor. Their
    median sides are the answer, looked at again until it stays; one far from the guess is not sure. With hardly any red
    cell the guess stands, and is not sure.
    """
    guesses = [d for d in (red_cell_diameter(pixels) for pixels in fields) if d is not None]
    if not guesses:
        return None
    guess = float(np.median(guesses))
    if detector.red_cell_px is None or RED_CELL not in detector.classes.names:
        spread = float(np.subtract(*np.percentile(guesses, [75, 25])) / 2 / guess)
        return Scale(guess, guess, spread, sure=False)
    seen = _look(detector, fields, Scale(guess, guess))
    if not _confirms(seen, guess):
        tried = [_look(detector, fields, Scale(guess * f, guess * f)) for f in _LADDER]
        seen = max([seen, *tried], key=lambda look: look.support)
    if seen.support < _HARDLY * len(fields):
        seen = max([seen, *_anywhere(detector, fields)], key=lambda look: look.support)
    for _ in range(_ROUNDS):
        if len(seen.sides) < _FEWEST:
            # One box may be anything; what the pixels tell is nearer.
            return Scale(guess, guess, sure=False)
        now = seen.scale()
        seen = _look(detector, fields, now)
        if len(seen.sides) >= _FEWEST and abs(seen.scale().diameter_px / now.diameter_px - 1) < _SETTLED:
            break
    found = seen.scale() if len(seen.sides) >= _FEWEST else now
    mixed = found.spread > _WIDE or (max(guesses) / min(guesses) > _UNEVEN and _differ(detector, fields))
    sure = found.cells >= _ENOUGH and not mixed and abs(math.log(found.diameter_px / guess)) <= _APART
    return Scale(found.width_px, found.height_px, found.spread, found.cells, mixed=mixed, sure=sure)


def _anywhere(detector: Detector, fields: Sequence[Image]) -> Iterator[_Seen]:
    """What the detector sees at every scale at which a field may have been taken, where it is enough to tell one."""
    diameter, most = _LEAST_PX, _MOST_PART * max(max(pixels.shape[:2]) for pixels in fields)
    while diameter <= most:
        seen = _look(detector, fields, Scale(diameter, diameter))
        if len(seen.sides) >= _ENOUGH:
            yield seen
        diameter *= _RUNG


def _differ(detector: Detector, fields: Sequence[Image]) -> bool:
    """Whether the red cells of one field are much larger than those of another."""
    alone = [estimate(detector, [pixels]) for pixels in fields]
    told = [scale.diameter_px for scale in alone if scale is not None and scale.cells >= _ENOUGH]
    return len(told) > 1 and max(told) / min(told) > _OTHER


def _confirms(seen: _Seen, guess: float) -> bool:
    return len(seen.sides) >= _ENOUGH and abs(math.log(seen.scale().diameter_px / guess)) < _CONFIRMED


@dataclass(frozen=True, eq=False)
class _Seen:
    """Red cells seen at one scale: sides (n, 2) in pixels of the field, and how much speaks for that scale."""

    sides: NDArray[np.float64]
    support: float

    def scale(self) -> Scale:
        width, height = (float(v) for v in np.median(self.sides, axis=0))
        diameters = np.sqrt(self.sides.prod(axis=1))
        oblong = np.log(self.sides[:, 0] / self.sides[:, 1])
        error = float(np.subtract(*np.percentile(oblong, [75, 25]))) / math.sqrt(len(oblong))
        if len(oblong) < _ENOUGH or abs(float(np.median(oblong))) < max(_ROUND, _CERTAIN * error):
            width = height = float(np.median(diameters))
        low, high = np.percentile(diameters, [25, 75])
        return Scale(width, height, float((high - low) / 2 / np.median(diameters)), len(self.sides))


def _look(detector: Detector, fields: Sequence[Image], scale: Scale) -> _Seen:
    """What the detector sees in the middle of each field at a scale."""
    trained = detector.red_cell_px or 1.0
    width, height = (round(_SIDE * s / trained) for s in (scale.width_px, scale.height_px))
    middles = [_middle(pixels, width, height) for pixels in fields]
    label = detector.classes.index(RED_CELL)
    seen = detector.predict(middles, [scale] * len(middles), least=_SEEN)
    sides, support = [], 0.0
    for pixels, found in zip(middles, seen, strict=True):
        rows, columns = pixels.shape[:2]
        inner = (found.boxes[:, :2] > 1).all(1) & (found.boxes[:, 2:] < [columns - 1, rows - 1]).all(1)
        red = found.select((found.labels == label) & inner)
        own = (red.boxes[:, 2:] - red.boxes[:, :2]).astype(np.float64)
        off = np.log(np.sqrt(own.prod(axis=1)) / scale.diameter_px)
        # Cells of the trained size count in full; by area, since at a smaller scale more of them fit in.
        support += float((red.scores * np.exp(-((off / 0.35) ** 2)) * own.prod(axis=1)).sum()) / (rows * columns)
        sides.append(own)
    return _Seen(np.concatenate(sides), support)


def _middle(pixels: Image, width: int, height: int) -> Image:
    rows, columns = pixels.shape[:2]
    x, y = max(0, (columns - width) // 2), max(0, (rows - height) // 2)
    return np.ascontiguousarray(pixels[y : y + height, x : x + width])
