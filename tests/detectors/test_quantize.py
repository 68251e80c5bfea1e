"""Cheaper arithmetic: measured, told on the card, offered only where it loses little."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from detect import assets
from detect.bundles.card import GRAPH_INT8, MOST_LOST
from detect.bundles.folder import add_precisions, open_bundle
from detect.detectors.bundled import BundleDetector
from detect.errors import BundleError
from detect.runtime.base import EngineSettings, fast_precisions, installed
from tests.cli.command import inside
from tests.detectors.conftest import Drawn
from tests.detectors.tiny import Tiny, write

INT8 = EngineSettings(installed()[0], "int8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released detector, of which nothing was measured."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    shutil.copytree(assets.bundle("cells-yolov8n"), out)
    card = open_bundle(out).card
    from detect.bundles.folder import write_card

    write_card(card.model_copy(update={"precisions": ()}), out)
    return out


@pytest.fixture(scope="module")
def measured(plain: Path, tiny: Tiny) -> tuple[Path, str]:
    """The same after the command, and what it said."""
    out = plain.with_name("measured")
    shutil.copytree(plain, out)
    answer = inside("bundle", "precisions", out, "--data", tiny.card, "--root", tiny.home, "--images", 4)
    assert answer.code == 0, answer.err
    return out, answer.out


def test_the_card_says_what_was_lost(measured: tuple[Path, str], tiny: Tiny) -> None:
    bundle = open_bundle(measured[0])
    checks = {c.precision: c for c in bundle.card.precisions}
    assert "int8" in checks
    for check in checks.values():
        assert (check.data, check.part, check.n_fields) == ("tiny", "dev", 2)
        assert check.offered == (check.loss < MOST_LOST)
        assert f"{check.loss:+.2f}" in measured[1]
    assert (GRAPH_INT8 in bundle.card.files) == checks["int8"].offered == (measured[0] / GRAPH_INT8).exists()


def offered(measured: tuple[Path, str], out: Path, loss: float) -> Path:
    """A bundle whose int8 graph is there, and is said to lose so much."""
    shutil.copytree(measured[0], out)
    from detect.detectors.quantize import _quantize

    if not (out / GRAPH_INT8).exists():
        rng = np.random.default_rng(1)
        _quantize(open_bundle(out), iter([rng.integers(0, 255, (1, 416, 416, 3), np.uint8) for _ in range(2)]))
    check = next(c for c in open_bundle(out).card.precisions if c.precision == "int8")
    add_precisions(out, [check.model_copy(update={"loss": loss})])
    return out


def test_what_is_offered_runs(measured: tuple[Path, str], tmp_path: Path, drawn: Drawn) -> None:
    bundle = open_bundle(offered(measured, tmp_path / "b", 0.1))
    assert (bundle.path / GRAPH_INT8).stat().st_size < 0.5 * bundle.graph.stat().st_size
    pixels = [p for p, _ in drawn]
    small, whole = BundleDetector(bundle, INT8).predict(pixels), BundleDetector(bundle).predict(pixels)
    counts = np.array([[len(a), len(b)] for a, b in zip(small, whole, strict=True)])
    assert counts[:, 0].sum() == pytest.approx(counts[:, 1].sum(), rel=0.5)
    assert any(a.scores.tolist() != b.scores.tolist() for a, b in zip(small, whole, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_what_was_not_measured_is_refused(plain: Path, tiny: Tiny, tmp_path: Path, precision: str) -> None:
    words = ("score", tiny.home / "images", "--out", tmp_path / "o", "--detector", plain, "--precision", precision)
    answer = inside(*words)
    assert answer.code == 2
    assert f"what {precision} loses was not measured" in answer.err
    assert "smear bundle precisions" in answer.err
    assert not (tmp_path / "o").exists()


def test_what_loses_too_much_is_refused(measured: tuple[Path, str], tiny: Tiny, tmp_path: Path) -> None:
    bundle = offered(measured, tmp_path / "b", 0.5)
    words = ("score", tiny.home / "images", "--out", tmp_path / "o", "--detector", bundle, "--precision", "int8")
    answer = inside(*words)
    assert answer.code == 2
    assert "int8 loses 0.5 points of mAP50-95 on dev of tiny" in answer.err


def test_scoring_in_int8_types_cells_in_fp32(measured: tuple[Path, str], tiny: Tiny, tmp_path: Path) -> None:
    bundle = offered(measured, tmp_path / "b", 0.49)
    words = ("score", tiny.home / "images", "--out", tmp_path / "o", "--detector", bundle, "--precision", "int8")
    answer = inside(*words)
    assert answer.code == 0, answer.err


def test_scoring_takes_the_fastest_that_the_card_offers(
    measured: tuple[Path, str], plain: Path, tiny: Tiny, tmp_path: Path
) -> None:
    kept, lost = (offered(measured, tmp_path / name, loss) for name, loss in (("kept", 0.1), ("lost", 2.0)))
    order = ("int8", "bf16")
    assert open_bundle(kept).first_offered(order, "openvino") == "int8"
    assert open_bundle(kept).first_offered(order, "onnxruntime") is None  # measured with the other engine
    assert open_bundle(lost).first_offered(("int8",), "openvino") is None
    assert open_bundle(plain).first_offered(order, "openvino") is None
    for bundle, wanted in ((kept, fast_precisions("openvino")[:1]), (plain, ())):
        out = tmp_path / f"run-{bundle.name}"
        answer = inside("score", tiny.home / "images", "--out", out, "--detector", bundle)
        assert answer.code == 0, answer.err
        precision = (*wanted, "fp32")[0]
        assert f"by openvino {precision}" in answer.out
        assert yaml.safe_load((out / "run.yaml").read_text())["engine"]["precision"] == precision
        told = ("--precision", precision, "--resume")  # as it turned out to be: no contradiction
        assert inside("score", tiny.home / "images", "--out", out, "--detector", bundle, *told).code == 0
    words = ("--detector", kept, "--runtime", "onnxruntime")
    answer = inside("score", tiny.home / "images", "--out", tmp_path / "other", *words)
    assert answer.code == 0, answer.err
    assert "by onnxruntime fp32" in answer.out


def test_an_altered_int8_graph_is_noticed(measured: tuple[Path, str], tmp_path: Path) -> None:
    graph = offered(measured, tmp_path / "b", 0.1) / GRAPH_INT8
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"model\.int8\.onnx was altered"):
        open_bundle(tmp_path / "b")


def test_a_bundle_without_one_says_why(plain: Path) -> None:
    with pytest.raises(BundleError, match="the int8 graph was not made"):
        BundleDetector(open_bundle(plain), INT8)


def test_the_classical_method_has_none(tiny: Tiny) -> None:
    answer = inside("bundle", "precisions", "classical", "--data", tiny.card, "--root", tiny.home)
    assert answer.code == 2
    assert "no graph of its own" in answer.err
