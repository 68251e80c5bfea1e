"""Our decoding against ultralytics' own, and each engine against the training framework."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detect import geometry
from detect.bundles.folder import Bundle
from detect.detectors.base import Architecture
from detect.detectors.bundled import BundleDetector
from detect.detectors.parity import Parity, parity
from detect.runtime.base import EngineSettings, installed
from detect.types import Detections, Image
from tests.detectors.conftest import Drawn

pytestmark = pytest.mark.usefixtures("one_thread")

torch = pytest.importorskip("torch", reason="torch is not installed")
adapter = pytest.importorskip("detect.detectors.ultralytics", reason="ultralytics is not installed")
models = pytest.importorskip("detect.detectors.ultralytics_models", reason="ultralytics is not installed")

LIMIT = 0.2


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Any:
    """The bundle's weights in the library's own model."""
    return models.build(Architecture(**bundle.card.architecture), bundle.weights)


def by_the_library(model: Any, bundle: Bundle, pixels: Image) -> Detections:
    """Letterbox, network, suppression and scaling back by ultralytics, classes judged apart as in its validator."""
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    graph = bundle.card.detector
    assert graph is not None
    size = (graph.image_size, graph.image_size)
    placed = LetterBox(size, auto=True, stride=graph.stride)(image=pixels)
    batch = torch.from_numpy(placed.transpose(2, 0, 1)[None].copy()).float() / 255
    with torch.inference_mode():
        raw = model(batch)
        kept = non_max_suppression(
            raw, LIMIT, graph.nms_iou, multi_label=True, max_det=graph.max_detections, nc=len(bundle.card.classes)
        )[0]
        boxes = scale_boxes(batch.shape[2:], kept[:, :4].clone(), pixels.shape)
    classes = BundleDetector(bundle, graph=lambda images: ()).classes
    return Detections(boxes.numpy(), kept[:, 4].numpy(), kept[:, 5].numpy().astype(int), classes).ordered()


def check_same_cells(ours: Detections, theirs: Detections) -> None:
    """One to one, same label, corners within half a pixel."""
    assert len(ours) == len(theirs)
    overlap = geometry.iou(ours.boxes, theirs.boxes) * (ours.labels[:, None] == theirs.labels[None, :])
    partner = overlap.argmax(axis=1)
    assert sorted(partner.tolist()) == list(range(len(theirs)))
    assert np.abs(ours.boxes - theirs.boxes[partner]).max(initial=0) <= 0.5
    assert np.abs(ours.scores - theirs.scores[partner]).max(initial=0) <= 0.01


@pytest.mark.parametrize("engine", installed())
@pytest.mark.parametrize("cut", [(480, 640), (480, 333), (117, 640)])
def test_same_cells_as_the_library(bundle: Bundle, model: Any, drawn: Drawn, engine: str, cut: tuple[int, int]) -> None:
    limits = dict.fromkeys(bundle.card.classes, LIMIT)
    detector = BundleDetector(bundle, EngineSettings(engine), thresholds=limits)
    fields = [np.ascontiguousarray(p[: cut[0], : cut[1]]) for p, _ in drawn]
    found = detector.predict(fields)
    assert sum(map(len, found)) > 10
    for pixels, ours in zip(fields, found, strict=True):
        check_same_cells(ours, by_the_library(model, bundle, pixels))


@pytest.mark.parametrize("engine", installed())
def test_parity_holds(bundle: Bundle, drawn: Drawn, engine: str) -> None:
    got = parity(bundle, [p for p, _ in drawn[:2]], EngineSettings(engine))
    assert got.holds
    assert got.engine == f"{engine} fp32"
    assert got.cells > 15


def test_parity_breaks_where_the_graph_is_another(
    bundle: Bundle, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(architecture: Architecture, weights: Any) -> Any:
        run = real(architecture, weights)

        def graph(images: Any) -> Any:
            boxes, scores = run(images)
            return boxes + 2, scores

        return graph

    real = adapter.reference
    monkeypatch.setattr(adapter, "reference", shifted)
    got = parity(bundle, [p for p, _ in drawn[:2]], EngineSettings())
    assert got.box_pixels > 0.5
    assert got.apart > 0.9 * got.cells
    assert not got.holds


@pytest.mark.parametrize(("lower", "holds"), [(0.0005, True), (0.02, False)])
def test_a_cell_at_its_threshold_may_fall_on_either_side(
    bundle: Bundle, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, lower: float, holds: bool
) -> None:
    def changed(architecture: Architecture, weights: Any) -> Any:
        run = real(architecture, weights)

        def graph(images: Any) -> Any:
            boxes, scores = run(images)
            return boxes, np.where(scores > 0.1, scores - lower, scores)

        return graph

    fields = [p for p, _ in drawn[:2]]
    found = np.concatenate([d.scores for d in BundleDetector(bundle, EngineSettings()).predict(fields)])
    at = float(np.sort(found)[len(found) // 8])
    card = bundle.card
    assert card.detector is not None
    told = card.detector.model_copy(update={"thresholds": dict.fromkeys(card.classes, at)})
    real = adapter.reference
    monkeypatch.setattr(adapter, "reference", changed)
    got = parity(replace(bundle, card=card.model_copy(update={"detector": told})), fields, EngineSettings())
    assert got.cells > 5
    assert got.holds == holds
    assert (got.unmatched == 0) == holds


def test_one_cell_in_two_hundred_may_be_otherwise() -> None:
    """Of two nearly equal boxes either may be taken."""
    assert Parity("e", 9, 400, 0, 2, 30.0, 0.0).holds
    assert not Parity("e", 9, 400, 0, 3, 1.0, 0.0).close
    assert not Parity("e", 9, 400, 1, 1, 0.0, 0.0).holds
    assert Parity("e", 9, 400, 1, 1, 0.0, 0.0).close


def test_weights_of_another_shape_are_refused(bundle: Bundle) -> None:
    from detect.errors import BundleError

    architecture = Architecture(**bundle.card.architecture)
    other = Architecture(
        architecture.family, "other", dict(architecture.config) | {"nc": 7}, architecture.parameters, 1.0
    )
    with pytest.raises(BundleError, match="do not fit the architecture"):
        adapter.reference(other, bundle.weights)
