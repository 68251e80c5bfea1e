"""Features that are measured on a crop: texture, colour, shape, nucleus to cytoplasm.

`FEATURES` is the one table: a name to what measures it. Every measure takes a crop in the model's input size, uint8
RGB (s, s, 3), and the two masks that a colour threshold finds in it, and gives named numbers. scikit-image measures
texture and shape; run lengths, which it has none of, are counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.errors import ConfigError, MissingExtraError
from detect.images import segment
from detect.types import Image

try:
    from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
    from skimage.measure import label, moments_central, moments_hu, moments_normalized, regionprops
except ImportError:
    raise MissingExtraError("measured features", "train") from None

Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]
Doubles = NDArray[np.float64]

GREYS = 32  # levels of grey of co-occurrence
RUN_GREYS = 16  # and of runs
_NECK = 0.07  # of the crop's side: what is narrower joins two cells
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Crop:
    """A crop and what a colour threshold finds in it: pixels uint8 RGB (s, s, 3), masks (s, s)."""

    pixels: Image
    grey: Grey
    nucleus: Mask
    cell: Mask


def segmented(pixels: Image) -> Crop:
    """Nucleus and cell of a crop whose cell is in the middle.

    The nucleus is what is basophilic enough (Otsu) and touches the middle; the cell is what is stained around it,
    inside the circle that the crop's cell can fill. It is a measure for features, not a segmentation to show.
    """
    found = segment.stain(pixels, "otsu", nucleus_least=0.12, body_part=0.5, body_least=0.05, body_most=0.3)
    side = pixels.shape[0]
    y, x = np.mgrid[:side, :side] + 0.5
    far = np.hypot(x - side / 2, y - side / 2) / side
    nucleus = _touching(found.nucleus & (far < 0.46), far < 0.25)
    body = segment.morph((found.body | nucleus) & (far < 0.47), cv2.MORPH_OPEN, _NECK * side)  # neighbours that touch
    cell = _touching(body, nucleus if nucleus.any() else far < 0.1)
    return Crop(pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), nucleus, cell | nucleus)


def _touching(mask: Mask, where: Mask) -> Mask:
    """The parts of a mask that lie in a place at least in part."""
    parts = label(mask, connectivity=2)
    kept = np.unique(parts[where & mask])
    return np.asarray(np.isin(parts, kept[kept > 0]))


def glcm(crop: Crop) -> dict[str, float]:
    """Grey-level co-occurrence (Haralick et al., 1973), at 1 and 3 pixels: mean and range over four directions."""
    levels = (crop.grey.astype(np.int64) * GREYS // 256).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counts = graycomatrix(levels, [1, 3], angles, GREYS, symmetric=True, normed=True)
    out: dict[str, float] = {}
    for name in ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation", "entropy"):
        values = graycoprops(counts, name)  # (distances, angles)
        for i, distance in enumerate((1, 3)):
            out[f"{name} at {distance}"] = float(values[i].mean())
            out[f"{name} range at {distance}"] = float(np.ptp(values[i]))
    return out


_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))


def run_lengths(levels: Grey, greys: int, direction: tuple[int, int]) -> Doubles:
    """How many runs of each grey level are of each length: (greys, longest side), lengths from 1.

    A run is a line of pixels of one level that the same level neither precedes nor follows (Galloway, 1975).
    """
    down, across = direction
    height, width = levels.shape
    lines: list[Grey] = []
    if across == 0:
        lines = list(levels.T)
    elif down == 0:
        lines = list(levels)
    else:
        turned = levels if across > 0 else levels[:, ::-1]
        lines = [np.diagonal(turned, k) for k in range(-height + 1, width)]
    counts = np.zeros((greys, max(height, width)))
    for line in lines:
        ends = np.flatnonzero(np.diff(line)) + 1
        bounds = np.concatenate([[0], ends, [len(line)]])
        np.add.at(counts, (line[bounds[:-1]], np.diff(bounds) - 1), 1)
    return counts


def run_features(counts: Doubles, pixels: int) -> dict[str, float]:
    """The eleven features of a matrix of runs (Galloway, 1975; Chu et al., 1990; Dasarathy and Holder, 1991)."""
    runs = counts.sum()
    grey = np.arange(1, counts.shape[0] + 1)[:, None].astype(float)
    length = np.arange(1, counts.shape[1] + 1)[None, :].astype(float)

    def mean(weight: Doubles) -> float:
        return float((counts * weight).sum() / runs)

    return {
        "short runs": mean(1 / length**2 * np.ones_like(grey)),
        "long runs": mean(length**2 * np.ones_like(grey)),
        "grey non-uniformity": float((counts.sum(axis=1) ** 2).sum() / runs),
        "length non-uniformity": float((counts.sum(axis=0) ** 2).sum() / runs),
        "runs": float(runs / pixels),
        "low grey": mean(1 / grey**2 * np.ones_like(length)),
        "high grey": mean(grey**2 * np.ones_like(length)),
        "short low": mean(1 / (grey**2 * length**2)),
        "short high": mean(grey**2 / length**2),
        "long low": mean(length**2 / grey**2),
        "long high": mean(grey**2 * length**2),
    }


def glrlm(crop: Crop) -> dict[str, float]:
    """Run lengths of grey, mean over four directions."""
    levels = (crop.grey.astype(np.int64) * RUN_GREYS // 256).astype(np.uint8)
    each = [run_features(run_lengths(levels, RUN_GREYS, d), levels.size) for d in _DIRECTIONS]
    return {name: float(np.mean([e[name] for e in each])) for name in each[0]}


def lbp(crop: Crop) -> dict[str, float]:
    """Uniform local binary patterns (Ojala et al., 2002), 8 points at 1 pixel and 16 at 2: shares of each pattern."""
    out: dict[str, float] = {}
    for points, radius in ((8, 1), (16, 2)):
        codes = local_binary_pattern(crop.grey, points, radius, "uniform").astype(np.int64)
        share = np.bincount(codes.ravel(), minlength=points + 2) / codes.size
        out |= {f"pattern {i} of {points}": float(v) for i, v in enumerate(share)}
    return out


_SPACES = {"RGB": None, "HSV": cv2.COLOR_RGB2HSV, "Lab": cv2.COLOR_RGB2LAB}
_BARS = 8


def colour(crop: Crop) -> dict[str, float]:
    """Histograms of red, green and blue; mean, spread and skewness of the channels of RGB, HSV and Lab."""
    out: dict[str, float] = {}
    for space, code in _SPACES.items():
        values = crop.pixels if code is None else cv2.cvtColor(crop.pixels, code)
        for channel, letter in enumerate(space):
            v = values[:, :, channel].astype(np.float64).ravel() / 255
            mean, spread = v.mean(), v.std()
            out[f"{letter} of {space} mean"] = float(mean)
            out[f"{letter} of {space} spread"] = float(spread)
            out[f"{letter} of {space} skewness"] = float(((v - mean) ** 3).mean() / (spread**3 + _TINY))
            if code is None:
                bars = np.histogram(v, _BARS, (0, 1))[0] / v.size
                out |= {f"{letter} bar {i}": float(b) for i, b in enumerate(bars)}
    return out


def hu(crop: Crop) -> dict[str, float]:
    """Hu's seven moments (1962) of nucleus and cell, in logarithms with their sign."""
    out: dict[str, float] = {}
    for name, mask in (("nucleus", crop.nucleus), ("cell", crop.cell)):
        values = np.zeros(7)
        if mask.any():
            values = moments_hu(moments_normalized(moments_central(mask.astype(np.float64))))
        values = np.nan_to_num(values)
        logs = np.sign(values) * np.log10(1 + np.abs(values) * 1e6)
        out |= {f"{name} moment {i + 1}": float(v) for i, v in enumerate(logs)}
    return out


_WAVES, _DCT_SIDE = 6, 64


def dct(crop: Crop) -> dict[str, float]:
    """The slowest waves of the discrete cosine transform of the grey picture at 64 pixels a side."""
    small = cv2.resize(crop.grey, (_DCT_SIDE, _DCT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    waves = cv2.dct(small) / _DCT_SIDE
    return {f"wave {i} {j}": float(waves[i, j]) for i in range(_WAVES) for j in range(_WAVES)}


_SHAPE = ("area", "perimeter", "circularity", "solidity", "eccentricity", "extent", "parts")


def _shape(mask: Mask) -> dict[str, float]:
    if not mask.any():
        return dict.fromkeys(_SHAPE, 0.0)
    whole = regionprops(mask.astype(np.uint8))[0]
    side = mask.shape[0]
    return {
        "area": float(whole.area) / mask.size,
        "perimeter": float(whole.perimeter) / side,
        "circularity": float(4 * np.pi * whole.area / (whole.perimeter**2 + _TINY)) if whole.perimeter else 0.0,
        "solidity": float(whole.solidity),
        "eccentricity": float(whole.eccentricity),
        "extent": float(whole.extent),
        "parts": float(label(mask, connectivity=2).max()),
    }


def shape(crop: Crop) -> dict[str, float]:
    """Contour of nucleus and cell: area, perimeter, circularity, solidity, eccentricity, extent, number of parts."""
    return {f"{n} {k}": v for n, m in (("nucleus", crop.nucleus), ("cell", crop.cell)) for k, v in _shape(m).items()}


def nucleus(crop: Crop) -> dict[str, float]:
    """Nucleus and cytoplasm: part of the cell that is nucleus, colour of both in Lab, grain of both.

    The part says what the N:C ratio says, and stays finite where no cytoplasm is seen.
    """
    cytoplasm = crop.cell & ~crop.nucleus
    lab = cv2.cvtColor(crop.pixels, cv2.COLOR_RGB2LAB).astype(np.float64)
    out = {"nucleus share": float(crop.nucleus.sum() / max(1, crop.cell.sum()))}
    for name, mask in (("nucleus", crop.nucleus), ("cytoplasm", cytoplasm)):
        values = lab[mask] if mask.any() else np.zeros((1, 3))
        out |= {f"{name} {c}": float(v) / 255 for c, v in zip("Lab", values.mean(axis=0), strict=True)}
        out[f"{name} grain"] = float(values[:, 0].std()) / 255
    return out


FEATURES: Mapping[str, Callable[[Crop], dict[str, float]]] = {
    "glcm": glcm,
    "glrlm": glrlm,
    "lbp": lbp,
    "colour": colour,
    "hu": hu,
    "dct": dct,
    "shape": shape,
    "nucleus": nucleus,
}


def check(names: Sequence[str], where: str) -> None:
    """ConfigError where there is no such feature."""
    unknown = [n for n in names if n not in FEATURES]
    if unknown:
        raise ConfigError(f"handmade: no '{unknown[0]}'", where=where, remedy=f"there are: {', '.join(FEATURES)}")


def measure(names: Sequence[str], crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of crops, uint8 (n, s, s, 3), in the order of the names: float32 (n, features)."""
    rows = []
    for pixels in crops:
        crop = segmented(pixels)
        rows.append([v for name in names for v in FEATURES[name](crop).values()])
    if not rows:
        return np.zeros((0, len(columns(names))), np.float32)
    return np.asarray(rows, np.float32)


def columns(names: Sequence[str]) -> list[str]:
    """What each column of `measure` is."""
    blank = segmented(np.full((32, 32, 3), 200, np.uint8))
    return [f"{name}: {column}" for name in names for column in FEATURES[name](blank)]
