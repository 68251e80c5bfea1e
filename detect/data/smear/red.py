"""Red cells, platelets, and what lies between the cells."""

from __future__ import annotations

import cv2
import numpy as np

from detect.data.smear.drawn import Drawn, Floats, circularity, diameter
from detect.data.smear.shapes import Grid, capsule, cover, polar, turned, turns, waves, wavy
from detect.data.smear.slide import Slide, between

_PEAK = 0.95  # thickness beside the pallor
_THICKEST = 0.67  # where a cell that swims is, of its radius


def red(slide: Slide, rng: np.random.Generator, x: float, y: float, radius: float) -> Drawn:
    """A red cell: a disc with a pale middle, thickest between that and its edge. radius in pixels."""
    reds = slide.reds
    kind = _kind(slide, rng)
    # Short axes lie across the way of the film where cells are aligned.
    turn = rng.normal(reds["way"], 0.2) if rng.random() < reds["aligned"] else rng.uniform(0, 2 * np.pi)
    ratio = np.sqrt(1 - (1 - rng.uniform(reds["oval"], 1.0)) * rng.uniform(0.2, 1.0))
    angle = turns()
    outline = wavy(angle, *waves(rng, reds["uneven"] * rng.uniform(0.5, 1.5), 2, 4))
    if kind == "teardrop":
        outline += np.float32(rng.uniform(0.25, 0.4)) * np.exp(-(((angle - np.pi) / np.float32(0.32)) ** 2))
    elif kind == "crenated":
        spikes = np.cos(int(rng.integers(9, 15)) * angle + rng.normal(0, 1) * np.sin(angle + rng.uniform(0, 6)))
        outline += np.float32(rng.uniform(0.015, 0.05)) * spikes
    grid = Grid.around(x, y, radius * float(outline.max()) / ratio + 2)
    u, v = turned(grid.x, grid.y, turn)
    u, v = u * np.float32(ratio), v / np.float32(ratio)
    at = polar(u, v, np.asarray(radius * outline, np.float32))
    edge = (at - 1) * radius
    thick = _thickness(slide, rng, kind, at, u / radius, v / radius)
    thick = thick * (1 + 0.05 * slide.texture.cut(rng, *grid.shape, 0.35 * slide.px_per_um))
    strength = np.float32(np.exp(rng.normal(0, 0.12)))
    inside = cover(edge, 1 + 0.05 * radius) * strength
    density = {"red": np.asarray(inside * thick, np.float32)}
    if rng.random() < reds["refractile"]:
        _refractile(slide, rng, grid, density["red"], radius)
    density["even"] = np.asarray(np.float32(_PEAK) * inside, np.float32)
    cell = cover(edge) >= 0.5
    told = {"diameter_um": diameter(cell, slide.px_per_um), "circularity": circularity(cell)}
    return Drawn("RBC", grid.left, grid.top, density, cell, None, told)


def _kind(slide: Slide, rng: np.random.Generator) -> str:
    at = rng.random()
    for name in ("spherocytes", "targets", "stomatocytes", "teardrops", "crenated"):
        at -= slide.reds[name]
        if at < 0:
            return name.removesuffix("s")
    return "disc"


def _thickness(slide: Slide, rng: np.random.Generator, kind: str, at: Floats, u: Floats, v: Floats) -> Floats:
    """Relative to the thickest, about 1: it thins out to the edge by the dome, in the middle by the pallor."""
    reds = slide.reds
    depth = float(np.clip(reds["pallor"] * rng.uniform(0.3, 1.5), 0, 0.95))
    width = reds["pallor_width"] * rng.uniform(0.7, 1.3)
    if kind == "spherocyte":
        depth *= 0.1
    middle_x, middle_y = rng.normal(0, 0.1, 2)
    turn = rng.uniform(0, np.pi)
    u, v = u - np.float32(middle_x), v - np.float32(middle_y)
    p, q = (
        u * np.float32(np.cos(turn)) + v * np.float32(np.sin(turn)),
        v * np.float32(np.cos(turn)) - u * np.float32(np.sin(turn)),
    )
    if kind == "stomatocyte":
        place = cv2.magnitude(p * np.float32(0.55 / width), q * np.float32(1.9 / width))
    else:
        oval = rng.uniform(0.75, 1.0)
        place = cv2.magnitude(p * np.float32(oval / width), q / np.float32(oval * width))
    flat = np.float32(np.sqrt(rng.random()))
    square = place * place
    pallor = np.exp(-square * (1 - flat + flat * square))  # from a bell to a flat floor
    rim = np.exp(-(((at - np.float32(rng.uniform(0.8, 0.88))) / np.float32(rng.uniform(0.07, 0.16))) ** 2))
    inward = np.minimum(at, 1) ** 2
    dried = 0.5 + 0.5 * np.sqrt(np.sqrt(1 - inward * inward))
    # Thickness of a cell that swims, from where it is thickest outwards (Evans and Fung, 1972).
    swims = np.sqrt(1 - inward) * (0.207 + 2.003 * inward - 1.123 * inward * inward) / np.float32(0.653)
    swims = np.where(at < _THICKEST, 1, swims)
    dome = np.float32(np.clip(reds["dome"] * rng.uniform(0.8, 1.2), 0, 1))
    dark = np.float32(reds["rim"] * rng.uniform(0.6, 1.4))
    thick = (_PEAK + dark * rim - depth * pallor) * (dome * swims + (1 - dome) * dried)
    if kind == "target":
        thick = thick + 0.75 * depth * np.exp(-((place / 0.4) ** 2))
    return np.asarray(np.clip(thick, 0.03, None), np.float32)


def _refractile(slide: Slide, rng: np.random.Generator, grid: Grid, density: Floats, radius: float) -> None:
    """A spot of drying: bright, with a thin dark border."""
    dx, dy = rng.normal(0, 0.15 * radius, 2)
    size = radius * rng.uniform(0.08, 0.22)
    edge = np.hypot((grid.x - dx) * rng.uniform(0.8, 1.25), grid.y - dy) - size
    soft = max(0.06 * radius, 0.8)
    density -= np.asarray(cover(edge, 2 * soft) * (density + 0.15) * rng.uniform(0.5, 1.1), np.float32)
    density += np.asarray(np.exp(-((edge / soft) ** 2)) * rng.uniform(0.2, 0.8), np.float32)


def platelet(slide: Slide, rng: np.random.Generator, x: float, y: float, radius: float) -> Drawn:
    """A small purple body with granules and a pale, uneven border. radius in pixels."""
    grid = Grid.around(x, y, radius * 1.7 + 2)
    turn, ratio = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0.6, 1.0))
    u, v = turned(grid.x, grid.y, turn)
    u, v = u * np.float32(ratio), v / np.float32(ratio)
    edge = (polar(u, v, np.asarray(radius * wavy(turns(), *waves(rng, 0.1, 2, 9)), np.float32)) - 1) * radius
    grain = slide.texture.cut(rng, *grid.shape, max(0.16 * slide.px_per_um, 0.6))
    inner = cover(edge + 0.3 * radius, 0.7 * radius)
    strength = rng.uniform(0.45, 1.0)
    granules = np.clip(0.55 + 0.45 * grain, 0, 1.6) * inner * strength
    density = {"purple": np.asarray(granules, np.float32), "pink": cover(edge, 1.6) * np.float32(0.5)}
    cell = cover(edge) >= 0.5
    told = {"diameter_um": diameter(cell, slide.px_per_um), "circularity": circularity(cell)}
    return Drawn("Platelet", grid.left, grid.top, density, cell, None, told)


def clump(slide: Slide, rng: np.random.Generator, x: float, y: float) -> Drawn:
    """Platelets that stick together so that they cannot be counted."""
    radius = 0.5 * between(rng, (1.9, 2.9)) * slide.px_per_um
    n = int(rng.integers(6, 18))
    spread = radius * np.sqrt(n) * 0.75
    grid = Grid.around(x, y, spread * 2.5 + 4 * radius)
    height, width = grid.shape
    sums = {"purple": np.zeros(grid.shape, np.float32), "pink": np.zeros(grid.shape, np.float32)}
    cell = np.zeros(grid.shape, bool)
    for _ in range(n):
        px, py = x + rng.normal(0, spread * 0.55), y + rng.normal(0, spread * 0.55)
        one = platelet(slide, rng, px, py, radius * rng.uniform(0.7, 1.3))
        x0, y0 = one.left - grid.left, one.top - grid.top
        h, w = one.cell.shape
        if x0 < 0 or y0 < 0 or x0 + w > width or y0 + h > height:
            continue
        for dye, amount in one.density.items():
            sums[dye][y0 : y0 + h, x0 : x0 + w] += amount
        cell[y0 : y0 + h, x0 : x0 + w] |= one.cell
    # What sticks together is one body: gaps between its parts belong to it.
    gap = 2 * max(1, round(0.5 * radius)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
    whole = cv2.morphologyEx(cell.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    number, parts = cv2.connectedComponents(whole)
    largest = 1 + int(np.argmax([np.count_nonzero(parts == i) for i in range(1, number)])) if number > 1 else 1
    body = parts == largest
    sums = {dye: np.minimum(amount * body, 1.4).astype(np.float32) for dye, amount in sums.items()}
    told = {"diameter_um": diameter(body, slide.px_per_um), "circularity": circularity(body)}
    return Drawn("Platelet clump", grid.left, grid.top, sums, body, None, told)


def precipitate(slide: Slide, rng: np.random.Generator, x: float, y: float) -> Drawn:
    """A deposit of stain: sharp dark specks close together."""
    reach = rng.uniform(0.8, 3.0) * slide.px_per_um
    grid = Grid.around(x, y, reach * 1.6 + 3)
    dark = np.zeros(grid.shape, np.float32)
    for _ in range(int(rng.integers(3, 14))):
        dx, dy = rng.normal(0, 0.45 * reach, 2)
        size = rng.uniform(0.12, 0.4) * slide.px_per_um
        dark = np.maximum(dark, cover(np.hypot(grid.x - dx, grid.y - dy) - size, 1.2))
    near = cv2.dilate(dark, np.ones((3, 3), np.uint8))
    cell = near >= 0.3
    density = {"black": np.asarray(dark * rng.uniform(0.7, 1.3), np.float32)}
    return Drawn("Artefact", grid.left, grid.top, density, cell, None, {"diameter_um": diameter(cell, slide.px_per_um)})


def dust(slide: Slide, rng: np.random.Generator, x: float, y: float) -> Drawn:
    """A grain above or below the plane of the cells: a blurred grey spot."""
    radius = rng.uniform(0.5, 1.8) * slide.px_per_um
    grid = Grid.around(x, y, radius * 2.6 + 3)
    edge = np.hypot(grid.x, grid.y * rng.uniform(0.7, 1.3)) - radius
    amount = cover(edge, radius * rng.uniform(0.6, 1.4)) * np.float32(rng.uniform(0.2, 0.7))
    part = np.asarray(amount * 0.5, np.float32)
    return Drawn(
        "Artefact", grid.left, grid.top, {"red": part, "blue": part}, cover(edge) >= 0.5, None,
        {"diameter_um": diameter(cover(edge) >= 0.5, slide.px_per_um)},
    )  # fmt: skip


def scratch(slide: Slide, rng: np.random.Generator, width: int, height: int) -> tuple[Floats, float]:
    """Part of the stain that a scratch across the field took away, (h, w), and how much of it."""
    x0, x1 = rng.uniform(0, width, 2)
    y = np.arange(height, dtype=np.float32)[:, None] + np.zeros((1, width), np.float32)
    x = np.arange(width, dtype=np.float32)[None] + np.zeros((height, 1), np.float32)
    edge = capsule(x, y, (x0, 0.0), (x1, float(height)), rng.uniform(0.15, 0.5) * slide.px_per_um)
    return cover(edge, 2.0), float(rng.uniform(0.5, 0.95))
