"""What is done to a field before a model sees it is fitted once, travels in the bundle, and is done in scoring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from detect import assets
from detect.bundles.folder import Bundle, open_bundle
from detect.classify.bundled import BundleClassifier
from detect.detectors.bundled import BundleDetector
from detect.images import decode, preprocess
from detect.images.preprocess import Step
from detect.pipeline.run import Opened, Pipeline, asked
from detect.runtime.base import EngineSettings
from tests.cli.command import inside
from tests.detectors.conftest import Drawn
from tests.detectors.tiny import Tiny, write, write_config

STEPS = (
    Step(name="MedianDenoise", args={"size": 5}),
    Step(name="Reinhard", args={"mean": [60.0, 20.0, -15.0], "spread": [20.0, 12.0, 9.0]}),
)


def with_steps(bundle: Bundle, section: str) -> Bundle:
    told = getattr(bundle.card, section).model_copy(update={"preprocess": STEPS})
    return replace(bundle, card=bundle.card.model_copy(update={section: told}))


def test_a_detector_sees_preprocessed_fields(bundle: Bundle, drawn: Drawn) -> None:
    fields = [pixels for pixels, _ in drawn][:3]
    changed = [preprocess.apply(pixels, STEPS) for pixels in fields]
    ours = BundleDetector(with_steps(bundle, "detector")).predict(fields)
    theirs = BundleDetector(bundle).predict(changed)
    plain = BundleDetector(bundle).predict(fields)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
    assert any(len(a) != len(b) or (a.scores != b.scores).any() for a, b in zip(ours, plain, strict=True))


def test_a_classifier_sees_cells_of_preprocessed_fields(bundle: Bundle, drawn: Drawn) -> None:
    typer = open_bundle("wbc-types", "classifier")
    changed = with_steps(typer, "classifier")
    fields = [pixels for pixels, _ in drawn][:2]
    names = [("s", f"{i}") for i in range(2)]
    engine = EngineSettings()
    cells = Pipeline(Opened(bundle, (asked(changed),)), engine).run(fields, names)
    plain = BundleClassifier(typer)
    told = 0
    for pixels, found in zip(fields, cells, strict=True):
        done = preprocess.apply(pixels, STEPS)
        for record in found.records:
            if record.probabilities:
                row = plain.predict([plain.cut(done, record.box)])[0]
                assert [record.probabilities[n] for n in plain.classes.names] == pytest.approx(row.tolist(), abs=1e-3)
                told += 1
    assert told >= 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Twelve drawn fields."""
    return write(tmp_path_factory.mktemp("preprocessed"))


@pytest.mark.long
@pytest.mark.parametrize("family", ["ultralytics", "torchvision"])
def test_the_reference_is_fitted_and_travels_in_the_bundle(tiny: Tiny, tmp_path: Path, family: str) -> None:
    reference = tmp_path / "reference.png"
    first = sorted((tiny.home / "images" / "all").glob("*.png"))[0]
    reference.write_bytes(first.read_bytes())
    steps = [{"name": "Reinhard", "args": {"reference": str(reference)}}, {"name": "GaussianDenoise"}]
    model = {"ultralytics": "yolov8n", "torchvision": "fasterrcnn_mobilenet_v3_fpn"}[family]
    # A slow rate: a few steps at a usual one leave all scores alike, and parity nothing to go by.
    slow = {"optimizer": "AdamW", "lr0": 0.00001}
    more = {"image_size": 96, "precision": "fp32", "smallest_anchor": 8, "max_detections": 40, "hyperparameters": slow}
    more = more if family == "torchvision" else {}
    config = write_config(tmp_path / "config.yaml", family=family, model=model, preprocess=steps, **more)
    words = ("--data", tiny.card, "--root", tiny.home, "--device", "cpu")
    answer = inside("train", "detector", config, "--out", tmp_path / "run", *words)
    assert answer.code == 0, answer.err[-3000:]
    reference.unlink()  # from here on, the numbers are all there is
    words = ("--out", tmp_path / "bundle", "--name", "stained", "--root", tiny.home)
    answer = inside("bundle", "export", tmp_path / "run", *words)
    assert answer.code == 0, answer.err[-3000:]
    told = yaml.safe_load((tmp_path / "bundle" / "bundle.yaml").read_text("utf-8"))["detector"]["preprocess"]
    assert [s["name"] for s in told] == ["Reinhard", "GaussianDenoise"]
    lab = cv2.cvtColor(decode.read(first).astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    assert told[0]["args"]["mean"] == pytest.approx(lab.mean(axis=0).tolist(), abs=0.2)
    assert "reference" not in told[0]["args"]
    assert str(tmp_path) not in (tmp_path / "bundle" / "bundle.yaml").read_text("utf-8")
    answer = inside("bundle", "verify", tmp_path / "bundle")
    assert answer.code == 0, answer.out + answer.err
    if family == "ultralytics":  # which reads its pictures by itself
        seen = decode.read(tmp_path / "run" / "data" / "images" / "train" / "images__all__f01.png")
        done = preprocess.apply(decode.read(first.with_name("f01.png")), [Step(**s) for s in told])
        np.testing.assert_array_equal(seen, done)


def test_a_reference_that_is_not_there_stops_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    steps = [{"name": "Macenko", "args": {"reference": str(tmp_path / "none.png")}}]
    config = write_config(tmp_path / "config.yaml", preprocess=steps)
    words = ("--data", tiny.card, "--root", tiny.home, "--out", tmp_path / "run")
    answer = inside("train", "detector", config, *words)
    assert answer.code == 2
    assert "none.png" in answer.err
    assert "preprocess.0" in answer.err
    assert not (tmp_path / "run").exists()


def test_released_bundles_do_nothing_to_their_fields() -> None:
    for path in sorted(assets.RELEASED_BUNDLES.iterdir()):
        card = open_bundle(path).card
        section = card.detector or card.classifier  # segmenters and slides have none
        assert section is None or section.preprocess == ()
