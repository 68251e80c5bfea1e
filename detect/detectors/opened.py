"""Any detector bundle, opened: a graph in an engine, the classical method, or several bundles as one."""

from __future__ import annotations

from collections.abc import Mapping

from detect.bundles.card import MEMBERS
from detect.bundles.folder import Bundle, open_bundle
from detect.detectors.base import Detector
from detect.detectors.bundled import BundleDetector
from detect.detectors.classical import ClassicalDetector, ClassicalSettings
from detect.detectors.ensemble import FLOOR, EnsembleDetector, EnsembleSettings
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
        thresholds: least score per class, in place of the bundle's own.
        max_detections: most cells of one field, in place of the bundle's own.
    """
    family, config = bundle.card.architecture.get("family"), bundle.card.architecture.get("config")
    least = dict(bundle.detector.thresholds) | dict(thresholds or {})
    if family == "classical":
        settings = ClassicalSettings.model_validate(config)
        return ClassicalDetector(settings, thresholds=least, max_detections=max_detections)
    if family == "ensemble":
        together = EnsembleSettings.model_validate(config)
        floor = min(FLOOR, *least.values())
        members = []
        for name in together.members:
            member = open_bundle(bundle.path / MEMBERS / name, "detector")
            members.append(open_detector(member, engine, thresholds=dict.fromkeys(member.card.classes, floor)))
        most = max_detections or bundle.detector.max_detections
        return EnsembleDetector(members, together, thresholds=least, max_detections=most)
    return BundleDetector(bundle, engine, thresholds=thresholds, max_detections=max_detections)
