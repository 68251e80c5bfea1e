"""Filters and colour spaces. Every function takes and gives a picture, uint8 RGB (H, W, 3), C-contiguous."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detect.types import Image

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Space = Literal["Lab", "YCbCr", "HSV", "CMYK"]

_SIDE = 96  # pixels of the shorter side that light is measured at
_HIGH = 0.95  # quantile of brightness that is taken for the empty ground
_GRAIN = 0.03  # of brightness; the ground varies by this much where the light is even
_ROUNDS = 10


def correct_illumination(image: Image, most: float = 2.0) -> Image:
    """Even out the light of a field: all channels are divided by a smooth surface through the empty ground.

    The logarithm of the light is a polynomial of second degree, which is flat, a slope, or a vignette about any
    centre, and too stiff to follow cells (surface fitting, Tomazevic et al., J Microsc 208, 2002). It is fitted to the
    bright side by quantile regression (Koenker and Bassett, Econometrica 46, 1978), then to what lies near. The
    brightest place keeps its level.

    Args:
        most: largest gain, so that a corner without light is not all noise.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.medianBlur(cv2.resize(_grey(image), size, interpolation=cv2.INTER_AREA), 3)  # dust is not light
    surface = _terms(height, width) @ _fit(_terms(size[1], size[0]), np.log(np.maximum(small, 1.0)).ravel())
    gain = np.minimum(np.exp(surface.max() - surface), most).astype(np.float32).reshape(height, width, 1)
    return _bytes(image * gain)


def median(image: Image, size: int = 3) -> Image:
    """Each channel's median in a square window; removes specks, keeps edges.

    Args:
        size: side of the window, pixels, odd.
    """
    return np.asarray(cv2.medianBlur(image, size), np.uint8)


def gaussian(image: Image, sigma: float = 1.0) -> Image:
    """Gaussian blur; `sigma` in pixels."""
    return _bytes(_blurred(image.astype(np.float32), sigma))


def unsharp(image: Image, sigma: float = 1.0, amount: float = 1.0) -> Image:
    """Unsharp mask: what a Gaussian blur takes away is added once more, `amount` times.

    Args:
        sigma: of the blur, pixels. amount: 0 changes nothing.
    """
    values = image.astype(np.float32)
    return _bytes(values + amount * (values - _blurred(values, sigma)))


def adaptive_unsharp(image: Image, sigma: float = 1.0, amount: float = 1.5, noise: float = 8.0) -> Image:
    """Unsharp mask that spares flat ground, where it would only amplify grain.

    After Polesel, Ramponi and Mathews (IEEE Trans Image Process 9, 2000), who let the gain follow the local variance;
    theirs is learnt from pixel to pixel, here it is `amount` v / (v + noise^2), v the variance within 3 sigma. The
    detail is that of the grey picture, so edges take on no colour.

    Args:
        sigma: of the blur, pixels.
        amount: gain at strong edges.
        noise: grey levels; where the standard deviation is this, the gain is half of `amount`.
    """
    grey = _grey(image).astype(np.float32)
    side = 2 * round(3 * sigma) + 1
    mean = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REFLECT)
    centred = grey - mean  # about the local mean: the difference of two large squares would lose digits
    variance = cv2.blur(centred * centred, (side, side), borderType=cv2.BORDER_REFLECT)
    detail = amount * variance / (variance + noise**2) * (grey - _blurred(grey, sigma))
    return _bytes(image + detail[:, :, None])


def log_high_boost(image: Image, sigma: float = 1.5, amount: float = 1.0) -> Image:
    """High boost: the picture less `amount` times its Laplacian of Gaussian (Marr and Hildreth, Proc R Soc 207, 1980).

    Args:
        sigma: of the Gaussian, pixels, at least 0.7; finer ones cannot be sampled. The Laplacian is times sigma^2, so
            that `amount` means the same at any scale.
    """
    values = image.astype(np.float32)
    reach = int(4 * sigma + 0.5)
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    smooth = np.exp(-0.5 * (x / sigma) ** 2)
    smooth /= smooth.sum()
    curve = smooth * (x**2 / sigma**2 - 1)  # second derivative, times sigma^2
    curve -= curve.mean()  # the ground has none, whatever the sampling
    across = cv2.sepFilter2D(values, cv2.CV_32F, curve, smooth, borderType=cv2.BORDER_REFLECT)
    down = cv2.sepFilter2D(values, cv2.CV_32F, smooth, curve, borderType=cv2.BORDER_REFLECT)
    return _bytes(values - amount * (across + down))


def colour_space(image: Image, space: Space) -> Image:
    """The picture in another colour space, as three bytes a pixel.

    Lab: CIELAB (D65) as OpenCV packs it into bytes: L * 2.55, a + 128, b + 128.
    YCbCr: BT.601 in full range as in JPEG, in this order (OpenCV's own is Y, Cr, Cb), not scikit-image's 16 to 235.
    HSV: all three from 0 to 255; red is both ends of hue.
    CMYK: cyan, magenta and yellow after black is taken out whole (undercolour removal): (max - channel) / max. The
        black, 255 - max, is left out, for a picture has three channels here; at each pixel one of the three is 0.
    """
    if space == "Lab":
        return _channels(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    if space == "YCbCr":
        return _channels(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]])
    if space == "HSV":
        return _channels(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    white = image.max(axis=2, keepdims=True).astype(np.float32)
    return _bytes(255 * (white - image) / np.maximum(white, 1))


def _terms(height: int, width: int) -> Doubles:
    """The polynomials of second degree at the centres of a grid over the field, (height * width, 6)."""
    y = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    x = ((np.arange(width) + 0.5) / width * 2 - 1)[None, :]
    terms = [np.ones((height, width)), x + 0 * y, y + 0 * x, x * x + 0 * y, x * y, y * y + 0 * x]
    return np.stack(terms, axis=-1).reshape(-1, 6)


def _fit(terms: Doubles, values: Doubles) -> Doubles:
    """Coefficients of the ground among pixels of which many are cells, (6,)."""
    weight = np.ones_like(values)
    for _ in range(_ROUNDS):  # quantile regression as least squares with weights
        apart = values - terms @ _least_squares(terms, values, weight)
        weight = np.where(apart > 0, _HIGH, 1 - _HIGH) / np.maximum(np.abs(apart), _GRAIN / 3)
    found = _least_squares(terms, values, weight)
    for _ in range(_ROUNDS // 2):
        weight = 1 / (1 + ((values - terms @ found) / _GRAIN) ** 2) ** 2
        found = _least_squares(terms, values, weight)
    return found


def _least_squares(terms: Doubles, values: Doubles, weight: Doubles) -> Doubles:
    weighted = terms * weight[:, None]
    steady = 1e-9 * weight.sum() * np.eye(terms.shape[1])  # a field of a few pixels determines no slope
    return np.asarray(np.linalg.solve(terms.T @ weighted + steady, weighted.T @ values), np.float64)


def _grey(image: Image) -> Image:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _blurred(values: Floats, sigma: float) -> Floats:
    """Of float pictures, OpenCV's kernel reaches 4 sigma, as those of scipy and scikit-image."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)


def _channels(values: NDArray[np.uint8]) -> Image:
    return np.ascontiguousarray(values)


def _bytes(values: NDArray[np.floating]) -> Image:
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
