"""Small masks pasted into the field: as torchvision does, to the pixel that its rounding moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from detect.detectors.masks import paste

WIDTH, HEIGHT = 120, 90


def disc(side: int = 28) -> np.ndarray:
    y, x = np.mgrid[:side, :side] + 0.5
    return np.asarray(1 / (1 + np.exp(np.hypot(x - side / 2, y - side / 2) - side * 0.45)), np.float32)


def pasted(small: np.ndarray, box: list[float]) -> np.ndarray:
    return np.asarray(rle.decode(paste(small, np.array(box), WIDTH, HEIGHT)), bool)


def test_a_full_mask_fills_its_box() -> None:
    inside = pasted(np.ones((28, 28)), [10, 20, 40, 60])
    assert inside[20:60, 10:40].all()
    assert inside.sum() == 40 * 30


def test_half_a_mask_fills_half_a_box() -> None:
    small = np.zeros((28, 28))
    small[:, :14] = 1
    inside = pasted(small, [10, 20, 50, 60])
    assert inside[20:60, 10:30].all()
    assert inside.sum() == 40 * 20


@given(
    st.floats(-30, 110), st.floats(-30, 80), st.floats(3, 90), st.floats(3, 90),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_as_torchvision_pastes(x: float, y: float, w: float, h: float) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    box = [x, y, x + w, y + h]
    assume(x + w > 2 and y + h > 2 and x < WIDTH - 2 and y < HEIGHT - 2)  # theirs fails on a box that shows nothing
    ours = pasted(disc(), box)
    small = torch.from_numpy(disc())[None, None]
    theirs = (paste_masks_in_image(small, torch.tensor([box]), (HEIGHT, WIDTH), padding=1)[0, 0] >= 0.5).numpy()
    # Theirs rounds the box to whole pixels, so the rim may differ by one pixel.
    rim = 2 * (min(w, WIDTH) + min(h, HEIGHT)) + 8
    assert (ours ^ theirs).sum() <= rim


@pytest.mark.parametrize("box", [[-50, -50, -10, -10], [200, 10, 240, 40], [5, 5, 5, 5], [20, 20, 10, 10]])
def test_a_box_that_shows_nothing_gives_an_empty_mask(box: list[float]) -> None:
    assert pasted(np.ones((28, 28)), box).sum() == 0
