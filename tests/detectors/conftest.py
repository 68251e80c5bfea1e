"""Drawn fields and the released detector."""

from __future__ import annotations

import pytest

from detect.bundles.folder import Bundle, open_bundle
from detect.types import Image
from tests import drawn as sample
from tests.drawn import DrawnCell

Drawn = list[tuple[Image, list[DrawnCell]]]


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    """Fields with what was drawn on them, of two slides."""
    slides = list(sample.SLIDES.values())
    return [*sample.fields(2, 21, slides[0]), *sample.fields(2, 22, slides[2])]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The released detector."""
    return open_bundle("cells-yolov8n", "detector")
