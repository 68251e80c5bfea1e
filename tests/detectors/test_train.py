"""Training, export and verification through the real command, on a set of twelve drawings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from detect import assets
from detect.bundles.card import CARD, GRAPH, WEIGHTS
from detect.bundles.folder import open_bundle
from detect.config import load
from detect.detectors.base import DetectorSettings
from tests.cli.command import Answer, inside, smear
from tests.detectors.tiny import Tiny, write, write_config

RELEASED_WEIGHTS = assets.RELEASED_BUNDLES / "cells-yolov8n" / WEIGHTS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The set."""
    return write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def run(tiny: Tiny) -> tuple[Path, Answer]:
    """A finished training."""
    out = tiny.home.parent / "run"
    return out, smear("train", "detector", tiny.config, "--data", tiny.card, "--root", tiny.home, "--out", out)


@pytest.fixture(scope="module")
def bundle(tiny: Tiny, run: tuple[Path, Answer]) -> tuple[Path, Answer]:
    """Its bundle."""
    out = tiny.home.parent / "bundle"
    assert run[1].code == 0, run[1].err[-3000:]
    return out, smear("bundle", "export", run[0], "--out", out, "--name", "tiny-one", "--root", tiny.home)


def train(tiny: Tiny, config: Path, out: Path, *more: str) -> Answer:
    """Train in this process."""
    return inside(
        "train", "detector", config, "--data", tiny.card, "--root", tiny.home, "--out", out, "--device", "cpu", *more
    )


@pytest.mark.long
def test_a_run_folder_holds_all_that_is_needed(tiny: Tiny, run: tuple[Path, Answer]) -> None:
    out, answer = run
    assert answer.code == 0, answer.err[-3000:]
    assert {"settings.yaml", "run.yaml", "architecture.yaml", WEIGHTS, "data", "train"} <= {
        p.name for p in out.iterdir()
    }
    assert load(DetectorSettings, out / "settings.yaml") == load(DetectorSettings, tiny.config)
    record = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    assert record["fields"] == {"train": 8, "dev": 2}
    assert record["groups"] == {"train": 4, "dev": 1}
    assert {part: sum(n.values()) for part, n in record["cells"].items()} == {
        part: tiny.cells[part] for part in ("train", "dev")
    }
    assert record["best_epoch"] == 1
    assert len(record["fingerprint"]["train"]) == 64
    assert record["config"] == tiny.config.name
    architecture = yaml.safe_load((out / "architecture.yaml").read_text("utf-8"))
    assert architecture["config"]["nc"] == 3
    assert architecture["parameters"] > 2_900_000


@pytest.mark.long
def test_a_second_run_needs_to_be_told_to_resume(tiny: Tiny, run: tuple[Path, Answer]) -> None:
    out, _ = run
    before = (out / WEIGHTS).read_bytes()
    answer = train(tiny, tiny.config, out)
    assert answer.code == 2
    assert "not empty" in answer.err
    assert "--resume" in answer.err
    assert (out / WEIGHTS).read_bytes() == before


@pytest.mark.long
def test_a_finished_run_is_not_resumed_with_a_traceback(tiny: Tiny, run: tuple[Path, Answer]) -> None:
    before = (run[0] / WEIGHTS).read_bytes()
    answer = smear(
        "train", "detector", tiny.config, "--data", tiny.card, "--root", tiny.home, "--out", run[0], "--resume"
    )
    assert "Traceback" not in answer.err
    assert answer.code == 2
    assert "error:" in answer.err
    assert (run[0] / WEIGHTS).read_bytes() == before


@pytest.mark.long
def test_a_run_becomes_a_bundle(run: tuple[Path, Answer], bundle: tuple[Path, Answer]) -> None:
    out, answer = bundle
    assert answer.code == 0, answer.err[-3000:]
    assert {p.name for p in out.iterdir()} == {CARD, WEIGHTS, GRAPH}
    card = open_bundle(out, "detector").card
    assert card.name == "tiny-one"
    assert card.classes == ("WBC", "RBC", "Platelet")
    assert card.detector is not None
    assert card.detector.image_size == 64
    assert "part dev" in card.detector.threshold_choice
    assert {m.part for m in card.metrics} == {"dev"}
    assert (out / WEIGHTS).read_bytes() == (run[0] / WEIGHTS).read_bytes()


@pytest.mark.long
def test_the_bundle_verifies_and_scores(bundle: tuple[Path, Answer], tmp_path: Path) -> None:
    out, answer = bundle
    assert answer.code == 0, answer.err[-3000:]
    verified = smear("bundle", "verify", out, "--most", 3)
    assert verified.code == 0, verified.out + verified.err[-3000:]
    assert "holds" in verified.out
    assert "BROKEN" not in verified.out
    assert inside("data", "sample", "--out", tmp_path / "in", "--fields", 1).code == 0
    scored = inside("score", tmp_path / "in", "--out", tmp_path / "out", "--detector", out, "--classifier", "none")
    assert scored.code == 0


@pytest.mark.long
def test_exporting_again_needs_to_be_told_to(run: tuple[Path, Answer], bundle: tuple[Path, Answer]) -> None:
    assert bundle[1].code == 0, bundle[1].err[-3000:]
    answer = inside("bundle", "export", run[0], "--out", bundle[0])
    assert answer.code == 2
    assert "--overwrite" in answer.err
    assert open_bundle(bundle[0]).card.name == "tiny-one"


@pytest.mark.long
def test_training_starts_from_safetensors(tiny: Tiny, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "c.yaml",
        pretrained=str(RELEASED_WEIGHTS),
        hyperparameters={"lr0": 1e-9, "optimizer": "SGD", "warmup_epochs": 0.0},
    )
    answer = train(tiny, config, tmp_path / "run")
    assert answer.code == 0, answer.err[-3000:]
    from safetensors.numpy import load_file

    ours, theirs = load_file(tmp_path / "run" / WEIGHTS), load_file(RELEASED_WEIGHTS)
    name = "model.0.conv.weight"
    assert abs(ours[name] - theirs[name]).max() < 1e-2


def test_a_pickle_is_refused_unless_trusted(tiny: Tiny, tmp_path: Path) -> None:
    pickle = tmp_path / "theirs.pt"
    pickle.write_bytes(b"\x80\x04would run code")
    answer = train(tiny, write_config(tmp_path / "c.yaml", pretrained=str(pickle)), tmp_path / "run")
    assert answer.code == 2
    assert "is a pickle" in answer.err
    assert "--trust-pickle" in answer.err
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_weights_that_are_not_there_are_named(tiny: Tiny, tmp_path: Path) -> None:
    answer = train(tiny, write_config(tmp_path / "c.yaml", pretrained="gone.safetensors"), tmp_path / "run")
    assert answer.code == 2
    assert "no file 'gone.safetensors'" in answer.err


def test_misspelt_settings_are_all_listed(tiny: Tiny, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", epoch=3, image_size=31, hyperparameters={"mosiac": 1.0})
    answer = train(tiny, config, tmp_path / "run")
    assert answer.code == 2
    for word in ("3 mistakes", "did you mean 'epochs'", "greater than or equal to 32", "did you mean 'mosaic'"):
        assert word in answer.err
    assert not (tmp_path / "run").exists()


def test_an_unknown_family_and_transform_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    answer = train(tiny, write_config(tmp_path / "a.yaml", family="darknet"), tmp_path / "run")
    assert answer.code == 2
    assert "the families are: " in answer.err
    assert "ultralytics" in answer.err
    answer = train(tiny, write_config(tmp_path / "b.yaml", augment=[{"name": "Blurr"}]), tmp_path / "run")
    assert answer.code == 2
    assert "Blurr" in answer.err


def test_changed_pictures_are_noticed(tiny: Tiny, tmp_path: Path) -> None:
    home = Path(shutil.copytree(tiny.home, tmp_path / "tiny"))
    first = sorted((home / "images" / "all").iterdir())[0]
    first.write_bytes(first.read_bytes() + b"\0")
    answer = inside("train", "detector", tiny.config, "--data", tiny.card, "--root", home, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "SHA-256 differs" in answer.err
    assert first.name in answer.err


def test_an_unfinished_run_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    answer = inside("bundle", "export", tmp_path / "run", "--out", tmp_path / "bundle")
    assert answer.code == 2
    assert "not a finished run" in answer.err
    assert not (tmp_path / "bundle").exists()
