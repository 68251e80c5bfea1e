"""The form of a white cell, measured on its parts, and what FAB's criteria make of it, in words.

Lengths and areas are in micrometres where the scale is known, else in pixels; names say which. Shares and ratios have
no unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.classify.parts import CYTOPLASM, Parts
from detect.images import segment
from detect.taxonomy import taxonomy

Mask = NDArray[np.bool_]

# Working ranges and house settings of GUIDE.md, section 4: what decides here is written there.
SCANTY = 0.20  # cytoplasm as a part of the cell's area; from here on it is an L2 feature
LARGE_UM = 14.0  # over twice a small lymphocyte's 7 um
IRREGULAR = 0.93  # solidity of the nucleus; below, its outline has clefts or dents
DEEP_BLUE = 0.33  # basophilia of the cytoplasm from which it is very deep
VACUOLATED = 3  # vacuoles

_FINE = 0.012  # of the cell's diameter: the grain of chromatin and granules is a few times this
_LOBE = 0.55  # of the nucleus's half width: deeper necks part lobes
_EDGE = 0.06  # of the cell's diameter: so near to an edge, detail is of the edge
_TINY = 1e-6


def measure(parts: Parts, um_per_px: float | None = None) -> dict[str, float]:
    """Attributes of one cell, by name; none where no cell was found in its box.

    Args:
        um_per_px: micrometres a pixel of the field, where the scale is known.

    Returns:
        `area`, `nucleus area` (um2 or px2), `diameter` (of the circle of the same area), `N:C` (nucleus to cytoplasm),
        `cytoplasm share` (of the cell's area), `nucleus roundness` (4 pi area / perimeter squared; 1 is a circle),
        `nucleus solidity` (area / area of its hull), `nucleus eccentricity` (of its ellipse), `lobes`,
        `chromatin texture` and `granularity` (spread of the fine detail of optical density, of nucleus and
        cytoplasm), `basophilia` (of the cytoplasm: optical density of red light, which blue dye takes),
        `cytoplasm red`, `green`, `blue` (0 to 255), `vacuoles`.
    """
    cell, nucleus = parts.cell, parts.nucleus
    area = float(cell.sum())
    if area < 1:
        return {}
    unit, square, scale = (" um", " um2", um_per_px) if um_per_px is not None else (" px", " px2", 1.0)
    inner = float(nucleus.sum())
    diameter = float(np.sqrt(4 * area / np.pi))
    out = {f"area{square}": area * scale**2, f"diameter{unit}": diameter * scale}
    density = segment.optical_density(parts.pixels)
    fine = _detail(density.mean(axis=2), diameter)
    cytoplasm = parts.labels == CYTOPLASM
    out |= _cytoplasm(parts, cytoplasm, density, fine, diameter, area)
    if inner < 1:
        return out
    out[f"nucleus area{square}"] = inner * scale**2
    if area > inner:
        out["N:C"] = inner / (area - inner)
    out |= {"cytoplasm share": 1 - inner / area, **shape(nucleus)}
    core = segment.morph(nucleus, cv2.MORPH_ERODE, _EDGE * diameter)
    out["chromatin texture"] = float(fine[core if core.any() else nucleus].std())
    return out


def shape(nucleus: Mask) -> dict[str, float]:
    """Form of the nucleus, of all its pieces together."""
    outlines, _ = cv2.findContours(nucleus.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    area = float(nucleus.sum())
    around = sum(_length(o[:, 0]) for o in outlines)
    points = np.concatenate(outlines)
    hull = cv2.convexHull(points)[:, 0].astype(np.int64)
    steps = np.gcd(*np.abs(hull - np.roll(hull, 1, axis=0)).T).sum()
    within = cv2.contourArea(hull.astype(np.int32)) + steps / 2 + 1  # pixels in the hull (Pick's theorem)
    return {
        "nucleus roundness": float(min(1.0, 4 * np.pi * area / max(around + np.pi, _TINY) ** 2)),
        "nucleus solidity": float(min(1.0, area / within)),
        "nucleus eccentricity": _eccentricity(nucleus),
        "lobes": float(lobes(nucleus)),
    }


def _length(outline: NDArray[np.int32]) -> float:
    """Length of a closed outline of neighbouring pixels, (n, 2), without the excess of its stairs.

    Vossepoel and Smeulders, Computer Graphics and Image Processing 20 (1982): 347-364.
    """
    if len(outline) < 2:
        return 0.0
    steps = np.roll(outline, -1, axis=0) - outline
    odd = np.abs(steps).sum(axis=1) == 2  # to a diagonal neighbour
    corners = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
    return float(0.980 * (~odd).sum() + 1.406 * odd.sum() - 0.091 * corners.sum())


def lobes(nucleus: Mask) -> int:
    """Pieces that the nucleus falls into when its necks are cut."""
    padded = np.pad(nucleus, 1)
    deep = np.asarray(cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, 5), np.float32)
    deepest = float(deep.max())
    if deepest < 1:
        return 1
    pieces, stats = segment.components(deep > max(1.0, _LOBE * deepest))
    tops = [float(deep[pieces == i].max()) for i in range(1, len(stats))]
    return max(1, sum(top > 0.5 * deepest for top in tops))


def _eccentricity(mask: Mask) -> float:
    y, x = np.nonzero(mask)
    if len(x) < 3:
        return 0.0
    spread = np.linalg.eigvalsh(np.cov(np.stack([x, y]).astype(np.float64)) + np.eye(2) / 12)
    return float(np.sqrt(max(0.0, 1 - spread[0] / spread[1])))


def _detail(density: NDArray[np.floating], diameter: float) -> NDArray[np.float32]:
    """What is finer than a tenth of the cell and coarser than grain of the picture: a difference of Gaussians."""
    small = max(0.6, _FINE * diameter)
    wide = np.ascontiguousarray(density, np.float32)
    low, high = (cv2.GaussianBlur(wide, (0, 0), s, borderType=cv2.BORDER_REPLICATE) for s in (small, 4 * small))
    return np.asarray(low - high, np.float32)


def _cytoplasm(
    parts: Parts, cytoplasm: Mask, density: NDArray[np.float32], fine: NDArray[np.float32], diameter: float, area: float
) -> dict[str, float]:
    """Colour, granules and vacuoles, away from the nucleus's and the cell's edge where there is room."""
    inside = segment.morph(cytoplasm, cv2.MORPH_ERODE, _EDGE * diameter)
    seen = inside if inside.sum() >= 20 else cytoplasm
    if not seen.any():
        return {}
    red, green, blue = (float(np.median(parts.pixels[..., c][seen])) for c in range(3))
    taken = np.median(density[seen], axis=0)
    return {
        "basophilia": float(max(0.0, taken[0])),
        "cytoplasm red": red,
        "cytoplasm green": green,
        "cytoplasm blue": blue,
        "granularity": float(fine[seen].std()),
        "vacuoles": float(_vacuoles(parts, cytoplasm, density, diameter)),
    }


def _vacuoles(parts: Parts, cytoplasm: Mask, density: NDArray[np.float32], diameter: float) -> int:
    """Round pale spots within the cytoplasm: lighter than it by half, a fortieth to a fifth of the cell wide."""
    mean = density.mean(axis=2)
    usual = float(np.median(mean[cytoplasm]))
    if usual < 0.08:  # a cytoplasm as pale as the ground shows none
        return 0
    deep = segment.morph(parts.cell, cv2.MORPH_ERODE, 0.04 * diameter)
    pale = (mean < 0.6 * usual) & cytoplasm & deep
    _, stats = segment.components(pale)
    found = 0
    for _, _, w, h, size in stats[1:].tolist():
        wide = max(w, h) / diameter
        found += 0.025 <= wide <= 0.2 and min(w, h) >= 0.5 * max(w, h) and size >= 0.5 * w * h
    return found


def fab_features(told: Mapping[str, float]) -> dict[str, bool | None]:
    """What of FAB's criteria a cell shows (GUIDE.md, section 4); None where it was not measured.

    Nucleoli are not measured.
    """
    diameter = told.get("diameter um")
    share, solid = told.get("cytoplasm share"), told.get("nucleus solidity")
    return {
        "large": None if diameter is None else diameter >= LARGE_UM,
        "moderate cytoplasm": None if share is None else share >= SCANTY,
        "irregular nucleus": None if solid is None else solid < IRREGULAR,
        "very deep basophilia": None if "basophilia" not in told else told["basophilia"] >= DEEP_BLUE,
        "vacuoles": None if "vacuoles" not in told else told["vacuoles"] >= VACUOLATED,
    }


def criteria(kind: str | None, told: Mapping[str, float]) -> str:
    """FAB's criteria in words of a lymphoblast; empty for any other cell."""
    return fab_words(told) if kind is not None and taxonomy().is_a(kind, "Lymphoblast") else ""


def fab_words(told: Mapping[str, float]) -> str:
    """FAB's criteria of one cell in words, such as "small, regular nucleus, scanty cytoplasm: L1-like".

    The house rule for one cell of GUIDE.md. Nucleoli are not measured, so where they, or a size that is not known,
    would decide, that is said. Empty where the cell's parts were not found.
    """
    seen = fab_features(told)
    size, room, dents = seen["large"], seen["moderate cytoplasm"], seen["irregular nucleus"]
    if room is None or dents is None:
        return ""
    words = [] if size is None else ["large" if size else "small"]
    words += ["irregular nucleus" if dents else "regular nucleus"]
    words += ["moderate cytoplasm" if room else "scanty cytoplasm"]
    words += [name for name in ("very deep basophilia", "vacuoles") if seen[name]]
    said = ", ".join(words)
    if not dents and seen["very deep basophilia"] and seen["vacuoles"]:
        return f"{said}: L3-like if nucleoli are prominent"
    shown = sum(bool(seen[name]) for name in ("large", "moderate cytoplasm", "irregular nucleus"))
    unknown = 2 if size is None else 1  # the nucleoli, and perhaps the size
    if shown >= 2:
        return f"{said}: L2-like"
    return (
        f"{said}: L1-like" if shown + unknown < 2 else f"{said}: L1 or L2, as nucleoli{' and size' * (unknown - 1)} say"
    )
