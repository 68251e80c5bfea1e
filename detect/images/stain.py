"""The colour of a stained smear: optical density, separation into stains, stain jitter and stain normalization.

Light through a stain is weakened by the exponent of its concentration (Beer and Lambert), so stains add up in optical
density and not in RGB. A stain vector is the optical density of one unit of a stain in red, green and blue.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from detect.types import Image

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Rows: haematoxylin, eosin, DAB; columns: red, green, blue (Ruifrok and Johnston, Anal Quant Cytol Histol 23, 2001).
HED: Doubles = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_TO_HED = np.asarray(np.linalg.inv(HED), np.float64)
_UNIT = float(np.log(1e6))  # of the concentrations of scikit-image: the density of its blackest pixel is 1
_BLACK = 0.4  # grey level that 0 is taken for in a logarithm; it rounds back to 0

LIGHT = 240.0  # grey level of the empty ground that Macenko's density counts from
ALPHA = 1.0  # percentile of angles, on both sides, that is left out
BETA = 0.15  # density below which, in any channel, a pixel counts as unstained
_TOP = 99.0  # percentile of concentrations that stands for the most of a stain
_LEAST_STAINED = 0.01  # of a field; below, the 99th percentile of a stain is the empty ground's
_LEAST_VARIANCE = 1e-4  # of density in the plane of the stains; below, it is the noise of a camera
_LEAST_ANGLE = np.radians(5)  # between the stains; of nearer ones concentrations cannot be told apart
_FLAT = 0.5  # CIELAB units; a channel that varies less shows no stain whose spread could be matched


@dataclass(frozen=True, eq=False)
class MacenkoReference:
    """The stains of one picture.

    Attributes:
        vectors: float64 (3, 2), stain vectors of unit length as columns; the one that takes more red comes first.
        most: float64 (2,), 99th percentile of the concentration of each, natural optical density.
    """

    vectors: Doubles
    most: Doubles


@dataclass(frozen=True, eq=False)
class ReinhardReference:
    """The colours of one picture in CIELAB (D65; L 0 to 100).

    Attributes:
        mean, spread: float64 (3,), mean and standard deviation of L, a and b.
    """

    mean: Doubles
    spread: Doubles


def to_density(image: Image, light: float = 255.0) -> Floats:
    """Natural optical density, float32 (h, w, 3): 0 where a channel has the grey level `light`, negative above."""
    levels = np.maximum(np.arange(256), _BLACK)
    return np.asarray((-np.log(levels / light)).astype(np.float32)[image])


def from_density(density: Floats, light: float = 255.0) -> Image:
    """The picture of an optical density (h, w, 3), clipped to 0 to 255."""
    return _bytes(light * np.exp(-density))


def rgb_to_hed(image: Image) -> Floats:
    """Haematoxylin, eosin and DAB of each pixel by colour deconvolution (Ruifrok and Johnston, 2001).

    Returns:
        float32 (h, w, 3), in units of ln(10^6) of optical density and not below 0, as scikit-image's `rgb2hed`.
    """
    levels = np.maximum(np.arange(256) / 255, 1 / np.exp(_UNIT))
    density = (-np.log(levels) / _UNIT).astype(np.float32)[image]
    return np.asarray(np.maximum(_mixed(density, _TO_HED), 0), np.float32)


def hed_to_rgb(stains: Floats) -> Image:
    """The picture of concentrations as `rgb_to_hed` gives them, float32 (h, w, 3)."""
    return from_density(_mixed(stains, HED * _UNIT))


def jitter_hed(image: Image, alpha: ArrayLike, beta: ArrayLike) -> Image:
    """Each stain's concentration times `alpha` plus `beta` (Tellez et al., IEEE Trans Med Imaging 37, 2018).

    Concentrations may be negative, so that ones and zeros change nothing.

    Args:
        alpha, beta: three numbers, of haematoxylin, eosin and DAB; `beta` in natural optical density.
    """
    gain, shift = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    return from_density(_mixed(to_density(image), _TO_HED * gain @ HED) + (shift @ HED).astype(np.float32))


def fit_macenko(
    image: Image, *, light: float = LIGHT, alpha: float = ALPHA, beta: float = BETA
) -> MacenkoReference | None:
    """The two stains of a picture (Macenko et al., ISBI 2009), as torchstain finds them.

    The stained pixels span a plane in optical density; its extreme directions are the stains.

    Args:
        light: grey level of the empty ground.
        alpha: percentile of directions left out on both sides. beta: density that a stained pixel has in all channels.

    Returns:
        None where the picture shows no two stains: too few stained pixels, all alike, or of one colour.
    """
    found = _separate(image, light, alpha, beta)
    return None if found is None else found[0]


def apply_macenko(
    image: Image, reference: MacenkoReference, *, light: float = LIGHT, alpha: float = ALPHA, beta: float = BETA
) -> Image:
    """The picture with the stains of a reference (Macenko et al., ISBI 2009), as torchstain gives it.

    Rounding is torchstain's too: the logarithm is of the grey level plus 1, which is not taken back, so pixels are up
    to one level lighter than they might be. A picture in which `fit_macenko` finds nothing is returned as it is.

    The method was made for two stains on clear ground. Of a smear the tint of the ground is lost, a nucleus that lets
    blue through does not count as stained, and where red cells take as much red as nuclei do, the two may be swapped.
    """
    found = _separate(image, light, alpha, beta)
    if found is None:
        return image
    own, amounts = found
    # In place of a division for every pixel, the reference's vectors are scaled once.
    vectors = reference.vectors * (reference.most / own.most)
    out = light * np.exp(-(vectors @ amounts))
    return np.ascontiguousarray(np.minimum(out, 255).T.reshape(image.shape).astype(np.uint8))


def jitter_macenko(image: Image, alpha: ArrayLike, *, light: float = LIGHT) -> Image:
    """The concentration of each of a picture's own two stains (Macenko et al., ISBI 2009) times `alpha`.

    As Tellez et al. (IEEE Trans Med Imaging 37, 2018) do for fixed stains, without their shift, so the ground hardly
    changes. What the two stains do not explain is kept, so that ones change nothing. A picture in which `fit_macenko`
    finds nothing is returned as it is.

    Args:
        alpha: two numbers, of the stain that takes more red and of the other.
    """
    found = _separate(image, light, ALPHA, BETA)
    if found is None:
        return image
    own, amounts = found
    change = (own.vectors * (np.asarray(alpha, np.float64) - 1)) @ amounts
    return from_density(to_density(image, light) + change.T.reshape(image.shape).astype(np.float32), light)


def fit_reinhard(image: Image) -> ReinhardReference:
    """Mean and spread of a picture in CIELAB (Reinhard et al., IEEE Comput Graph Appl 21, 2001)."""
    mean, spread = cv2.meanStdDev(_lab(image))
    return ReinhardReference(mean.ravel(), spread.ravel())


def apply_reinhard(image: Image, reference: ReinhardReference) -> Image:
    """The picture with mean and spread of a reference (Reinhard et al., IEEE Comput Graph Appl 21, 2001).

    CIELAB stands in for their space of cone responses, as is usual. A channel that hardly varies is moved and not
    stretched; a picture of hardly any contrast is returned as it is, for it would take on the colour of cells.
    """
    lab = _lab(image)
    mean, spread = (values.ravel() for values in cv2.meanStdDev(lab))
    if spread[0] < _FLAT:
        return image
    gain = np.where(spread < _FLAT, 1.0, reference.spread / np.maximum(spread, _FLAT))
    lab = (lab - mean.astype(np.float32)) * gain.astype(np.float32) + reference.mean.astype(np.float32)
    return _bytes(cv2.cvtColor(np.asarray(lab, np.float32), cv2.COLOR_LAB2RGB) * 255)


def _lab(image: Image) -> Floats:
    """CIELAB, float32 (h, w, 3), L from 0 to 100; of float pictures OpenCV leaves it unscaled."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _mixed(values: Floats, matrix: Doubles) -> Floats:
    """Each pixel's row of values times a matrix (3, 3)."""
    return np.asarray(cv2.transform(values, matrix.T), np.float32)


def _bytes(values: NDArray[np.floating]) -> Image:
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _separate(image: Image, light: float, alpha: float, beta: float) -> tuple[MacenkoReference, Doubles] | None:
    """The stains of a picture and their concentrations, float64 (2, n); None where there are no two."""
    density = (-np.log((np.arange(256) + 1.0) / light))[image.reshape(-1, 3)]
    stained = density[(density >= beta).all(axis=1)]
    if len(stained) < max(3, _LEAST_STAINED * len(density)):
        return None
    sizes, axes = np.linalg.eigh(np.cov(stained.T))
    if sizes[1] < _LEAST_VARIANCE:
        return None
    plane = axes[:, 1:3]
    flat = stained @ plane
    low, high = np.percentile(np.arctan2(flat[:, 1], flat[:, 0]), [alpha, 100 - alpha])
    if not _LEAST_ANGLE <= high - low <= np.pi - _LEAST_ANGLE:
        return None
    ends = plane @ np.array([[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])
    vectors = ends if ends[0, 0] > ends[0, 1] else ends[:, ::-1]
    amounts = np.linalg.pinv(vectors) @ density.T
    most = np.percentile(amounts, _TOP, axis=1)
    if most.min() < beta:
        return None
    return MacenkoReference(vectors, most), amounts
