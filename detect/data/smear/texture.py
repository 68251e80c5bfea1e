"""Grain of chromatin, cytoplasm and red cells: smooth noise of given scales, made once a slide, cut from at random."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SIDE = 640


class Texture:
    """Smooth noise of mean 0 and spread 1.

    Args:
        seed: of the noise; the same seed gives the same at every scale.
    """

    def __init__(self, seed: np.random.SeedSequence) -> None:
        rng = np.random.default_rng(seed)
        self._white = rng.standard_normal((_SIDE, _SIDE), dtype=np.float32)
        self._at: dict[float, Floats] = {}

    def cut(self, rng: np.random.Generator, height: int, width: int, scale: float) -> Floats:
        """A piece, float32 (height, width); scale: radius of its grain in pixels."""
        step = float(2 ** (round(np.log2(max(scale, 0.3)) * 2) / 2))  # two an octave are kept
        if step not in self._at:
            soft = cv2.GaussianBlur(self._white, (0, 0), step)
            self._at[step] = np.asarray((soft - soft.mean()) / soft.std(), np.float32)
        whole = self._at[step]
        height, width = min(height, _SIDE), min(width, _SIDE)
        y, x = (int(rng.integers(0, _SIDE - n + 1)) for n in (height, width))
        piece = whole[y : y + height, x : x + width]
        return piece[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]
