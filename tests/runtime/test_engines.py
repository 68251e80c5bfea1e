"""Engines: the same answers from each, and clear refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from detect.bundles.folder import Bundle, open_bundle
from detect.classify.bundled import BundleClassifier
from detect.detectors.bundled import BundleDetector
from detect.errors import BundleError, ConfigError
from detect.runtime.base import ENGINES, EngineSettings, cores, installed, open_graph, stack
from detect.types import Image
from tests import drawn as sample

BOTH = pytest.mark.skipif(len(installed()) < 2, reason="one engine only is installed here")


@pytest.fixture(scope="module")
def fields() -> list[Image]:
    """Drawn fields."""
    return [pixels for pixels, _ in sample.fields(3, 5, sample.SLIDES["slide-a"])]


@pytest.fixture(scope="module")
def detector() -> Bundle:
    """The released detector."""
    return open_bundle("cells-yolov8n", "detector")


@BOTH
def test_detectors_agree(detector: Bundle, fields: list[Image]) -> None:
    a, b = (BundleDetector(detector, EngineSettings(name)).predict(fields) for name in ENGINES)
    assert sum(len(d) for d in a) > 20
    for one, other in zip(a, b, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        assert np.abs(one.boxes - other.boxes).max(initial=0) <= 1e-3
        assert np.abs(one.scores - other.scores).max(initial=0) <= 1e-3


@BOTH
def test_classifiers_agree(fields: list[Image]) -> None:
    bundle = open_bundle("wbc-types", "classifier")
    a, b = (BundleClassifier(bundle, EngineSettings(name)) for name in ENGINES)
    crops = [a.cut(f, (x, 100, x + 90, 190)) for f in fields for x in (10, 200, 500)]
    assert np.abs(a.predict(crops) - b.predict(crops)).max() <= 1e-3


@pytest.mark.parametrize("name", installed())
def test_sizes_and_batches_are_free(detector: Bundle, name: str) -> None:
    engine = open_graph(detector.graph, EngineSettings(name))
    for n, height, width in ((1, 64, 96), (3, 128, 64)):
        boxes, scores = engine.run(np.full((n, height, width, 3), 200, np.uint8))
        assert boxes.dtype == scores.dtype == np.float32
        assert boxes.shape == (n, scores.shape[1], 4)
        assert scores.shape[2] == len(detector.card.classes)


@pytest.mark.parametrize("name", installed())
def test_threads_get_the_answers_of_their_own_pictures(detector: Bundle, fields: list[Image], name: str) -> None:
    engine = open_graph(detector.graph, EngineSettings(name, workers=2))
    batches = [f[None, 0:160, x : x + 160] for f in fields for x in (0, 160, 320)]
    batches = [np.ascontiguousarray(b) for b in batches]
    alone = [engine.run(b)[1].copy() for b in batches]
    with ThreadPoolExecutor(2) as pool:
        together = [scores for _, scores in pool.map(engine.run, batches)]
    for a, b in zip(alone, together, strict=True):
        assert np.abs(a - b).max() <= 1e-5


@pytest.mark.parametrize("name", installed())
def test_results_are_not_overwritten_by_the_next_call(detector: Bundle, fields: list[Image], name: str) -> None:
    engine = open_graph(detector.graph, EngineSettings(name))
    first = np.ascontiguousarray(fields[0][None, :160, :160])
    boxes, _ = engine.run(first)
    kept = boxes.copy()
    engine.run(np.ascontiguousarray(fields[1][None, :160, :160]))
    assert np.array_equal(boxes, kept)


def test_an_unknown_engine_lists_the_choices(detector: Bundle) -> None:
    with pytest.raises(ConfigError) as caught:
        open_graph(detector.graph, EngineSettings("tensorflow"))
    assert all(name in str(caught.value) for name in ("tensorflow", "auto", *ENGINES))


def test_bf16_is_refused_by_onnxruntime(detector: Bundle) -> None:
    with pytest.raises(ConfigError, match="onnxruntime runs fp32 and int8 only, not bf16"):
        open_graph(detector.graph, EngineSettings("onnxruntime", "bf16"))


def test_bf16_is_refused_where_auto_means_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detect.runtime.base.installed", lambda: ["onnxruntime"])
    with pytest.raises(ConfigError, match="bf16 needs the engine openvino"):
        EngineSettings(precision="bf16").resolved()


def test_an_engine_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detect.runtime.base.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install openvino"):
        EngineSettings("openvino").resolved()
    with pytest.raises(ConfigError, match="no engine is installed"):
        EngineSettings().resolved()


def test_auto_takes_the_first_installed_and_keeps_the_rest() -> None:
    got = EngineSettings("auto", "fp32", 3).resolved()
    assert got == EngineSettings(installed()[0], "fp32", 3)
    assert cores() >= 1


@pytest.mark.parametrize("name", installed())
def test_a_file_that_is_no_graph_is_a_bundle_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"this is no graph")
    with pytest.raises(BundleError, match=f"{name} cannot load the graph"):
        open_graph(path, EngineSettings(name))


def test_stacked_pictures_are_one_batch(fields: list[Image]) -> None:
    batch = stack(fields)
    assert batch.shape == (3, sample.HEIGHT, sample.WIDTH, 3)
    assert batch.flags.c_contiguous
    assert np.array_equal(batch[1], fields[1])


def test_the_first_call_of_openvino_is_alone(monkeypatch: pytest.MonkeyPatch, detector: Bundle) -> None:
    """Two first calls at once can wait for each other for ever, as was seen in a scoring run."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    import threading
    import time

    from detect.runtime import openvino as engine

    monkeypatch.setattr(engine, "_READY", threading.Event())
    inside: list[int] = []
    most_before_the_first: list[int] = []
    real = engine.OpenVino._infer

    def watched(self: engine.OpenVino, inputs: object) -> object:
        inside.append(1)
        if not engine._READY.is_set():
            most_before_the_first.append(len(inside))
            time.sleep(0.05)
        out = real(self, inputs)  # type: ignore[arg-type]
        inside.pop()
        return out

    monkeypatch.setattr(engine.OpenVino, "_infer", watched)
    graph = open_graph(detector.graph, EngineSettings("openvino", workers=4))
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: graph.run(picture), range(8)))) == 8
    assert set(most_before_the_first) == {1}


def test_openvino_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    """It would from a thread, by which a process that forks may wait for ever, and leave an identity in the home."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    say = "import threading, detect.runtime.openvino, detect.score.work; print(threading.active_count())"
    about = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", say], env=about, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert not list(tmp_path.iterdir())
