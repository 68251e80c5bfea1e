"""The detectron2 family against an installed detectron2, which is in no registry: it is skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from detect.config import load
from detect.detectors.base import DetectorSettings
from detect.errors import ConfigError
from tests.cli.command import inside
from tests.detectors.tiny import Tiny, write_outlined

pytest.importorskip("detectron2", reason="detectron2 is not installed: it is built from its source")
from detect.detectors import detectron2 as adapter


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Twelve drawn fields whose cells have masks."""
    return write_outlined(tmp_path_factory.mktemp("detectron2"))


def config(tiny: Tiny, **changes: object) -> Path:
    told = {"family": "detectron2", "model": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", "image_size": 64}
    told |= {"epochs": 1, "batch": 4, "smallest_anchor": 8, "max_detections": 40, "precision": "fp32"}
    path = tiny.home.parent / "detectron2.yaml"
    path.write_text(yaml.safe_dump(told | changes), "utf-8")
    return path


def test_size_and_masks_are_told(tiny: Tiny) -> None:
    built = adapter.architecture(load(DetectorSettings, config(tiny)), 3)
    assert 43e6 < built.parameters < 45e6
    assert built.gflops > 1
    assert adapter.traits(built).masks
    assert not adapter.traits(built).exportable


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "COCO-InstanceSegmentation/mask_rcnn"}, "no model 'COCO-InstanceSegmentation/mask_rcnn'"),
        ({"model": "COCO-Detection/retinanet_R_50_FPN_1x"}, "is a RetinaNet"),
        ({"image_size": 70}, "no multiple of 32"),
    ],
)
def test_what_cannot_be_is_refused(tiny: Tiny, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        adapter.architecture(load(DetectorSettings, config(tiny, **changes)), 3)


@pytest.mark.long
def test_it_trains_is_measured_and_scores(tiny: Tiny, tmp_path: Path) -> None:
    answer = inside(
        "train", "detector", config(tiny), "--data", tiny.card, "--root", tiny.home, "--out", tmp_path / "run"
    )
    assert answer.code == 0, answer.err[-2000:]
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text("utf-8"))
    assert "detectron2" in record["versions"]
    answer = inside("bundle", "export", tmp_path / "run", "--out", tmp_path / "bundle", "--root", tiny.home)
    assert answer.code == 0, answer.err[-2000:]
    assert not (tmp_path / "bundle" / "model.onnx").exists()
    measured = ("evaluate", "detector", tmp_path / "bundle", "--data", tiny.card, "--root", tiny.home)
    answer = inside(*measured, "--split", "test", "--out", tmp_path / "measured", "--runtime", "torch")
    assert answer.code == 0, answer.err[-2000:]
    assert json.loads((tmp_path / "measured" / "metrics.json").read_text("utf-8"))["n_fields"] == 2
    scored = ("score", tiny.home / "images", "--out", tmp_path / "scored", "--detector", tmp_path / "bundle")
    answer = inside(*scored, "--classifier", "none", "--runtime", "torch")
    assert answer.code == 0, answer.err[-2000:]
    status = pq.read_table(tmp_path / "scored" / "fields" / "part-00000.parquet")["status"].to_pylist()
    assert status == ["ok"] * 12
