"""Numbers of a field's picture, and what they flag."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detect.images.quality import BLURRED, CLIPPED, DARK, EMPTY, FLAT, flags, quality
from tests import drawn as sample

RED_CELL = 80.0  # pixels, of the drawn fields


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sharpness_tells_blur_at_any_magnification(seed: int, factor: float) -> None:
    pixels, _ = sample.field(seed, ["Neutrophil"])
    shown = cv2.resize(
        pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    )
    blurred = cv2.GaussianBlur(shown, (0, 0), 0.1 * RED_CELL * factor)
    assert BLURRED not in flags(quality(shown, RED_CELL * factor), 9)
    assert BLURRED in flags(quality(blurred, RED_CELL * factor), 9)
    told, own = quality(shown, RED_CELL * factor), quality(pixels, RED_CELL)
    assert told["sharpness"] == pytest.approx(own["sharpness"], rel=0.25)


def test_what_is_wrong_with_a_picture_is_named() -> None:
    pixels, _ = sample.field(4, ["Lymphocyte"])
    assert flags(quality(pixels, RED_CELL), 20) == ()
    assert flags(quality(pixels, RED_CELL), 0) == (EMPTY,)
    assert DARK in flags(quality((pixels * 0.2).astype(np.uint8), RED_CELL), 20)
    bright = np.clip(pixels.astype(int) + 60, 0, 255).astype(np.uint8)
    assert CLIPPED in flags(quality(bright, RED_CELL), 20)
    assert FLAT in flags(quality(np.full_like(pixels, 200)), 20)
    assert "sharpness" not in quality(pixels)


def test_numbers_are_those_of_the_whole_picture() -> None:
    pixels, _ = sample.field(5, ["Neutrophil", "Lymphocyte"])
    pixels = np.clip(pixels.astype(int) + 45, 0, 255).astype(np.uint8)[:480, :600]  # not thinned out at this size
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    told = quality(pixels)
    assert told["brightness"] == pytest.approx(grey.mean(), abs=0.01)
    assert told["contrast"] == pytest.approx(grey.std(), abs=0.01)
    assert told["focus"] == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var(), rel=0.001)
    clipped = ((pixels == 0) | (pixels == 255)).mean()
    assert 0.02 < clipped < 0.98
    assert told["clipped"] == pytest.approx(clipped, abs=0.01)
    assert told["saturation"] == pytest.approx(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)[..., 1].mean(), rel=0.02)
