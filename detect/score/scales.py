"""At what scale each slide of a run is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

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

    def told(self) -> dict[str, Any]:
        """As plain values, for the journal."""
        return asdict(self)

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> Looked:
        """What `told` gave."""
        scale = told["scale"]
        return cls(None if scale is None else Scale(**scale), told["each"], told["failed"])


_APART = 0.25  # part by which a scanner's scale may differ from what the red cells tell


def look(
    detector: Detector,
    fields: Sequence[Field],
    settings: ScoreSettings,
    known: Scale | None = None,
    scanned: Scale | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Looked:
    """How a slide is looked at, as the settings say.

    Args:
        fields: of the slide. known: its scale, where somebody told it of this slide alone.
        scanned: as the file says. It counts, but where the red cells tell another it is unsure.
        alive: called before each field is read.
    """
    told = settings.told_scale or known
    # The classical method measures each field by itself.
    if told is not None or settings.scale == "fit" or detector.red_cell_px is None:
        return Looked(told)
    scale = of_slide(detector, fields, alive)
    if scanned is not None:
        agrees = scale is None or abs(scale.diameter_px / scanned.diameter_px - 1) <= _APART
        return Looked(replace(scanned, sure=agrees, cells=0 if scale is None else scale.cells))
    return Looked(scale, each=scale is not None and scale.mixed and len(fields) > 1, failed=scale is None)


def check_scale(detector: Detector, settings: ScoreSettings) -> None:
    """ConfigError where a person tells a scale that the detector cannot make use of."""
    if settings.told_scale is None or detector.red_cell_px is not None or isinstance(detector, ClassicalDetector):
        return
    what = f"the detector {settings.pipeline.detector} does not say how large red cells were in its training"
    raise ConfigError(what, remedy="use --scale fit, or export the bundle again")
