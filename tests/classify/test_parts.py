"""Parts of cells: one cell a box, in the places of the field; learnt, exported, measured by the real commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from detect import assets
from detect.bundles.folder import open_bundle
from detect.classify.parts import (
    CYTOPLASM,
    GROUND,
    NUCLEUS,
    ClassicalSegmenter,
    MaskSegmenter,
    labels_of,
    open_segmenter,
)
from detect.data.cards import load_card
from detect.data.splits import cells_of, read_split
from detect.data.typed import TypedCell, load_typed
from detect.errors import BundleError
from detect.evaluate.parts import measure_parts
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import EngineSettings
from tests.cli.command import inside


def shares(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A graph's answer that is sure of these parts."""
    return np.stack([(labels == part).astype(np.float32) for part in (GROUND, CYTOPLASM, NUCLEUS)])


def test_only_the_cell_in_the_middle_is_kept() -> None:
    labels = np.zeros((48, 48), np.uint8)
    labels[14:34, 14:34], labels[18:30, 18:30] = CYTOPLASM, NUCLEUS
    labels[0:9, 0:40] = CYTOPLASM  # a neighbour, cut off by the crop
    got = labels_of(shares(labels), 96)
    assert (got[:20] == GROUND).all()
    assert got[48, 48] == NUCLEUS
    assert (got != GROUND).sum() == pytest.approx(40 * 40, rel=0.1)
    assert (got == NUCLEUS).sum() == pytest.approx(24 * 24, rel=0.15)


def test_nothing_is_found_in_nothing() -> None:
    assert (labels_of(shares(np.zeros((32, 32), np.uint8)), 50) == GROUND).all()


@pytest.fixture(scope="module")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn slides with masks of cells and nuclei."""
    folder = tmp_path_factory.mktemp("parts") / "slides"
    asked = ("--slides", "2", "--fields", "4", "--size", "416", "--seed", "5", "--px-per-um", "9")
    answer = inside("data", "synthesize", "--out", folder, *asked)
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="module")
def cells(smear: Path) -> list[TypedCell]:
    """The white cells of its slides."""
    return load_typed([load_card(smear / "synthetic-types.yaml")], Tally())


def test_cells_of_a_drawn_slide_have_parts_and_groups(smear: Path, cells: list[TypedCell]) -> None:
    assert len(cells) > 10
    assert len({c.group for c in cells}) == 2
    assert {c.field.split("/")[0] for c in cells} == {"slide-01", "slide-02"}
    assert all(c.id == f"synthetic-types/{c.field}#{c.number}" for c in cells)
    assert all(c.outline is not None for c in cells)
    assert sum(c.nucleus is not None for c in cells) > 0.8 * len(cells)
    split = read_split(smear / "split.csv")
    train, dev = cells_of(split, cells, "train"), cells_of(split, cells, "dev")
    assert len(train) + len(dev) == len(cells)
    assert {c.group for c in train}.isdisjoint({c.group for c in dev})


def test_the_classical_segmenter_puts_parts_where_they_are(cells: list[TypedCell]) -> None:
    from detect.classify.segmenter_bundle import compared

    report = measure_parts(*compared(ClassicalSegmenter(), cells), rounds=10)
    assert report.figures["nucleus IoU"].value > 0.5
    assert report.n_cells == sum(c.nucleus is not None for c in cells)


CONFIG = {"image_size": 64, "epochs": 14, "batch": 8, "cells_per_epoch": 40, "learning_rate": 0.004}


@pytest.mark.parametrize("architecture", ["unet", "deeplabv3plus"])
def test_a_segmenter_learns_is_exported_and_measured(
    smear: Path, tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed")
    monkeypatch.setattr("detect.classify.segmenters.cores", lambda: 1)
    config = {**CONFIG, "architecture": architecture, "encoder": "timm-mobilenetv3_small_100"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    card, split = smear / "synthetic-types.yaml", smear / "split.csv"
    given = (tmp_path / "c.yaml", "--data", card, "--split", split, "--out", tmp_path / "run")
    answer = inside("train", "segmenter", *given)
    assert answer.code == 0, answer.err
    answer = inside("bundle", "export", tmp_path / "run", "--out", tmp_path / "bundle", "--name", "parts")
    assert answer.code == 0, answer.err
    bundle = open_bundle(tmp_path / "bundle", "segmenter")
    assert bundle.card.trained_on == "synthetic"
    assert bundle.card.classes == ("cytoplasm", "nucleus")
    measured = ("--data", card, "--split-file", split, "--split", "dev", "--out", tmp_path / "ev", "--bootstrap", "10")
    answer = inside("evaluate", "segmenter", tmp_path / "bundle", *measured)
    assert answer.code == 0, answer.err
    told = json.loads((tmp_path / "ev" / "metrics.json").read_text())
    assert told["figures"]["cell IoU"]["value"] > 0.55
    assert told["figures"]["nucleus IoU"]["value"] > 0.4
    assert (tmp_path / "ev" / "agreement.png").stat().st_size > 10_000


def test_a_run_goes_on_where_it_stopped(smear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed")
    from detect.classify import segmenters

    monkeypatch.setattr(segmenters, "cores", lambda: 1)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "epochs": 3}))
    data, split = [str(smear / "synthetic-types.yaml")], [str(smear / "split.csv")]
    segmenters.train(str(tmp_path / "c.yaml"), data, split, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def stop(epoch: int, epochs: int, loss: float) -> None:
        if epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        segmenters.train(str(tmp_path / "c.yaml"), data, split, tmp_path / "cut", progress=stop)
    segmenters.train(str(tmp_path / "c.yaml"), data, split, tmp_path / "cut", resume=True)
    from safetensors.torch import load_file

    a, b = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-5) for k in a)


def test_masks_of_a_detector_are_parts_with_the_nucleus_in_them(cells: list[TypedCell]) -> None:
    from detect.classify.segmenter_bundle import compared

    runner = open_segmenter(str(assets.RELEASED_BUNDLES / "classical"), EngineSettings())
    assert isinstance(runner, MaskSegmenter)
    report = measure_parts(*compared(runner, cells), rounds=10)
    assert report.figures["cell IoU"].value > 0.5
    field = decode.read(cells[0].path)
    (empty,) = runner.parts(field, [(0.0, 0.0, 6.0, 6.0)])  # no cell of the detector: the classical answer
    (plain,) = ClassicalSegmenter().parts(field, [(0.0, 0.0, 6.0, 6.0)])
    assert np.array_equal(empty.labels, plain.labels)
    assert runner.parts(field, []) == []
    with pytest.raises(BundleError, match="draws no masks"):
        open_segmenter("cells-yolov8n", EngineSettings())


def test_a_classifier_is_no_segmenter() -> None:
    with pytest.raises(BundleError, match="this is a classifier, not a segmenter"):
        open_segmenter("wbc-types", EngineSettings())


def test_parts_lie_where_the_box_does(cells: list[TypedCell]) -> None:
    """Of cells at the border too: what was found never leaves the field."""
    for cell in cells[:12]:
        field = decode.read(cell.path)
        (got,) = open_segmenter("classical", EngineSettings()).parts(field, [cell.box])
        height, width = got.labels.shape
        assert got.left >= 0
        assert got.top >= 0
        assert got.left + width <= field.shape[1]
        assert got.top + height <= field.shape[0]
        assert np.array_equal(got.pixels, field[got.top : got.top + height, got.left : got.left + width])


def test_agreement_in_closed_form() -> None:
    drawn = np.zeros((40, 40), np.uint8)
    drawn[10:30, 10:30], drawn[15:25, 15:25] = CYTOPLASM, NUCLEUS
    small = np.zeros((40, 40), np.uint8)
    small[10:30, 10:20], small[15:25, 15:20] = CYTOPLASM, NUCLEUS
    report = measure_parts([drawn, drawn], [drawn, small], ["a", "b"], rounds=10)
    assert report.figures["cell IoU"].value == pytest.approx(0.75)
    assert report.figures["nucleus Dice"].value == pytest.approx((1 + 2 * 50 / 150) / 2)
    assert report.figures["relative area, mean absolute error"].value == pytest.approx(0.25)
    assert report.figures["relative area, bias"].value == pytest.approx(-0.25)
    assert report.figures["N:C ratio, mean absolute error"].value == pytest.approx(0)
    none = measure_parts([drawn], [np.zeros_like(drawn)], ["a"], rounds=10)
    assert none.not_found == 1
    assert none.figures["cell IoU"].value == 0
