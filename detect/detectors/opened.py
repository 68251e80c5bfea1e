"""Any detector bundle, opened: a graph in an engine, the classical method, or several bundles as one."""

from __future__ import annotations

from collections.abc import Mapping

from detect.bundles.card import MEMBERS
from detect.bundles.folder import Bundle, open_bundle
from detect.detectors.base import Detector
from detect.detectors.bundled import BundleDetector
from detect.detectors.classical import ClassicalDetector
from detect.detectors.classical_cells import ClassicalSettings
from detect.detectors.ensemble import EnsembleDetector, EnsembleSettings
from detect.runtime.base import EngineSettings


def open_detector(
    bundle: Bundle,
    engine: EngineSettings | None = None,
    *,
    thresholds: Mapping[str, float] | None = None,
    max_detections: int | None = None,
) -> Detector:
    """The detector of a bundle.

    Args:
        thresholds: least score per class, by our names, in place of the bundle's own.
        max_detections: most cells of one field, or of one tile of a larger one, in place of the bundle's own.
    """
    family, config = bundle.card.architecture.get("family"), bundle.card.architecture.get("config")
    least = bundle.thresholds | dict(thresholds or {})
    if family == "classical":
        settings = ClassicalSettings.model_validate(config)
        return ClassicalDetector(settings, thresholds=least, max_detections=max_detections)
    if family == "ensemble":
        together = EnsembleSettings.model_validate(config)
        # Room for what several see weakly and the fusion drops.
        most = 2 * (max_detections or bundle.detector.max_detections)
        home = bundle.path.resolve().parent if together.beside else bundle.path / MEMBERS
        paths = [home / name for name in together.members]
        members = [open_detector(open_bundle(p, "detector"), engine, max_detections=most) for p in paths]
        return EnsembleDetector(members, together, thresholds=least)
    return BundleDetector(bundle, engine, thresholds=thresholds, max_detections=max_detections)
