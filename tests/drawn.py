"""A few drawn fields for a first look: red cells with pallor, platelets, four types of white cell.

They show that the whole way works, on any machine and with no download; they are drawings, and no figure is ever
measured on them. Deterministic by seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from detect.types import Image

WIDTH, HEIGHT = 640, 480
# Share of the white cells of each drawn slide.
SLIDES = {
    "slide-a": {"Neutrophil": 0.62, "Lymphocyte": 0.28, "Monocyte": 0.06, "Eosinophil": 0.04},
    "slide-b": {"Neutrophil": 0.30, "Lymphocyte": 0.60, "Monocyte": 0.06, "Eosinophil": 0.04},
    "slide-c": {"Neutrophil": 0.45, "Lymphocyte": 0.20, "Monocyte": 0.05, "Eosinophil": 0.30},
}
_GROUND = (222, 214, 212)
_RED, _RED_RIM, _PALLOR = (201, 158, 152), (186, 138, 134), (222, 196, 190)
_NUCLEUS, _PLATELET = (92, 62, 150), (140, 110, 178)
_CYTOPLASM = {
    "Neutrophil": (206, 178, 200),
    "Lymphocyte": (150, 150, 205),
    "Monocyte": (176, 170, 200),
    "Eosinophil": (206, 160, 170),
}
_RADIUS = {"Neutrophil": 62, "Lymphocyte": 48, "Monocyte": 70, "Eosinophil": 62}
_FINE = 3  # drawn this many times as large, then shrunk: smooth edges


@dataclass(frozen=True)
class DrawnCell:
    """What was drawn where: xyxy in pixels, and the label or type."""

    box: tuple[float, float, float, float]
    name: str


def field(seed: int, white: list[str]) -> tuple[Image, list[DrawnCell]]:
    """One field of 640 x 480 with these white cells, some twenty red cells and a few platelets."""
    rng = np.random.default_rng(seed)
    canvas = np.empty((HEIGHT * _FINE, WIDTH * _FINE, 3), np.uint8)
    canvas[:] = _GROUND
    taken: list[tuple[float, float, float]] = []
    cells: list[DrawnCell] = []
    for name in white:
        radius = _RADIUS[name] * rng.uniform(0.92, 1.08)
        place = _free(rng, taken, radius, 0.95)
        if place is not None:
            taken.append((*place, radius))
            cells.append(DrawnCell(_box(*place, radius, radius), name))
    for _ in range(int(rng.integers(14, 22))):
        radius = 43 * rng.uniform(0.9, 1.1)
        place = _free(rng, taken, radius, 0.8)
        if place is not None:
            taken.append((*place, radius))
            squash = rng.uniform(0.86, 1.0)
            _red(canvas, rng, *place, radius, squash)
            cells.append(DrawnCell(_box(*place, radius, radius), "RBC"))
    canvas = cv2.GaussianBlur(canvas, (0, 0), 2.5 * _FINE)  # red cells have soft rims and pallor
    for _ in range(int(rng.integers(1, 4))):
        place = _free(rng, taken, 14, 1.1)
        if place is not None:
            taken.append((*place, 14.0))
            _blob(canvas, rng, *place, rng.uniform(10, 14), _PLATELET, 0.25)
            cells.append(DrawnCell(_box(*place, 14, 14), "Platelet"))
    for drawn in [c for c in cells if c.name in _RADIUS]:
        x0, y0, x1, y1 = drawn.box
        _white(canvas, rng, drawn.name, (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2)
    return _finish(canvas, rng), cells


def _finish(canvas: Image, rng: np.random.Generator) -> Image:
    soft = cv2.GaussianBlur(canvas, (0, 0), 1.1 * _FINE)
    small = cv2.resize(soft, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    light = 1.03 - 0.10 * (((x - WIDTH / 2) / WIDTH) ** 2 + ((y - HEIGHT / 2) / HEIGHT) ** 2)
    grain = cv2.GaussianBlur(rng.normal(0, 5, (HEIGHT, WIDTH, 1)).astype(np.float32), (0, 0), 0.8)[..., None]
    return np.asarray(np.clip(small * light[..., None] + grain, 0, 255), dtype=np.uint8)


def _box(x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
    return (max(0.0, x - rx), max(0.0, y - ry), min(float(WIDTH), x + rx), min(float(HEIGHT), y + ry))


def _free(
    rng: np.random.Generator, taken: list[tuple[float, float, float]], radius: float, apart: float
) -> tuple[float, float] | None:
    for _ in range(60):
        x, y = (
            rng.uniform(radius * 0.7, WIDTH - radius * 0.7),
            rng.uniform(radius * 0.7, HEIGHT - radius * 0.7),
        )
        if all(np.hypot(x - a, y - b) > apart * (radius + r) for a, b, r in taken):
            return float(x), float(y)
    return None


def _outline(rng: np.random.Generator, x: float, y: float, radius: float, rough: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    wave = sum(rng.normal(0, rough / (k + 1)) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    r = radius * (1 + 0.5 * np.asarray(wave))
    points = np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], axis=1)
    return np.round(points * _FINE).astype(np.int32)


def _blob(
    canvas: Image,
    rng: np.random.Generator,
    x: float,
    y: float,
    radius: float,
    colour: tuple[int, ...],
    rough: float,
) -> None:
    cv2.fillPoly(canvas, [_outline(rng, x, y, radius, rough)], colour, cv2.LINE_AA)


def _red(canvas: Image, rng: np.random.Generator, x: float, y: float, radius: float, squash: float) -> None:
    layer = canvas.copy()
    centre = (round(x * _FINE), round(y * _FINE))
    turn = float(rng.uniform(0, 180))
    tint = rng.normal(0, 4, 3)
    for share, colour in ((1.0, _RED_RIM), (0.94, _RED), (0.50, _PALLOR)):
        axes = (round(radius * share * _FINE), round(radius * share * squash * _FINE))
        shade = tuple(float(v) for v in np.clip(np.array(colour) + tint, 0, 255))
        cv2.ellipse(layer, centre, axes, turn, 0, 360, shade, -1, cv2.LINE_AA)
    cv2.addWeighted(layer, 0.85, canvas, 0.15, 0, dst=canvas)


def _white(canvas: Image, rng: np.random.Generator, name: str, x: float, y: float, radius: float) -> None:
    _blob(canvas, rng, x, y, radius, _CYTOPLASM[name], 0.06)
    if name in ("Neutrophil", "Eosinophil"):
        colour = (196, 92, 96) if name == "Eosinophil" else (186, 150, 186)
        for _ in range(420 if name == "Eosinophil" else 160):
            a, r = rng.uniform(0, 2 * np.pi), radius * 0.92 * np.sqrt(rng.uniform())
            spot = (round((x + r * np.cos(a)) * _FINE), round((y + r * np.sin(a)) * _FINE))
            size = rng.uniform(2.2, 3.2) if name == "Eosinophil" else rng.uniform(1.0, 1.6)
            cv2.circle(canvas, spot, round(size * _FINE), colour, -1, cv2.LINE_AA)
        lobes = 2 if name == "Eosinophil" else int(rng.integers(3, 5))
        turn = rng.uniform(0, 2 * np.pi)
        spots = [turn + i * (2.2 if lobes == 2 else 1.25) for i in range(lobes)]
        at = [(x + 0.42 * radius * np.cos(a), y + 0.42 * radius * np.sin(a)) for a in spots]
        for (ax, ay), (bx, by) in pairwise(at):
            ends = (round(ax * _FINE), round(ay * _FINE)), (round(bx * _FINE), round(by * _FINE))
            cv2.line(canvas, *ends, _NUCLEUS, round(0.16 * radius * _FINE), cv2.LINE_AA)
        for a, b in at:
            _nucleus(canvas, rng, a, b, radius * rng.uniform(0.28, 0.36), 0.12)
    elif name == "Lymphocyte":
        _nucleus(canvas, rng, x + rng.normal(0, 2), y + rng.normal(0, 2), radius * 0.82, 0.05)
    else:
        _nucleus(canvas, rng, x, y, radius * 0.62, 0.16)
        _blob(canvas, rng, x + 0.5 * radius, y - 0.2 * radius, radius * 0.28, _CYTOPLASM[name], 0.1)


def _nucleus(canvas: Image, rng: np.random.Generator, x: float, y: float, radius: float, rough: float) -> None:
    _blob(canvas, rng, x, y, radius, _NUCLEUS, rough)
    for _ in range(int(radius)):
        a, r = rng.uniform(0, 2 * np.pi), radius * 0.85 * np.sqrt(rng.uniform())
        colour = tuple(float(v) for v in np.array(_NUCLEUS) + rng.choice([-16, 22]))
        spot = (round((x + r * np.cos(a)) * _FINE), round((y + r * np.sin(a)) * _FINE))
        cv2.circle(canvas, spot, round(rng.uniform(2, 4) * _FINE), colour, -1, cv2.LINE_AA)


def fields(count: int, seed: int, mix: dict[str, float]) -> Iterator[tuple[Image, list[DrawnCell]]]:
    """Fields of one slide whose white cells follow `mix`."""
    rng = np.random.default_rng(seed)
    names, chances = list(mix), np.array(list(mix.values()))
    for i in range(count):
        white = rng.choice(names, size=int(rng.integers(2, 4)), p=chances / chances.sum())
        yield field(seed * 1000 + i, [str(w) for w in white])


def write_slides(out: Path, per_slide: int, seed: int) -> list[Path]:
    """The drawn slides as folders of JPEGs; returns the files."""
    written = []
    for i, (slide, mix) in enumerate(SLIDES.items()):
        (out / slide).mkdir(parents=True, exist_ok=True)
        for number, (pixels, _) in enumerate(fields(per_slide, seed + i, mix), 1):
            path = out / slide / f"field-{number:02d}.jpg"
            _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
            path.write_bytes(data.tobytes())
            written.append(path)
    return written
