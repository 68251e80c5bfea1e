"""A bundle's answers beside the truth: scores, figures for its card, what sets are calibrated on. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detect.bundles.card import Calibration, Metric
from detect.classify.bundled import BundleClassifier
from detect.data.typed import TypedCell
from detect.errors import DataError
from detect.evaluate import conformal
from detect.evaluate.classification import ClassificationReport
from detect.images import decode

_KEPT = 200  # calibration cells of a type on a card: of more, so many quantiles


def calibration_of(
    types: Sequence[str], probabilities: NDArray[np.float32], truth: NDArray[np.int64], on: str
) -> Calibration:
    """What a card keeps of the cells that sets of likely types are calibrated on."""
    strange = conformal.strangeness(probabilities, truth, len(types))
    kept = [s if len(s) <= _KEPT else np.quantile(s, np.linspace(0, 1, _KEPT)) for s in strange]
    return Calibration(
        strange={t: tuple(float(f"{v:.4g}") for v in s) for t, s in zip(types, kept, strict=True)}, on=on
    )


def raw_scores(
    classifier: BundleClassifier, cells: Sequence[TypedCell]
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.int64]]:
    """Scores before the temperature, float64 (n, types); distances, float32 (n,); and the true types, int64 (n,)."""
    unknown = sorted({c.type for c in cells} - set(classifier.classes.names))
    if unknown:
        raise DataError(f"cells of types that the bundle does not know: {unknown}", remedy="use the bundle's own split")
    crops = [classifier.cut(classifier.ready(decode.read(c.path)), c.box, c.outline) for c in cells]
    scores, distances = classifier.told(crops)
    return scores.astype(np.float64), distances, np.array([classifier.classes.index(c.type) for c in cells], np.int64)


def metrics(
    report: ClassificationReport, data: str, split: str, part: str, command: str, *, fields: int, fitted: bool = False
) -> tuple[Metric, ...]:
    """The figures of a report, fit for a card.

    Args:
        fields: how many the cells are of. fitted: the temperature and the sets were fitted on these very cells, so
            that what they come to there is not told.
    """
    named = {"macro F1": report.macro_f1, "balanced accuracy": report.balanced_accuracy, "accuracy": report.accuracy}
    named |= {f"F1 {name}": v for name, v in report.f1.items()}
    named |= {"ROC AUC": report.macro["ROC AUC"]}
    if not fitted:
        named |= {"calibration error": report.ece, "answered": report.answered}
        named |= {"accuracy of answered": report.accuracy_answered, "type among those held likely": report.covered}
        named |= {"unfamiliar": report.unfamiliar}
    return tuple(
        Metric(
            name=name,
            value=round(v.value, 4),
            low=round(v.low, 4),
            high=round(v.high, 4),
            data=data,
            split=split,
            part=part,
            n_fields=fields,
            n_groups=report.n_groups,
            n_cells=report.n_cells,
            command=command,
        )
        for name, v in named.items()
        if v.value == v.value
    )
