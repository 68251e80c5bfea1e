"""How the classical detector sees a field: stain, nuclei, white cells grown from them, red cells, platelets.

Every length is in diameters of the field's own red cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Key

from detect.config import Settings
from detect.images import segment
from detect.images.segment import Floats, Labels, Mask, Stain
from detect.types import Image

WHITE, RED, PLATELET = range(3)


class ClassicalSettings(Settings):
    """Lengths are in red cell diameters, areas in red cell areas, unless another unit is told. Chosen on the parts
    train and dev of `txl-pbc-release` and on the even-numbered pictures of wbc-masks.

    Attributes:
        method: how nuclei are told by their colour.
        look: pixels of the longer side of the copy on which the red cells are measured.
        work: pixels of a red cell's diameter in the copy on which cells are found; a field is never enlarged.
        most_pixels: pixels of that copy at most, so that a huge field ends in time.
        nucleus_least: least basophilia (optical density) of a nucleus; keeps a field without any from having some.
        body_part: of Otsu's threshold between ground and cells, as cells are pale at the rim.
        body_least, body_most: limits of that threshold, part of the green light taken away.
        lobes_apart: lobes of one nucleus are nearer to each other than this.
        nucleus_area: least area of the nucleus of a white cell.
        reach: a white cell ends at this distance from its nucleus.
        rim: cytoplasm taken for granted around a nucleus.
        neck: half the width of the narrowest bridge that holds a white cell together.
        near_depth, alike: a red cell against a white one is at least so deep, and its colour differs from that of
            other red cells by at most so many of their deviations.
        seed_apart, seed_depth, seed_smooth: of the markers of red cells: distance, depth in the body, smoothing.
        votes: weight of radial symmetry against depth in the markers.
        red_area, red_most: least and greatest area of a red cell; one cut by the border may be small.
        outline_least: a covered red cell is completed where this part of its outline is seen.
        swell: widening of each white and red cell: annotators box the soft rim.
        platelet_hat: greatest half width of a platelet. platelet_contrast: its basophilia above the surroundings.
        platelet_least, platelet_most: areas. platelet_swell: as `swell`.
        nms_iou: of two boxes of one class that overlap more, the better is kept.
        single_side: pixels of the longer side of the copy on which a single white cell is outlined.
        single_body_part, single_rim, single_neck: in place of the above there. single_red: red cell diameters in
            the diameter of a disc as large as the nucleus.
    """

    method: Literal["otsu", "kmeans"] = "otsu"
    look: int = Key(320, ge=64)
    work: float = Key(40, ge=16)
    most_pixels: float = Key(4e6, ge=1e4)
    max_detections: int = Key(1000, ge=1)
    nucleus_least: float = Key(0.3, gt=0)
    body_part: float = Key(0.75, gt=0)
    body_least: float = Key(0.04, gt=0, lt=1)
    body_most: float = Key(0.25, gt=0, lt=1)
    lobes_apart: float = Key(0.36, ge=0)
    nucleus_area: float = Key(0.25, gt=0)
    reach: float = Key(1.0, gt=0)
    rim: float = Key(0.12, ge=0)
    neck: float = Key(0.25, ge=0)
    near_depth: float = Key(0.12, ge=0)
    alike: float = Key(1.4, gt=0)
    seed_apart: float = Key(0.2, gt=0)
    seed_depth: float = Key(0.14, gt=0)
    seed_smooth: float = Key(0.05, ge=0)
    votes: float = Key(5.0, ge=0)
    red_area: float = Key(0.1, gt=0)
    red_most: float = Key(4.0, gt=0)
    outline_least: float = Key(0.5, ge=0, le=1)
    swell: float = Key(0.04, ge=0)
    platelet_hat: float = Key(0.3, gt=0)
    platelet_contrast: float = Key(0.15, gt=0)
    platelet_least: float = Key(0.02, gt=0)
    platelet_most: float = Key(0.35, gt=0)
    platelet_swell: float = Key(0.06, ge=0)
    nms_iou: float = Key(0.7, gt=0, le=1)
    single_side: int = Key(200, ge=32)
    single_body_part: float = Key(0.5, gt=0)
    single_rim: float = Key(0.24, ge=0)
    single_neck: float = Key(0.2, ge=0)
    single_red: float = Key(1.2, gt=0)


@dataclass(frozen=True, eq=False)
class Scene:
    """A field at working size. `unit` is the red cell diameter in its pixels; label 0 is nothing."""

    stain: Stain
    unit: float
    body: Mask
    nuclei: Labels
    white: Labels

    @property
    def cell(self) -> float:
        """Area of a red cell, square pixels."""
        return float(np.pi / 4 * self.unit**2)


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell at working size: `inside` is its mask from (x, y) on, its true pixels touching all four sides."""

    label: int
    score: float
    x: int
    y: int
    inside: Mask


def stain_of(pixels: Image, settings: ClassicalSettings, body_part: float) -> Stain:
    """What is stained, and how, of a field, uint8 RGB (h, w, 3); body_part: least stain of a cell, of Otsu's."""
    return segment.stain(
        pixels,
        settings.method,
        nucleus_least=settings.nucleus_least,
        body_part=body_part,
        body_least=settings.body_least,
        body_most=settings.body_most,
    )


def scene_of(stain: Stain, unit: float, settings: ClassicalSettings, rim: float, neck: float) -> Scene:
    """A stain with its bodies, nuclei and white cells; `rim` and `neck` as in the settings."""
    pallor = 0.35 * np.pi / 4 * unit**2
    body = segment.fill_holes(segment.morph(stain.body, cv2.MORPH_CLOSE, 0.05 * unit), pallor)
    body = segment.morph(body, cv2.MORPH_OPEN, 0.06 * unit) | stain.nucleus
    nuclei = _nuclei(stain, body, unit, settings)
    bare = Scene(stain, unit, body, nuclei, np.zeros_like(nuclei))
    white = _grown(bare, settings, rim, neck) if nuclei.any() else bare.white
    return Scene(stain, unit, body, nuclei, white)


def _nuclei(stain: Stain, body: Mask, unit: float, settings: ClassicalSettings) -> Labels:
    """Nuclei of white cells, lobes of one cell together."""
    clean = segment.morph(stain.nucleus, cv2.MORPH_OPEN, 0.04 * unit)
    near, _ = segment.components(segment.morph(clean, cv2.MORPH_DILATE, settings.lobes_apart / 2 * unit) & body)
    nuclei = np.where(clean, near, 0)
    areas = np.bincount(nuclei.ravel(), minlength=int(near.max()) + 1)
    areas[0] = 0
    large = areas >= settings.nucleus_area * np.pi / 4 * unit**2
    number = np.where(large, np.cumsum(large), 0).astype(np.int32)
    return np.asarray(number[nuclei], np.int32)


def _grown(scene: Scene, settings: ClassicalSettings, rim: float, neck: float) -> Labels:
    """White cells, each grown from its nucleus up to the ground, a red cell, or its reach."""
    unit, body, nuclei = scene.unit, scene.body, scene.nuclei
    count = int(nuclei.max())
    away = cv2.distanceTransform((nuclei == 0).astype(np.uint8), cv2.DIST_L2, 5)
    red = segment.morph(_red_beside(scene, away, settings), cv2.MORPH_DILATE, 0.2 * unit) & body & (away > 0.1 * unit)
    certain = cv2.dilate(nuclei.astype(np.float32), segment.disc(rim * unit)).astype(np.int32)
    seeds = np.where(body & ~red, certain, 0)
    seeds[red | (body & (away > settings.reach * unit))] = count + 1
    seeds[nuclei > 0] = nuclei[nuclei > 0]
    flooded = segment.flood(scene.stain.density / 2.5, seeds, body)
    white = np.zeros_like(nuclei)
    for i, (x, y, w, h) in segment.windows(np.where(flooded <= count, flooded, 0), count):
        near = segment.around(x, y, w, h, round(neck * unit) + 2, nuclei)
        cell = segment.morph(flooded[near] == i, cv2.MORPH_OPEN, neck * unit) | (nuclei[near] == i)
        parts, stats = segment.components(segment.fill_holes(cell, scene.cell))
        white[near][parts == 1 + int(stats[1:, 4].argmax())] = i
    return white


def _seeds(inside: Mask, surface: Floats, scene: Scene, settings: ClassicalSettings) -> Mask:
    apart, least = settings.seed_apart * scene.unit, settings.seed_depth * scene.unit
    return segment.peaks(np.where(inside, surface, 0), apart, least)


def _depth(inside: Mask, scene: Scene, settings: ClassicalSettings) -> Floats:
    soft = max(0.5, settings.seed_smooth * scene.unit)
    return np.asarray(cv2.GaussianBlur(segment.depth(inside), (0, 0), soft), np.float32)


def _red_beside(scene: Scene, away: Floats, settings: ClassicalSettings) -> Mask:
    """Middles of red cells. Within reach of a nucleus only those count that look like the others of the field.

    Args:
        away: distance to the nearest nucleus, pixels.
    """
    unit, reach = scene.unit, settings.reach * scene.unit
    strange = _strangeness(scene, away > reach, settings)
    whole = _depth(scene.body, scene, settings)
    seeds = _seeds(scene.body, whole, scene, settings)
    # The middle of a white cell is deeper than any red one; a rim of cytoplasm has no middle of its own.
    red = seeds & (away > settings.rim / 2 * unit) & ((away > reach) | ((whole <= 0.62 * unit) & (strange <= 3)))
    outer = scene.body & (away > settings.rim * unit) & (away < reach + unit / 2)
    rest = _depth(outer, scene, settings)
    beside = _seeds(outer, rest, scene, settings) & (rest > settings.near_depth * unit) & (away < reach)
    return np.asarray(red | (beside & (strange <= settings.alike)))


def _strangeness(scene: Scene, far: Mask, settings: ClassicalSettings) -> Floats:
    """How far the colour around each pixel is from that of the red cells of the field, in robust deviations."""
    stain = scene.stain
    seen = (stain.body & ~stain.nucleus).astype(np.float32)
    sigma = 0.15 * scene.unit
    weight = cv2.GaussianBlur(seen, (0, 0), sigma) + 1e-3
    colours = np.dstack([stain.purple, 1 - np.exp(-stain.density)]) * seen[..., None]
    local = cv2.GaussianBlur(colours, (0, 0), sigma) / weight[..., None]
    known = local[far & _seeds(scene.body, _depth(scene.body, scene, settings), scene, settings)]
    if len(known) < 1:
        return np.full(far.shape, np.inf, np.float32)
    middle = np.median(known, axis=0)
    spread = 1.48 * np.median(np.abs(known - middle), axis=0) + np.array([0.06, 0.03, 0.03, 0.03], np.float32)
    return np.asarray((np.abs(local - middle) / spread).max(axis=-1), np.float32)


def white_cells(scene: Scene) -> list[Cell]:
    """Score by size and basophilia of the nucleus."""
    count = int(scene.nuclei.max())
    areas = np.bincount(scene.nuclei.ravel(), minlength=count + 1)
    purple = np.bincount(scene.nuclei.ravel(), scene.stain.purple.ravel(), minlength=count + 1)
    cells = []
    for i, (x, y, w, h) in segment.windows(scene.white, count):
        sure = min(1.0, areas[i] / scene.cell) * min(1.0, purple[i] / max(1, areas[i]))
        cells.append(Cell(WHITE, float(0.3 + 0.7 * max(0.0, sure)), x, y, scene.white[y : y + h, x : x + w] == i))
    return cells


def red_cells(scene: Scene, settings: ClassicalSettings) -> list[Cell]:
    unit = scene.unit
    rest = scene.body & (scene.white == 0)
    surface = _depth(rest, scene, settings)
    votes = segment.roundness(segment.darkness(scene.stain.density), 0.45 * unit)
    deep = rest & (surface > settings.seed_depth * unit)
    middle = np.where(deep, surface / (0.45 * unit) + settings.votes * votes, 0)
    tops = segment.peaks(middle, settings.seed_apart * unit, 1e-3)
    seeds, stats = segment.components(segment.morph(tops, cv2.MORPH_DILATE, 1))
    count = len(stats) - 1
    if count == 0:
        return []
    best = np.zeros(count + 1, np.float32)
    np.maximum.at(best, seeds.ravel(), votes.ravel())
    regions = segment.immerse(surface, seeds, rest)
    cells = []
    for i, window in segment.windows(regions, count):
        cell = _red_cell(scene, regions, i, window, float(best[i]), settings)
        if cell is not None:
            cells.append(cell)
    return cells


def _red_cell(
    scene: Scene, regions: Labels, i: int, window: tuple[int, int, int, int], votes: float, settings: ClassicalSettings
) -> Cell | None:
    """One region as a cell, completed where a neighbour covers it; None if it is too small or too large."""
    x, y, w, h = window
    height, width = regions.shape
    area = (regions[y : y + h, x : x + w] == i).sum() / scene.cell
    if not settings.red_area <= area <= settings.red_most:
        return None
    cut = x == 0 or y == 0 or x + w == width or y + h == height
    pad = int(np.ceil(0.8 * scene.unit))
    x0, y0, x1, y1 = max(0, x - pad), max(0, y - pad), min(width, x + w + pad), min(height, y + h + pad)
    near, body = regions[y0:y1, x0:x1], scene.body[y0:y1, x0:x1]
    inside = near == i
    outline = max(cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)[:, 0]
    own = _own_outline(outline, (body & ~inside))
    solid = inside.sum() / max(1.0, cv2.contourArea(cv2.convexHull(outline)))
    score = _red_score(area, float(solid), float(own.mean()), votes, cut)
    if not cut and settings.outline_least < own.mean() < 0.97:
        inside = _completed(outline[own], inside, body, scene.unit)
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    cell = inside[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    return Cell(RED, score, x0 + int(xs[0]), y0 + int(ys[0]), cell)


def _own_outline(outline: NDArray[np.int32], others: Mask) -> Mask:
    """Which points of an outline, (n, 2) x and y, border on the ground rather than on another cell, (n,)."""
    wide = cv2.dilate(others.astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.asarray(wide[outline[:, 1], outline[:, 0]] == 0)


def _completed(points: NDArray[np.int32], inside: Mask, body: Mask, unit: float) -> Mask:
    """The region as the ellipse through its free outline, (n, 2), if that is a red cell and covers the region."""
    if len(points) < 12:
        return inside
    middle, axes, turn = cv2.fitEllipseDirect(points.astype(np.float32).reshape(-1, 1, 2))
    if not (0.5 * unit < min(axes) and max(axes) < 1.5 * unit):
        return inside
    drawn = np.zeros(inside.shape, np.uint8)
    cv2.ellipse(drawn, (middle, axes, turn), 1, -1)
    ellipse = drawn > 0
    if not ellipse.any() or body[ellipse].mean() < 0.9 or ellipse[inside].mean() < 0.85:
        return inside
    return np.asarray(ellipse & body)


def _red_score(area: float, solid: float, own: float, votes: float, cut: bool) -> float:
    """Likeness to a red cell: size, convexity, part of the outline seen, radial symmetry. Cut cells may be small."""
    size = np.exp(-2 * np.log(max(area, 1.0) if cut else area) ** 2)
    if cut:
        size *= min(1.0, 0.5 + area / 1.2)
    convex = float(np.clip((solid - 0.7) / 0.3, 0, 1))
    likeness = (0.5 * size + 0.3 * convex + 0.2 * own + 0.3 * min(1.0, votes / 1.2)) / 1.3
    return float(np.clip(likeness, 0.01, 1))


def platelets(scene: Scene, settings: ClassicalSettings) -> list[Cell]:
    """Small purple bodies outside white cells, also upon red ones: what the opening of the basophilia takes away."""
    unit = scene.unit
    purple = np.clip(scene.stain.purple, 0, 1.5)
    hat = cv2.morphologyEx(purple, cv2.MORPH_TOPHAT, segment.disc(settings.platelet_hat * unit))
    free = ~segment.morph(scene.white > 0, cv2.MORPH_DILATE, 0.06 * unit)
    small = segment.morph((hat > settings.platelet_contrast) & free, cv2.MORPH_OPEN, 0.05 * unit)
    labels, stats = segment.components(small)
    grow = round(settings.platelet_swell * unit)
    height, width = small.shape
    cells = []
    for i, (x, y, w, h, area) in enumerate(stats.tolist()):
        part = area / scene.cell
        if i == 0 or not settings.platelet_least <= part <= settings.platelet_most or max(w, h) > 0.8 * unit:
            continue
        x0, y0, x1, y1 = max(0, x - grow), max(0, y - grow), min(width, x + w + grow), min(height, y + h + grow)
        own = labels[y0:y1, x0:x1] == i
        round_ = min(1.0, area / (np.pi / 4 * max(w, h) ** 2) + 0.2)
        score = 0.8 * float(hat[y0:y1, x0:x1][own].mean()) * round_ * min(1.0, part / 0.06)
        inside = segment.morph(own, cv2.MORPH_DILATE, grow)
        cells.append(Cell(PLATELET, float(np.clip(score, 0.01, 1)), x0, y0, inside))
    return cells


def enlarged(
    cell: Cell, scale_x: float, scale_y: float, swell: float, width: int, height: int
) -> tuple[int, int, Mask]:
    """A cell in pixels of the field: x, y and its mask, cut tightly. `swell` is in pixels of the field."""
    rows, columns = cell.inside.shape
    pad = int(np.ceil(swell)) + 1
    x0, y0 = max(0, int(cell.x * scale_x) - pad), max(0, int(cell.y * scale_y) - pad)
    x1 = min(width, int(np.ceil((cell.x + columns) * scale_x)) + pad)
    y1 = min(height, int(np.ceil((cell.y + rows) * scale_y)) + pad)
    if x1 <= x0 or y1 <= y0:
        return 0, 0, np.zeros((0, 0), bool)
    # One repeated pixel around, so that a cell at the border of the field ends at that border.
    soft = cv2.copyMakeBorder(cell.inside.astype(np.float32), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    shift_x, shift_y = (x0 + 0.5) / scale_x + 0.5 - cell.x, (y0 + 0.5) / scale_y + 0.5 - cell.y
    back = np.array([[1 / scale_x, 0, shift_x], [0, 1 / scale_y, shift_y]], np.float64)
    large = cv2.warpAffine(soft, back, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = large >= 0.5
    if swell > 0:
        inside = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) <= swell
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(ys) == 0:
        return 0, 0, np.zeros((0, 0), bool)
    return x0 + int(xs[0]), y0 + int(ys[0]), inside[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
