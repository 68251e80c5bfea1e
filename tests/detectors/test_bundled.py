"""A detector bundle on drawn fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detect import geometry
from detect.bundles.folder import Bundle, open_bundle
from detect.detectors.base import family
from detect.detectors.bundled import BundleDetector
from detect.detectors.measure import predict_all
from detect.errors import BundleError, ConfigError, SmearError
from detect.types import Annotations, Dataset, Detections, Field, LabelledField
from tests.data import encode
from tests.detectors.conftest import Drawn

WHITE = {"Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil"}


@pytest.fixture(scope="module")
def detector(bundle: Bundle) -> BundleDetector:
    """The released detector in the usual engine."""
    return BundleDetector(bundle)


def limited(bundle: Bundle, **changes: object) -> Bundle:
    """The same weights under other settings."""
    assert bundle.card.detector is not None
    section = bundle.card.detector.model_copy(update=changes)
    return replace(bundle, card=bundle.card.model_copy(update={"detector": section}))


def check_close(a: Detections, b: Detections) -> None:
    """Equal cells within rounding."""
    assert a.labels.tolist() == b.labels.tolist()
    assert np.abs(a.boxes - b.boxes).max(initial=0) <= 0.01
    assert np.abs(a.scores - b.scores).max(initial=0) <= 1e-3


def test_most_drawn_cells_are_found(detector: BundleDetector, drawn: Drawn) -> None:
    hits = cells = white = white_hits = 0
    for (_, truth), found in zip(drawn, detector.predict([p for p, _ in drawn]), strict=True):
        boxes = np.array([c.box for c in truth], np.float32)
        met = geometry.iou(boxes, found.boxes).max(axis=1, initial=0) > 0.5
        is_white = np.array([c.name in WHITE for c in truth])
        hits, cells = hits + int(met.sum()), cells + len(truth)
        white, white_hits = white + int(is_white.sum()), white_hits + int(met[is_white].sum())
    assert hits > 0.6 * cells
    assert white_hits > 0.5 * white


def test_results_obey_their_rules(detector: BundleDetector, bundle: Bundle, drawn: Drawn) -> None:
    assert bundle.card.detector is not None
    limit = [bundle.card.detector.thresholds[n] for n in detector.classes.names]
    for (pixels, _), found in zip(drawn, detector.predict([p for p, _ in drawn]), strict=True):
        height, width = pixels.shape[:2]
        assert found.classes == detector.classes
        assert (found.boxes[:, :2] >= 0).all()
        assert (found.boxes[:, 2:] <= [width, height]).all()
        assert (geometry.area(found.boxes) > 0).all()
        assert (found.scores >= np.array(limit, np.float32)[found.labels]).all()
        assert (np.diff(found.scores) <= 0).all()
        rivals = geometry.iou(found.boxes, found.boxes) * (found.labels[:, None] == found.labels[None, :])
        np.fill_diagonal(rivals, 0)
        assert rivals.max(initial=0) <= bundle.card.detector.nms_iou
        assert not found.capped


def test_a_field_is_scored_the_same_in_any_company(detector: BundleDetector, drawn: Drawn) -> None:
    fields = [p for p, _ in drawn]
    mixed = [fields[0], fields[1][:300, :500].copy(), fields[2], fields[3][:100, :100].copy(), fields[1]]
    alone = [detector.predict([f])[0] for f in mixed]
    order = [3, 1, 4, 0, 2]
    for i, found in zip(order, detector.predict([mixed[i] for i in order]), strict=True):
        check_close(found, alone[i])
    assert sum(map(len, alone)) > 20


def test_the_same_batch_twice_is_the_same_to_the_bit(detector: BundleDetector, drawn: Drawn) -> None:
    fields = [p for p, _ in drawn]
    for a, b in zip(detector.predict(fields), detector.predict(fields), strict=True):
        assert a.boxes.tobytes() == b.boxes.tobytes()
        assert a.scores.tobytes() == b.scores.tobytes()


def test_a_reached_cap_is_told(bundle: Bundle, detector: BundleDetector, drawn: Drawn) -> None:
    pixels = drawn[0][0]
    whole = detector.predict([pixels])[0]
    n = len(whole)
    few = BundleDetector(limited(bundle, max_detections=3)).predict([pixels])[0]
    assert few.capped
    assert few.scores.tolist() == whole.scores[:3].tolist()
    just = BundleDetector(limited(bundle, max_detections=n)).predict([pixels])[0]
    assert (len(just), just.capped) == (n, False)


def test_thresholds_are_per_class_and_may_be_replaced(bundle: Bundle, drawn: Drawn) -> None:
    pixels = drawn[0][0]
    high = BundleDetector(bundle, thresholds={"RBC": 0.999}).predict([pixels])[0]
    low = BundleDetector(bundle, thresholds=dict.fromkeys(bundle.card.classes, 0.05)).predict([pixels])[0]
    plain = BundleDetector(bundle).predict([pixels])[0]
    rbc = bundle.card.classes.index("RBC")
    assert (plain.labels == rbc).any()
    assert (high.scores[high.labels == rbc] >= np.float32(0.999)).all()
    assert (high.labels != rbc).sum() >= (plain.labels != rbc).sum() > 0
    assert len(low) > len(plain)
    assert low.scores.min() >= np.float32(0.05)


def test_few_candidates_keep_the_best(bundle: Bundle, detector: BundleDetector, drawn: Drawn) -> None:
    pixels = drawn[0][0]
    got = BundleDetector(limited(bundle, candidates=1)).predict([pixels])[0]
    best = detector.predict([pixels])[0].select([0])
    check_close(got, best)


def test_odd_fields_are_scored(detector: BundleDetector) -> None:
    sizes = [(1, 1), (8, 3000), (700, 3), (33, 31)]
    found = detector.predict([np.full((h, w, 3), 220, np.uint8) for h, w in sizes])
    for (height, width), one in zip(sizes, found, strict=True):
        assert (one.boxes <= [width, height, width, height]).all()
    assert detector.predict([]) == []


def test_another_kind_of_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="not a detector"):
        BundleDetector(open_bundle("wbc-types"))


def test_an_unknown_family_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="ultralytics"):
        family("darknet")


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_predictions_for_a_set_keep_its_order(
    detector: BundleDetector, drawn: Drawn, tmp_path_factory: pytest.TempPathFactory, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for i, (pixels, _) in enumerate(drawn):
        path = folder / f"{9 - i}.png"
        path.write_bytes(encode(pixels, "PNG"))
        empty = Annotations.of(np.zeros((0, 4)), [])
        rows.append(LabelledField(Field(path.name, "s", path), empty))
    data = Dataset("drawn", folder, detector.classes, tuple(rows), frozenset())
    seen: list[int] = []
    found = predict_all(detector, data, batch=batch, progress=seen.append)
    assert sum(seen) == len(found) == len(drawn)
    for (pixels, _), one in zip(drawn, found, strict=True):
        check_close(one, detector.predict([pixels])[0])


def test_an_unreadable_field_of_a_set_is_an_error(detector: BundleDetector, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    row = LabelledField(Field("broken.png", "s", path), Annotations.of(np.zeros((0, 4)), []))
    with pytest.raises(SmearError, match="not an image"):
        predict_all(detector, Dataset("d", tmp_path, detector.classes, (row,), frozenset()))
