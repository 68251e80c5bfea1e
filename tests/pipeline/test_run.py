"""A batch of fields to cells: routing, abstaining, flags."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detect.bundles.card import Calibration, Familiarity
from detect.bundles.folder import Bundle, open_bundle, write_card
from detect.classify.bundled import BundleClassifier
from detect.classify.morphology import measure
from detect.classify.parts import MaskSegmenter
from detect.detectors.bundled import BundleDetector
from detect.errors import BundleError
from detect.pipeline.route import SYNTHETIC, UNFAMILIAR
from detect.pipeline.run import Cells, Opened, Pipeline, asked, open_pipeline
from detect.pipeline.settings import Node, PipelineSettings
from detect.runtime.base import EngineSettings
from detect.taxonomy import UNIDENTIFIED
from detect.types import Image
from tests import drawn as sample

ENGINE = EngineSettings()


@pytest.fixture(scope="module")
def detector() -> Bundle:
    """The released detector."""
    return open_bundle("cells-yolov8n", "detector")


@pytest.fixture(scope="module")
def classifier() -> Bundle:
    """The released classifier."""
    return open_bundle("wbc-types", "classifier")


@pytest.fixture(scope="module")
def fields() -> list[Image]:
    """Drawn fields with white cells."""
    return [pixels for pixels, _ in sample.fields(3, 13, sample.SLIDES["slide-a"])]


def names(fields: list[Image]) -> list[tuple[str, str]]:
    """Slide and field of each."""
    return [("s", f"s/{i}.png") for i in range(len(fields))]


def run(fields: list[Image], detector: Bundle, *classifiers: Bundle, min_score: float | None = None) -> list[Cells]:
    """Score fields in the usual engine."""
    opened = Opened(detector, tuple(asked(c) for c in classifiers), synthetic=True)
    return Pipeline(opened, ENGINE, min_score=min_score).run(fields, names(fields))


def changed(bundle: Bundle, **changes: object) -> Bundle:
    """The same classifier under other settings; without more, one that always answers."""
    changes = {"calibration": None, "familiarity": None} | changes
    assert bundle.card.classifier is not None
    section = bundle.card.classifier.model_copy(update=changes)
    return replace(bundle, card=bundle.card.model_copy(update={"classifier": section}))


def test_cells_are_what_the_two_stages_say(fields: list[Image], detector: Bundle, classifier: Bundle) -> None:
    cells = run(fields, detector, changed(classifier))
    typer = BundleClassifier(classifier, ENGINE)
    typed = 0
    for i, (found, got) in enumerate(zip(BundleDetector(detector, ENGINE).predict(fields), cells, strict=True)):
        assert len(got.records) == len(found)
        assert not got.capped
        for j, record in enumerate(got.records):
            assert (record.slide, record.field, record.cell) == ("s", f"s/{i}.png", j)
            assert record.box == pytest.approx(found.boxes[j].tolist(), abs=0.01)
            assert record.label == found.classes.names[found.labels[j]]
            if record.label == "WBC":
                row = typer.predict([typer.cut(fields[i], record.box)])[0]
                assert record.type == typer.classes.names[int(row.argmax())]
                assert record.type_score == pytest.approx(float(row.max()), abs=1e-3)
                assert list(record.probabilities) == list(typer.classes.names)
                typed += 1
            else:
                assert (record.type, record.type_score, record.probabilities) == (None, None, {})
    assert typed > 2


def of_any_type(bundle: Bundle) -> Calibration:
    """A calibration by which every type is likely."""
    return Calibration(strange=dict.fromkeys(bundle.card.classes, (1.0,)), on="a test")


def test_a_cell_that_may_be_of_several_types_is_unidentified(
    fields: list[Image], detector: Bundle, classifier: Bundle
) -> None:
    cells = run(fields, detector, changed(classifier, calibration=of_any_type(classifier), temperature=3.0))
    white = [c for field in cells for c in field.records if c.label == "WBC"]
    assert white
    assert {c.type for c in white} == {UNIDENTIFIED}
    for c in white:
        assert c.type_score == pytest.approx(max(c.probabilities.values()))
        assert c.candidates == tuple(sorted(c.probabilities, key=lambda t: -c.probabilities[t]))
        assert c.flags in ((), ("border",))


def test_a_cell_unlike_all_that_was_learnt_is_flagged_and_not_named(
    fields: list[Image], detector: Bundle, classifier: Bundle
) -> None:
    cells = run(fields, detector, changed(classifier, familiarity=Familiarity(limit=0.0, false_flags=1.0)))
    white = [c for field in cells for c in field.records if c.label == "WBC"]
    assert white
    assert all(c.type == UNIDENTIFIED and UNFAMILIAR in c.flags and len(c.candidates) == 1 for c in white)


def test_who_knows_drawn_cells_only_is_named_on_every_row(
    fields: list[Image], detector: Bundle, classifier: Bundle
) -> None:
    drawn = replace(classifier, card=classifier.card.model_copy(update={"trained_on": "synthetic"}))
    for field in run(fields, detector, drawn):
        assert {(SYNTHETIC in c.flags) == (c.label == "WBC") for c in field.records} == {True}


def test_a_class_that_no_classifier_wants_has_no_type(
    fields: list[Image], detector: Bundle, classifier: Bundle
) -> None:
    for bundles in ((), (changed(classifier, routed_from=("Nucleated RBC",)),)):
        cells = run(fields, detector, *bundles)
        assert {c.type for field in cells for c in field.records} == {None}


def test_the_first_classifier_that_wants_a_class_gets_it(
    fields: list[Image], detector: Bundle, classifier: Bundle
) -> None:
    sure = changed(classifier)
    never = changed(classifier, calibration=of_any_type(classifier), routed_from=("WBC", "Platelet"))
    first = [c for field in run(fields, detector, sure, never) for c in field.records]
    second = [c for field in run(fields, detector, never, sure) for c in field.records]
    assert UNIDENTIFIED not in {c.type for c in first if c.label == "WBC"}
    assert {c.type for c in second if c.label == "WBC"} == {UNIDENTIFIED}
    for cells in (first, second):
        assert {c.type for c in cells if c.label == "Platelet"} == {UNIDENTIFIED}
        assert {c.type for c in cells if c.label == "RBC"} == {None}


def test_a_field_is_the_same_in_any_company(fields: list[Image], detector: Bundle, classifier: Bundle) -> None:
    together = run(fields, detector, classifier)
    for i, pixels in enumerate(fields):
        alone = run([pixels], detector, classifier)[0].records
        assert [(c.label, c.type) for c in alone] == [(c.label, c.type) for c in together[i].records]
        for a, b in zip(alone, together[i].records, strict=True):
            assert a.box == pytest.approx(b.box, abs=0.01)


def test_cells_cut_by_the_border_are_flagged(fields: list[Image], detector: Bundle) -> None:
    flags = {}
    for cells, pixels in zip(run(fields, detector), fields, strict=True):
        height, width = pixels.shape[:2]
        for c in cells.records:
            x0, y0, x1, y1 = c.box
            at_edge = min(x0, y0, width - x1, height - y1) < 2
            flags[at_edge] = flags.get(at_edge, True) and (("border" in c.flags) == at_edge)
    assert flags == {True: True, False: True}


def test_a_lower_score_finds_more(fields: list[Image], detector: Bundle) -> None:
    low = run(fields, detector, min_score=0.03)
    plain = run(fields, detector)
    assert sum(len(c.records) for c in low) > sum(len(c.records) for c in plain)
    assert min(c.score for cells in low for c in cells.records) >= np.float32(0.03)


def test_a_capped_field_is_told(fields: list[Image], detector: Bundle) -> None:
    assert detector.card.detector is not None
    section = detector.card.detector.model_copy(update={"max_detections": 2})
    few = replace(detector, card=detector.card.model_copy(update={"detector": section}))
    assert all(c.capped and len(c.records) == 2 for c in run(fields, few))


def test_no_fields_no_cells(detector: Bundle, classifier: Bundle) -> None:
    assert run([], detector, classifier) == []


def test_a_class_may_have_another_threshold(fields: list[Image], detector: Bundle) -> None:
    opened = Opened(detector, ())
    plain = Pipeline(opened, ENGINE).run(fields, names(fields))
    none = Pipeline(opened, ENGINE, thresholds={"RBC": 1.0}).run(fields, names(fields))
    for a, b in zip(plain, none, strict=True):
        assert [c.box for c in a.records if c.label != "RBC"] == [c.box for c in b.records]
    assert any(c.label == "RBC" for cells in plain for c in cells.records)


def written(bundle: Bundle, folder: Path, classes: tuple[str, ...], **card: object) -> str:
    """A detector of the same graph whose classes bear other names."""
    shutil.copytree(bundle.path, folder)
    old = bundle.detector.thresholds
    section = bundle.detector.model_copy(
        update={"thresholds": {new: old[c] for new, c in zip(classes, bundle.card.classes, strict=True)}}
    )
    write_card(bundle.card.model_copy(update={"classes": classes, "detector": section, **card}), folder)
    return str(folder)


def test_a_detector_with_other_names_for_the_same_cells_finds_the_same(
    fields: list[Image], detector: Bundle, tmp_path: Path
) -> None:
    other = written(detector, tmp_path / "other", ("leukocyte", "erythrocyte", "thrombocyte"))
    opened = open_pipeline(PipelineSettings(detector=other, nodes=(Node(bundle="wbc-types"),)))
    pipeline = Pipeline(opened, ENGINE, thresholds={"WBC": 0.3})
    assert not pipeline.unreached
    usual = open_pipeline(PipelineSettings(detector="cells-yolov8n", nodes=(Node(bundle="wbc-types"),)))
    expected = Pipeline(usual, ENGINE, thresholds={"WBC": 0.3}).run(fields, names(fields))
    assert pipeline.run(fields, names(fields)) == expected
    assert any(record.type for cells in expected for record in cells.records)


@pytest.mark.parametrize(
    ("classes", "card", "said"),
    [
        (("blob", "RBC", "Platelet"), {}, "none of its classes .blob, RBC, Platelet. is a white cell"),
        (("WBC", "leukocyte", "Platelet"), {}, "WBC and leukocyte are both 'WBC'"),
        (("WBC", "RBC", "Platelet"), {"taxonomy": 99}, "of version 99 of the taxonomy"),
    ],
)
def test_a_detector_that_counts_no_white_cells_is_refused(
    detector: Bundle, tmp_path: Path, classes: tuple[str, ...], card: dict[str, object], said: str
) -> None:
    other = written(detector, tmp_path / "other", classes, **card)
    with pytest.raises(BundleError, match=said) as caught:
        open_pipeline(PipelineSettings(detector=other))
    assert "other" in str(caught.value)


def test_the_detectors_own_masks_are_measured(fields: list[Image]) -> None:
    masks = open_bundle("classical", "detector")
    opened = open_pipeline(PipelineSettings(detector="classical", morphology=str(masks.path)))
    assert [b.card.name for b in opened.bundles] == ["classical"]
    got = Pipeline(opened, ENGINE).run(fields, names(fields))
    other = MaskSegmenter(masks, ENGINE)
    measured = 0
    for pixels, cells in zip(fields, got, strict=True):
        white = [r for r in cells.records if r.label == "WBC" and "border" not in r.flags]
        for record, parts in zip(white, other.parts(pixels, [r.box for r in white]), strict=True):
            assert record.attributes == pytest.approx(measure(parts, None), nan_ok=True)
            measured += 1
    assert measured > 2


@pytest.mark.parametrize(("named", "said"), [("cells-yolov8n", "draws no masks"), ("wbc-types", "not a segmenter")])
def test_what_draws_no_parts_of_cells_is_refused_before_a_field_is_read(named: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        open_pipeline(PipelineSettings(detector="classical", morphology=named))
