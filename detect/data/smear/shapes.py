"""Shapes as distances: how far each pixel lies inside (negative) or outside an outline, so that edges can be soft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_TURN = 1024  # places of an outline


@dataclass(frozen=True, eq=False)
class Grid:
    """The pixels around a place, and where they lie from it.

    Attributes:
        left, top: of the first pixel in the field, which the grid may leave. x, y: float32 (h, w), from the middle.
    """

    left: int
    top: int
    x: Floats
    y: Floats

    @classmethod
    def around(cls, x: float, y: float, reach: float) -> Grid:
        """Pixels whose centres lie within `reach` of a place."""
        left, top = int(np.floor(x - reach)), int(np.floor(y - reach))
        side = int(np.ceil(2 * reach)) + 2
        along = np.arange(side, dtype=np.float32) + np.float32(0.5)
        xs, ys = along + np.float32(left - x), along + np.float32(top - y)
        return cls(left, top, np.broadcast_to(xs[None], (side, side)), np.broadcast_to(ys[:, None], (side, side)))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.x.shape[0], self.x.shape[1]


def cover(distance: Floats, soft: float = 1.0) -> Floats:
    """Part of each pixel that is inside; soft: width of the edge in pixels."""
    return np.asarray(np.clip(0.5 - distance / np.float32(soft), 0, 1), np.float32)


def turned(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    """The same places, the axes turned."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def waves(rng: np.random.Generator, amount: float, first: int = 2, last: int = 6) -> tuple[Floats, Floats, Floats]:
    """Waves of an outline: numbers, heights and phases. Longer ones are higher."""
    k = np.arange(first, last + 1, dtype=np.float32)
    heights = rng.normal(0, 1, len(k)) * amount * (2 / k) ** 0.8
    return k, heights.astype(np.float32), rng.uniform(0, 2 * np.pi, len(k)).astype(np.float32)


def wavy(angle: Floats, k: Floats, heights: Floats, phases: Floats) -> Floats:
    """Radius of an outline, about 1, at some angles."""
    return np.asarray(1 + (heights * np.cos(angle[:, None] * k + phases)).sum(axis=1), np.float32)


def turns() -> Floats:
    """Angles all around, float32 (`_TURN`,), for which outlines are worked out once a cell."""
    return np.linspace(0, 2 * np.pi, _TURN, endpoint=False, dtype=np.float32)


def polar(u: Floats, v: Floats, outline: Floats) -> Floats:
    """Distance from the middle, 1 on an outline that is given at `turns`."""
    away, angle = cv2.cartToPolar(u, v)
    return np.asarray(away / outline[(angle * (_TURN / (2 * np.pi))).astype(np.int32) % _TURN], np.float32)


def capsule(x: Floats, y: Floats, a: Sequence[float], b: Sequence[float], radius: float) -> Floats:
    """Distance from a line with round ends."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    return np.asarray(np.hypot(x - a[0] - along * dx, y - a[1] - along * dy) - radius, np.float32)


def wedge(x: Floats, y: Floats, a: Sequence[float], b: Sequence[float], width: float) -> Floats:
    """Distance from a wedge, half as wide as `width` at a and pointed at b."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    away = np.hypot(x - a[0] - along * dx, y - a[1] - along * dy)
    return np.asarray(away - 0.5 * width * (1 - along), np.float32)


def joined(one: Floats, other: Floats, round_: float) -> Floats:
    """Both shapes as one, their meeting rounded (Quilez, polynomial smooth minimum)."""
    near = np.clip(round_ - np.abs(one - other), 0, None) / round_
    return np.asarray(np.minimum(one, other) - near * near * (round_ / 4), np.float32)


def chain(
    x: Floats, y: Floats, places: NDArray[np.floating], radii: Sequence[float], bridge: float, round_: float
) -> Floats:
    """Discs at some places, each joined to the next by a bridge of some half width."""
    out: Floats | None = None
    for i, (place, radius) in enumerate(zip(places, radii, strict=True)):
        disc = np.asarray(np.hypot(x - place[0], y - place[1]) - radius, np.float32)
        out = disc if out is None else joined(out, disc, round_)
        if i:
            out = joined(out, capsule(x, y, places[i - 1], place, bridge), round_)
    assert out is not None
    return out


def arc(radius: float, start: float, span: float, n: int) -> NDArray[np.floating]:
    """Places along an arc about the origin."""
    at = start + np.linspace(-0.5, 0.5, n) * span if n > 1 else np.array([start])
    return np.stack([radius * np.cos(at), radius * np.sin(at)], axis=1)
