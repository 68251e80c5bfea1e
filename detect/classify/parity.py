"""Whether a classifier's graph in an engine answers as its weights do in the training framework."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detect.bundles.folder import Bundle
from detect.classify.bundled import BundleClassifier
from detect.classify.crops import crop
from detect.detectors.parity import Parity
from detect.runtime.base import FRAMEWORK, EngineSettings
from detect.types import Image


def parity(bundle: Bundle, fields: Sequence[Image], engine: EngineSettings) -> Parity:
    """Compare on the middle third of each field, whatever it shows: the answers must agree, not be right."""
    crops = [crop(f, (f.shape[1] / 3, f.shape[0] / 3, f.shape[1] / 1.5, f.shape[0] / 1.5), 0.0) for f in fields]
    a = BundleClassifier(bundle, EngineSettings(FRAMEWORK)).predict(crops)
    b = BundleClassifier(bundle, engine).predict(crops)
    chosen = engine.resolved()
    changed = int((a.argmax(axis=1) != b.argmax(axis=1)).sum())
    difference = float(np.abs(a - b).max(initial=0))
    return Parity(f"{chosen.name} {chosen.precision}", len(fields), len(crops), changed, 0.0, difference)
