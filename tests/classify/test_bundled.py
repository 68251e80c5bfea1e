"""A classifier bundle: probabilities, their calibration, and parity with the training framework."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.bundles.folder import Bundle, open_bundle
from detect.classify.bundled import BATCH, BundleClassifier, softmax
from detect.classify.parity import parity
from detect.errors import BundleError
from detect.runtime.base import EngineSettings, installed
from detect.types import CellCrop, Image
from tests import drawn as sample


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The released classifier."""
    return open_bundle("wbc-types", "classifier")


@pytest.fixture(scope="module")
def fields() -> list[Image]:
    """Drawn fields."""
    return [pixels for pixels, _ in sample.fields(2, 9, sample.SLIDES["slide-b"])]


@pytest.fixture(scope="module")
def crops(bundle: Bundle, fields: list[Image]) -> list[CellCrop]:
    """More crops than fit in one batch."""
    cutter = BundleClassifier(bundle)
    places = [(x, y) for x in range(0, 560, 80) for y in (0, 120, 240)]
    return [cutter.cut(f, (x, y, x + 110, y + 100)) for f in fields for x, y in places]


@given(st.integers(0, 10**6), st.floats(0.2, 5))
def test_softmax_is_a_probability_and_keeps_the_order(seed: int, heat: float) -> None:
    scores = np.random.default_rng(seed).normal(0, 50, (6, 4))
    got = softmax(scores, heat)
    assert got.dtype == np.float32
    assert np.allclose(got.sum(axis=1), 1, atol=1e-5)
    assert (got.argmax(axis=1) == scores.argmax(axis=1)).all()
    assert np.allclose(got, softmax(scores / heat), atol=1e-6)


def test_softmax_of_huge_scores_is_finite() -> None:
    assert softmax(np.array([[1e5, -1e5, 0.0]])).tolist() == [[1, 0, 0]]


def test_answers_do_not_depend_on_company(bundle: Bundle, crops: list[CellCrop]) -> None:
    assert len(crops) > BATCH
    classifier = BundleClassifier(bundle)
    together = classifier.predict(crops)
    assert together.shape == (len(crops), len(bundle.card.classes))
    assert np.allclose(together.sum(axis=1), 1, atol=1e-5)
    turned = classifier.predict(crops[::-1])[::-1]
    assert np.abs(together - turned).max() <= 1e-4
    for i in (0, BATCH, len(crops) - 1):
        assert np.abs(classifier.predict([crops[i]])[0] - together[i]).max() <= 1e-4


def test_no_crops_no_answers(bundle: Bundle) -> None:
    assert BundleClassifier(bundle).predict([]).shape == (0, len(bundle.card.classes))


def test_the_temperature_of_the_card_is_used(bundle: Bundle, crops: list[CellCrop]) -> None:
    assert bundle.card.classifier is not None
    hot = bundle.card.classifier.model_copy(update={"temperature": 5.0})
    cold = bundle.card.classifier.model_copy(update={"temperature": 0.2})
    a, b = (
        BundleClassifier(replace(bundle, card=bundle.card.model_copy(update={"classifier": section}))).predict(crops)
        for section in (hot, cold)
    )
    assert (a.argmax(axis=1) == b.argmax(axis=1)).all()
    assert a.max(axis=1).mean() < b.max(axis=1).mean()


def test_crops_have_the_margin_of_the_card(bundle: Bundle, fields: list[Image]) -> None:
    assert bundle.card.classifier is not None
    side = BundleClassifier(bundle).cut(fields[0], (200, 200, 300, 260)).pixels.shape[0]
    assert side == round(100 * (1 + 2 * bundle.card.classifier.margin))


def test_another_kind_of_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="not a classifier"):
        BundleClassifier(open_bundle("cells-yolov8n"))


@pytest.mark.parametrize("engine", installed())
def test_parity_holds(bundle: Bundle, fields: list[Image], engine: str) -> None:
    got = parity(bundle, fields, EngineSettings(engine))
    assert got.holds
    assert got.score <= 1e-3
    assert (got.engine, got.cells) == (f"{engine} fp32", len(fields))


def test_the_released_types_are_white_cells_of_the_taxonomy(bundle: Bundle) -> None:
    from detect.taxonomy import taxonomy

    assert bundle.card.classifier is not None
    assert bundle.card.classifier.routed_from == ("WBC",)
    assert all(taxonomy().is_a(name, "WBC") for name in bundle.card.classes)
