"""One field of a slide: where its cells lie, how they add up to light, and what the camera makes of it.

Light is what a stained film leaves of it (Beer and Lambert): densities of dyes add up, overlaps grow darker by
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.data.smear import red
from detect.data.smear.drawn import Drawn, Floats, Mask
from detect.data.smear.settings import FIELD_UM2, Smear
from detect.data.smear.slide import Slide
from detect.data.smear.slide import draw as draw_slide
from detect.data.smear.white import white
from detect.types import Image

_SEEN = 0.12  # part of a cell that must lie in the field; less is not drawn at all, so that nothing lies unlabelled
_LEAST_PX = 12  # pixels of a cell in the field
_TRIES = 40
_ROLL = 5  # red cells in a roll, about
_STRAY = 0.05  # spread of each dye from cell to cell
_COLOUR_NOISE = np.array([0.9, 0.4, 1.4], np.float32)  # of red, green and blue, by that of brightness
_OVERLAP = 0.02  # part of a cell that another covers, from which it says so


@dataclass(frozen=True, eq=False)
class Cell:
    """What is known of a cell in the field.

    Attributes:
        left, top: of the masks in the field, pixels; they touch the cell on all four sides.
        cell, nucleus: bool (h, w), cut by the field's border.
    """

    name: str
    left: int
    top: int
    cell: Mask
    nucleus: Mask | None
    attributes: Mapping[str, float | bool]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xyxy in pixels of the field, half-open: the bounds of the mask."""
        h, w = self.cell.shape
        return self.left, self.top, self.left + w, self.top + h


@dataclass(frozen=True, eq=False)
class SmearField:
    """A picture, its cells, and the scale."""

    pixels: Image
    cells: tuple[Cell, ...]
    px_per_um: float
    out_of_focus: bool


def draw(settings: Smear, slide: Slide, seed: int, number: int, width: int, height: int) -> SmearField:
    """The field of some number. The same arguments give the same bytes."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, slide.number, number]))
    canvas = _Canvas(slide, rng, width, height)
    for drawn in _whites(settings, slide, rng, canvas):
        canvas.add(drawn)
    _reds(slide, rng, canvas)
    _small(settings, slide, rng, canvas)
    density = canvas.density + canvas.reds()
    for _ in range(rng.poisson(slide.debris["scratches"])):
        place, part = red.scratch(slide, rng, width, height)
        density *= (1 - part * place)[..., None]
    blurred = rng.random() < slide.optics["out_of_focus"]
    pixels = _photograph(slide, rng, density, blurred)
    return SmearField(pixels, tuple(canvas.known(blurred)), slide.px_per_um, bool(blurred))


def one_of_each(settings: Smear, slides: int, seed: int, side: int) -> Iterator[SmearField]:
    """The first field of some slides, `side` pixels a side."""
    for number in range(slides):
        yield draw(settings, draw_slide(settings, seed, number), seed, 0, side, side)


class _Canvas:
    """Optical density so far, and what lies where."""

    def __init__(self, slide: Slide, rng: np.random.Generator, width: int, height: int) -> None:
        self.slide, self.rng = slide, rng
        self.width, self.height = width, height
        self.density = np.zeros((height, width, 3), np.float32)
        # Of red cells, apart: they give way to each other.
        self.red = np.zeros((height, width), np.float32)
        self.even = np.zeros((height, width), np.float32)
        self._taken = np.zeros((3, 1024))  # x, y, radius of all that stands in the way
        self.count = 0  # of what stands in the way
        self._cells: list[Cell] = []
        self._layers = np.zeros((height, width), np.uint8)  # how many cells lie on each pixel

    @property
    def fields(self) -> float:
        """Its area, in areas of an ordinary field."""
        return self.width * self.height / self.slide.px_per_um**2 / FIELD_UM2

    def take(self, x: float, y: float, radius: float) -> None:
        """Keep a place."""
        if self.count == self._taken.shape[1]:
            self._taken = np.concatenate([self._taken, np.zeros_like(self._taken)], axis=1)
        self._taken[:, self.count] = x, y, radius
        self.count += 1

    def free(self, x: float, y: float, radius: float, apart: float, among: int | None = None) -> bool:
        """Whether a disc lies at least `apart` times the sum of radii from all others, or from the first `among`."""
        xs, ys, radii = self._taken[:, : self.count if among is None else among]
        dx, dy, least = xs - x, ys - y, apart * (radii + radius)
        return not bool((dx * dx + dy * dy < least * least).any())

    def add(self, drawn: Drawn) -> bool:
        """Lay a cell down, unless too little of it would be seen."""
        h, w = drawn.cell.shape
        x0, y0 = max(0, -drawn.left), max(0, -drawn.top)
        x1, y1 = min(w, self.width - drawn.left), min(h, self.height - drawn.top)
        if x1 <= x0 or y1 <= y0:
            return False
        inner = (slice(y0, y1), slice(x0, x1))
        seen = drawn.cell[inner]
        whole, there = np.count_nonzero(drawn.cell), np.count_nonzero(seen)
        if there < max(_SEEN * whole, _LEAST_PX):
            return False
        left, top = drawn.left + x0, drawn.top + y0
        place = (slice(top, top + y1 - y0), slice(left, left + x1 - x0))
        if drawn.name == "RBC":
            # Red cells are soft: where two lie on each other, both grow thinner.
            part = np.float32(1 - self.slide.reds["flow"])
            for layer, name in ((self.red, "red"), (self.even, "even")):
                under, over = layer[place], drawn.density[name][inner]
                layer[place] = np.maximum(under, over) + part * np.minimum(under, over)
        for dye, amount in drawn.density.items() if drawn.name != "RBC" else ():
            colour = self.slide.dyes[dye] * np.exp(self.rng.normal(0, _STRAY, 3)).astype(np.float32)
            self.density[place] += amount[inner][..., None] * colour
        self._layers[place] += seen
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        tight = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        nucleus = drawn.nucleus[inner][tight] if drawn.nucleus is not None else None
        cut = {"truncated": bool(there < whole)}
        self._cells.append(
            Cell(
                drawn.name,
                left + int(columns[0]),
                top + int(rows[0]),
                seen[tight],
                nucleus,
                {**drawn.attributes, **cut},
            )
        )
        return True

    def reds(self) -> Floats:
        """Optical density of the red cells, float32 (h, w, 3); part of the blue does not follow their thickness."""
        out = self.red[..., None] * self.slide.dyes["red"]
        out[..., 2] += (self.even - self.red) * self.slide.dyes["red"][2] * np.float32(self.slide.reds["even_blue"])
        return np.asarray(out, np.float32)

    def known(self, out_of_focus: bool) -> list[Cell]:
        """All cells, with what their neighbours do to them."""
        out = []
        for cell in self._cells:
            x0, y0, x1, y1 = cell.box
            shared = np.count_nonzero(self._layers[y0:y1, x0:x1][cell.cell] > 1)
            told = {"overlapping": bool(shared > _OVERLAP * np.count_nonzero(cell.cell)), "out_of_focus": out_of_focus}
            out.append(Cell(cell.name, cell.left, cell.top, cell.cell, cell.nucleus, {**cell.attributes, **told}))
        return out


def _somewhere(rng: np.random.Generator, canvas: _Canvas, radius: float) -> tuple[float, float]:
    """A place of which the border of the field may cut off some."""
    beyond = 0.75 * radius
    return (
        float(rng.uniform(-beyond, canvas.width + beyond)),
        float(rng.uniform(-beyond, canvas.height + beyond)),
    )


def _whites(settings: Smear, slide: Slide, rng: np.random.Generator, canvas: _Canvas) -> list[Drawn]:
    told = settings.diseases[slide.disease].differential
    names, shares = list(told), np.array(list(told.values()))
    out = []
    count = max(1, int(rng.poisson(slide.white_per_field * canvas.fields)))
    for name in rng.choice(names, size=count, p=shares / shares.sum()):
        look = settings.whites[str(name)]
        reach = 0.5 * look.diameter_um[1] * slide.px_per_um
        for _ in range(_TRIES):
            x, y = _somewhere(rng, canvas, 0.5 * sum(look.diameter_um) * 0.5 * slide.px_per_um)
            if canvas.free(x, y, reach, 0.92):
                drawn = white(slide, rng, str(name), look, x, y)
                canvas.take(x, y, float(np.sqrt(np.count_nonzero(drawn.cell) / np.pi)))
                out.append(drawn)
                break
    return out


def _reds(slide: Slide, rng: np.random.Generator, canvas: _Canvas) -> None:
    reds, size = slide.reds, 0.5 * slide.reds["diameter_um"] * slide.px_per_um
    wanted = reds["cover"] * (canvas.width + size) * (canvas.height + size) / (np.pi * size * size)
    whites = canvas.count
    placed = misses = 0
    while placed < wanted and misses < 8 * _TRIES:
        radius = size * float(np.exp(rng.normal(0, reds["spread"])))
        x, y = _somewhere(rng, canvas, radius)
        apart = rng.uniform(0.45, 0.9) if rng.random() < reds["overlap"] else 0.98
        if not (canvas.free(x, y, radius, 0.9, among=whites) and canvas.free(x, y, radius, apart)):
            misses += 1
            continue
        misses = 0
        if rng.random() < reds["rouleaux"] / _ROLL:
            placed += _roll(slide, rng, canvas, x, y, radius, whites)
            continue
        canvas.take(x, y, radius)
        placed += canvas.add(red.red(slide, rng, x, y, radius))


def _roll(
    slide: Slide, rng: np.random.Generator, canvas: _Canvas, x: float, y: float, radius: float, whites: int
) -> int:
    """Red cells stacked like coins that slid; how many."""
    way, placed = rng.uniform(0, 2 * np.pi), 0
    for _ in range(int(rng.integers(_ROLL - 2, _ROLL + 3))):
        if not canvas.free(x, y, radius, 0.9, among=whites):
            break
        canvas.take(x, y, radius)
        placed += canvas.add(red.red(slide, rng, x, y, radius * rng.uniform(0.95, 1.05)))
        step = radius * rng.uniform(0.6, 1.1)
        way += rng.normal(0, 0.25)
        x, y = x + step * np.cos(way), y + step * np.sin(way)
    return placed


def _small(settings: Smear, slide: Slide, rng: np.random.Generator, canvas: _Canvas) -> None:
    """Platelets, clumps and dirt, mostly where no cell lies."""
    low, high = settings.debris.platelet_um
    for _ in range(rng.poisson(slide.debris["platelets"] * canvas.fields)):
        # Sizes gather at the small end; a few are twice as large.
        size = 0.5 * (low + (high - low) * rng.beta(1.5, 2.5)) * (1.8 if rng.random() < 0.04 else 1.0)
        radius = size * slide.px_per_um
        clump = rng.random() < slide.debris["clumps"]
        for _ in range(_TRIES):
            x, y = _somewhere(rng, canvas, radius)
            room = 3.5 * radius if clump else radius
            if canvas.free(x, y, room, 1.0) or (not clump and rng.random() < 0.01):
                canvas.take(x, y, room)
                canvas.add(red.clump(slide, rng, x, y) if clump else red.platelet(slide, rng, x, y, radius))
                break
    for draw_one, name in ((red.precipitate, "precipitate"), (red.dust, "dust")):
        for _ in range(rng.poisson(slide.debris[name] * canvas.fields)):
            x, y = _somewhere(rng, canvas, 0.0)
            canvas.add(draw_one(slide, rng, x, y))


def _photograph(slide: Slide, rng: np.random.Generator, density: Floats, out_of_focus: bool) -> Image:
    optics, scale = slide.optics, slide.px_per_um
    height, width = density.shape[:2]
    # Halo: lens and camera exaggerate edges, bright outside, dark inside.
    wide = cv2.GaussianBlur(density, (0, 0), max(0.3 * scale, 1.0))
    np.subtract(density, wide, out=wide)
    wide *= np.float32(optics["halo"])
    wide += density
    np.maximum(wide, np.float32(-0.08), out=wide)
    light = np.exp(np.negative(wide, out=wide), out=wide)
    light *= slide.ground
    blur = scale * (optics["defocus_um"] if out_of_focus else optics["blur_um"])
    light = cv2.GaussianBlur(light, (0, 0), max(blur * rng.uniform(0.85, 1.2), 0.3))
    if optics["fringe"] > 0.1:
        for channel, way in ((0, 1.0), (2, -1.0)):
            move = np.array([[1, 0, way * optics["fringe"]], [0, 1, way * 0.5 * optics["fringe"]]])
            light[..., channel] = cv2.warpAffine(
                light[..., channel], move, (width, height), borderMode=cv2.BORDER_REPLICATE
            )
    if optics["sharpen"] > 0.1:  # as cameras do, in brightness
        grey = light @ np.array([0.299, 0.587, 0.114], np.float32)
        light += (np.float32(optics["sharpen"]) * (grey - cv2.GaussianBlur(grey, (0, 0), 1.2)))[..., None]
    light *= _illumination(slide, rng, width, height)[..., None]
    np.clip(light, 0, 255, out=light)
    light /= 255
    light **= np.float32(optics["gamma"])
    light *= 255
    light += _noise(rng, optics["noise"], width, height)
    return np.asarray(np.clip(light, 0, 255, out=light) + 0.5, np.uint8)


def _illumination(slide: Slide, rng: np.random.Generator, width: int, height: int) -> Floats:
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - 0.5
    x = (np.arange(width, dtype=np.float32)[None] + 0.5) / width - 0.5
    cx, cy = rng.normal(0, 0.08, 2)
    way = rng.uniform(0, 2 * np.pi)
    corner = 2 * ((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2)
    side = x * np.float32(np.cos(way)) + y * np.float32(np.sin(way))
    return np.asarray(1 - slide.optics["vignette"] * corner + slide.optics["gradient"] * side, np.float32)


def _noise(rng: np.random.Generator, spread: float, width: int, height: int) -> NDArray[np.float32]:
    """Grain of the sensor: in brightness a little softer than a pixel, in colour coarser, most of it in blue."""
    bright = rng.standard_normal((height, width), dtype=np.float32)
    bright = cv2.GaussianBlur(bright, (0, 0), 0.6) * np.float32(1.6 * spread)
    # Sensors see red and, more so, blue with fewer elements than green, and white balance lifts blue most.
    colour = rng.standard_normal((-(-height // 2), -(-width // 2), 3), dtype=np.float32) * _COLOUR_NOISE
    colour = cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR) * np.float32(spread)
    return np.asarray(bright[..., None] + colour, np.float32)
