"""Pixels of a stained smear to regions: optical density, nucleus, cell body, and instances, with no training.

Every length is given in red cell diameters, so one setting serves any magnification. The chain is the usual one of
the literature: colour separation by Otsu's threshold (Otsu, IEEE Trans Syst Man Cybern 9, 1979) or k-means, watershed
from markers (Meyer, 1992), and splitting of touching cells by the distance transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.types import Image

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Labels = NDArray[np.int32]
Method = Literal["otsu", "kmeans"]

OVAL = 0.82  # the circle inside a red cell is narrower than the mean side of its box: cells are oval and overlap
_SOFT = 1.0  # pixels; grain below this size is no structure
_DENSEST = 2.5  # optical density; a darker pixel says no more
_SEED = 1


@dataclass(frozen=True, eq=False)
class Stain:
    """The stain of each pixel, (h, w) each.

    Attributes:
        density: float32 (h, w, 3), natural optical density of red, green, blue; 0 is the empty ground.
        purple: basophilia: density of thiazine dyes beyond what haemoglobin or eosin would show.
        nucleus: chromatin, and basophilic granules.
        body: anything that is not ground, nuclei included.
    """

    density: Floats
    purple: Floats
    nucleus: Mask
    body: Mask
    nucleus_limit: float
    body_limit: float


def disc(radius: float) -> NDArray[np.uint8]:
    """A round structuring element."""
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def morph(mask: Mask, operation: int, radius: float) -> Mask:
    """A morphological operation with a disc, radius in pixels; below half a pixel nothing is done."""
    if radius < 0.5:
        return mask
    pad = round(radius) + 1
    # Border pixels repeat outwards: a cell cut by the border is not eaten from that side.
    wide = cv2.copyMakeBorder(mask.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.morphologyEx(wide, operation, disc(radius))[pad:-pad, pad:-pad] > 0)


def otsu(values: Floats, low: float, high: float) -> float:
    """Otsu's threshold of the values clipped to [low, high]; `low` where there are none."""
    if values.size == 0:
        return low
    levels = np.clip((values.reshape(-1, 1) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    cut, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return float(low + (cut + 0.5) / 255 * (high - low))


def ground(pixels: Floats) -> Floats:
    """The colour of the empty ground, float32 (3,): the commonest among the bright pixels (of the green channel)."""
    green = np.clip(pixels[..., 1], 0, 255).astype(np.uint8)
    cut, _ = cv2.threshold(green, 0, 255, cv2.THRESH_OTSU)
    counts = np.bincount(green[green > cut], minlength=256).astype(np.float32)
    smooth = cv2.GaussianBlur(counts[None], (0, 0), 2, borderType=cv2.BORDER_CONSTANT)[0]
    risen = np.append(smooth[1:], 0)
    tops = (smooth >= np.append(0, smooth[:-1])) & (smooth > risen) & (smooth > 0.25 * smooth.max())
    if not tops.any():
        return np.full(3, 255, np.float32)
    near = np.abs(green.astype(np.int16) - int(np.flatnonzero(tops)[-1])) <= 4
    if not near.any():
        return np.full(3, 255, np.float32)
    return np.asarray([np.median(pixels[..., c][near]) for c in range(3)], np.float32)


def optical_density(pixels: Image) -> Floats:
    """Natural optical density against the ground, float32 (h, w, 3)."""
    soft = cv2.GaussianBlur(pixels, (0, 0), _SOFT).astype(np.float32) + 1
    return np.asarray(np.clip(-np.log(soft / ground(soft)), -0.3, _DENSEST), np.float32)


def basophilia(density: Floats) -> Floats:
    """How blue-purple each pixel is: near 0 for haemoglobin, which takes as much blue as green, and for the ground."""
    return np.asarray(density[..., 1] + 0.5 * density[..., 0] - 1.5 * density[..., 2], np.float32)


def darkness(density: Floats) -> Floats:
    """Part of the green light that a pixel takes away, 0 to 1."""
    return np.asarray(1 - np.exp(-np.clip(density[..., 1], 0, None)), np.float32)


def stain(
    pixels: Image, method: Method, *, nucleus_least: float, body_part: float, body_least: float, body_most: float
) -> Stain:
    """Ground, cell body and nucleus of a field, uint8 RGB (h, w, 3)."""
    density = optical_density(pixels)
    purple, dark = basophilia(density), darkness(density)
    if method == "otsu":
        seen = dark > body_part * otsu(dark, 0, 1)
        limit = otsu(purple[seen], 0, _DENSEST)
    else:
        limit = _kmeans_limit(density)
    limit = max(limit, nucleus_least)
    nucleus = purple > limit
    cut = float(np.clip(body_part * otsu(dark[~morph(nucleus, cv2.MORPH_DILATE, 4)], 0, 0.6), body_least, body_most))
    return Stain(density, purple, nucleus, nucleus | (dark > cut), limit, cut)


def _kmeans_limit(density: Floats) -> float:
    """Basophilia halfway between the two most basophilic of three colour clusters: ground, red cell, nucleus."""
    points = density.reshape(-1, 3)
    points = points[:: max(1, len(points) // 20_000)]
    if len(points) < 3:
        return _DENSEST
    cv2.setRNGSeed(_SEED)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.005)
    _, _, centres = cv2.kmeans(points, 3, None, stop, 2, cv2.KMEANS_PP_CENTERS)
    ranked = np.sort(basophilia(centres[None])[0])
    return float((ranked[-1] + ranked[-2]) / 2)


def fill_holes(mask: Mask, most: float) -> Mask:
    """Round holes of up to `most` square pixels are filled: the pallor of a red cell, not the gap between cells."""
    filled = mask.astype(np.uint8)
    outlines, tree = cv2.findContours(filled.copy(), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for i, outline in enumerate(outlines):
        if tree[0][i][3] < 0:
            continue
        area, hull = cv2.contourArea(outline), cv2.contourArea(cv2.convexHull(outline))
        if area <= most and (hull < 30 or area > 0.85 * hull):
            cv2.drawContours(filled, outlines, i, 1, -1)
    return np.asarray(filled > 0)


def depth(mask: Mask) -> Floats:
    """Distance to the edge of the mask, pixels. The field is mirrored outside, so a cell cut in half is deep there."""
    pad = min(64, *mask.shape)
    wide = cv2.copyMakeBorder(mask.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REFLECT)
    return np.asarray(cv2.distanceTransform(wide, cv2.DIST_L2, 5)[pad:-pad, pad:-pad], np.float32)


def peaks(surface: Floats, apart: float, least: float) -> Mask:
    """Local maxima of a surface that are at least `apart` pixels from a higher one and above `least`."""
    return np.asarray((surface >= cv2.dilate(surface, disc(apart))) & (surface > least))


def red_diameter(found: Stain) -> float | None:
    """Diameter of the red cells, pixels: the area-weighted median of the circles inside the bodies; None if none.

    A granulometry by the distance transform. A white cell counts only as far as no red one is there.
    """
    red = found.body & ~morph(found.nucleus, cv2.MORPH_DILATE, 1)
    red = fill_holes(morph(red, cv2.MORPH_OPEN, 1), red.size * 0.02)
    surface = cv2.GaussianBlur(depth(red), (0, 0), 1)
    radii = np.sort(surface[peaks(surface, 3, 2)])
    if len(radii) == 0:
        return None
    weight = np.cumsum(radii**2)
    return float(2 * radii[np.searchsorted(weight, weight[-1] / 2)] / OVAL)


def components(mask: Mask) -> tuple[Labels, NDArray[np.int32]]:
    """Connected parts: labels (h, w), 0 outside, and per label x, y, width, height, area (the first is outside)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def flood(relief: Floats, seeds: Labels, inside: Mask) -> Labels:
    """Region growing by colour: OpenCV's watershed from seeds numbered 1 and up, within a mask; 0 outside and between.

    Args:
        relief: float32 (h, w, 3), 0 to 1; steps between neighbours hold the flood back.
    """
    picture = np.clip(relief * 155, 0, 155).astype(np.uint8)
    picture[~inside] = 255  # a wall: the flood of the outside comes in last, when nothing is left to take
    outside = int(seeds.max()) + 1
    markers = np.where(inside, seeds, outside).astype(np.int32)
    wide: Any = cv2.copyMakeBorder(markers, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=outside)
    picture = cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    labels = cv2.watershed(np.ascontiguousarray(picture), wide)[1:-1, 1:-1]
    return np.where((labels > 0) & (labels < outside), labels, 0).astype(np.int32)


def immerse(surface: Floats, seeds: Labels, inside: Mask) -> Labels:
    """Watershed by immersion (Vincent and Soille, IEEE TPAMI 13, 1991): seeds spread from the deep to the shallow."""
    labels = seeds.astype(np.float32)
    cross = np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)
    square = np.ones((3, 3), np.uint8)
    deepest = int(min(surface.max(), sum(surface.shape)))  # where nothing is ground, OpenCV's distance is without end
    for level in range(deepest, -1, -1):
        floor = inside & (surface > level) if level else inside
        for kernel in (cross, square):
            spread = cv2.dilate(labels, kernel)
            labels = np.where((labels == 0) & floor, spread, labels)
    return labels.astype(np.int32)


def roundness(relief: Floats, radius: float) -> Floats:
    """How much of a circle of about `radius` pixels, darker inside, lies around each pixel: 0 to about 1.

    Radial symmetry by the votes of edges (Loy and Zelinsky, IEEE TPAMI 25, 2003). An edge seen through an
    overlapping cell votes too, which the outline of a clump does not tell.
    """
    pad = int(np.ceil(1.3 * radius))
    wide = cv2.copyMakeBorder(cv2.GaussianBlur(relief, (0, 0), 1), pad, pad, pad, pad, cv2.BORDER_REFLECT)
    gx, gy = cv2.Sobel(wide, cv2.CV_32F, 1, 0), cv2.Sobel(wide, cv2.CV_32F, 0, 1)
    steep = cv2.magnitude(gx, gy)
    # In a sparse field the tenth steepest part is grain; a tenth of the steepest edge is not.
    strong = max(float(np.percentile(steep, 90)), 0.1 * float(steep.max()))
    if strong <= 0:
        return np.zeros_like(relief)
    ys, xs = np.nonzero(steep > 0.35 * strong)
    size = steep[ys, xs]
    ux, uy = gx[ys, xs] / size, gy[ys, xs] / size
    weight = np.minimum(size / strong, 1)
    height, width = wide.shape
    votes = np.zeros(wide.size, np.float32)
    for r in np.linspace(0.8, 1.15, 6) * radius:
        x, y = np.rint(xs + r * ux).astype(np.int64), np.rint(ys + r * uy).astype(np.int64)
        held = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        votes += np.bincount((y * width + x)[held], weight[held], minlength=wide.size).astype(np.float32)
    sigma = 0.2 * radius
    gathered = cv2.GaussianBlur(votes.reshape(height, width), (0, 0), sigma)
    return np.asarray(gathered[pad:-pad, pad:-pad] * (sigma / radius / 3), np.float32)


def shrunk(pixels: Image, scale: float) -> Image:
    """A smaller copy; a picture is never enlarged."""
    if scale >= 1:
        return pixels
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def windows(labels: Labels, count: int) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Label and x, y, width, height of each label that has pixels."""
    ys, xs = np.nonzero(labels)
    which = labels[ys, xs]
    low, high = np.full((2, count + 1), labels.size), np.full((2, count + 1), -1)
    for axis, values in enumerate((xs, ys)):
        np.minimum.at(low[axis], which, values)
        np.maximum.at(high[axis], which, values)
    sizes = high - low + 1
    there = np.flatnonzero(high[0] >= 0)
    return [(int(i), (int(low[0, i]), int(low[1, i]), int(sizes[0, i]), int(sizes[1, i]))) for i in there]


def around(x: int, y: int, w: int, h: int, pad: int, picture: Labels) -> tuple[slice, slice]:
    """Rows and columns of a window with `pad` pixels around, inside the picture."""
    return slice(max(0, y - pad), y + h + pad), slice(max(0, x - pad), x + w + pad)
