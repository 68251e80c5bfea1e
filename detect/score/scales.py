"""At what scale each slide of a run is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2

from detect.detectors.base import Detector
from detect.detectors.classical import ClassicalDetector
from detect.detectors.scale import estimate, of_slide
from detect.errors import ConfigError
from detect.images.magnification import Scale
from detect.score.settings import ScoreSettings
from detect.types import Field, Image


@dataclass(frozen=True)
class Looked:
    """How a slide is looked at.

    Attributes:
        scale: of all its fields. None: each field's longer side is resized to the detector's input.
        failed: it was to be measured, and could not.
        each: its fields are of several scales, so each is measured by itself; `scale` says what they are together.
    """

    scale: Scale | None = None
    each: bool = False
    failed: bool = False

    def of(self, detector: Detector, pixels: Image) -> Scale | None:
        """The scale of one of its fields: its own, where enough of its cells tell it."""
        own = estimate(detector, [pixels]) if self.each else None
        return own if own is not None and (own.cells or self.scale is None) else self.scale


def check_scale(detector: Detector, settings: ScoreSettings) -> None:
    """ConfigError where a person tells a scale that the detector cannot make use of."""
    if settings.told_scale is None or detector.red_cell_px is not None or isinstance(detector, ClassicalDetector):
        return
    what = f"the detector {settings.pipeline.detector} does not say how large red cells were in its training"
    raise ConfigError(what, remedy="use --scale fit, or export the bundle again")


def looked(detector: Detector, fields: Sequence[Field], settings: ScoreSettings, workers: int) -> dict[str, Looked]:
    """How each slide is looked at, by its name, as the settings say.

    Args:
        workers: slides measured at once.
    """
    slides: dict[str, list[Field]] = {}
    for field in fields:
        slides.setdefault(field.slide, []).append(field)
    told = settings.told_scale
    # The classical method measures each field by itself.
    if told is not None or settings.scale == "fit" or detector.red_cell_px is None:
        return dict.fromkeys(slides, Looked(told))

    def measure(own: list[Field]) -> Looked:
        cv2.setNumThreads(1)
        scale = of_slide(detector, own)
        return Looked(scale, each=scale is not None and scale.mixed and len(own) > 1, failed=scale is None)

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(slides, pool.map(measure, slides.values()), strict=True))
