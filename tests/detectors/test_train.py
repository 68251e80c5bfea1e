"""Training, export and verification through the real command, on a set of twelve drawings."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from detect import assets
from detect.bundles.card import CARD, GRAPH, WEIGHTS
from detect.bundles.folder import open_bundle
from detect.config import load
from detect.data.cards import load_card
from detect.detectors import export as export_room
from detect.detectors import train as train_module
from detect.detectors.base import DetectorSettings, TrainingJob
from detect.detectors.bundled import BundleDetector
from detect.detectors.parity import parity
from detect.detectors.train import Source, gather
from detect.errors import BundleError
from detect.formats.tally import Tally
from detect.runtime.base import FRAMEWORK, EngineSettings
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
    size = ("--slides", 2, "--fields", 1, "--size", 320)
    assert inside("data", "synthesize", "--out", tmp_path / "in", *size).code == 0
    scored = inside(
        "score", tmp_path / "in" / "images", "--out", tmp_path / "out", "--detector", out, "--classifier", "none"
    )
    assert scored.code == 0


@pytest.mark.long
def test_a_bundle_may_hold_its_graph_alone(
    run: tuple[Path, Answer], bundle: tuple[Path, Answer], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("bundle", "export", run[0], "--name", "tiny-one", "--root", tiny.home)
    answer = inside(*given, "--out", tmp_path / "alone", "--graph-only")
    assert answer.code == 0, answer.err
    assert {p.name for p in (tmp_path / "alone").iterdir()} == {CARD, GRAPH}
    alone, both = open_bundle(tmp_path / "alone", "detector"), open_bundle(bundle[0], "detector")
    assert alone.card.files == {GRAPH: both.card.files[GRAPH]}
    verified = inside("bundle", "verify", tmp_path / "alone", "--most", 3)
    assert verified.code == 0, verified.out
    assert "the bundle has no weights" in " ".join(verified.out.split())
    with pytest.raises(BundleError, match="no weights, only the graph"):
        BundleDetector(alone, EngineSettings(FRAMEWORK))
    broken = replace(parity(both, [np.full((64, 64, 3), 200, np.uint8)], EngineSettings("onnxruntime")), unmatched=9)
    monkeypatch.setattr(export_room, "parity", lambda *_: replace(broken, cells=100))
    refused = inside(*given, "--out", tmp_path / "other", "--graph-only")
    assert refused.code == 2
    assert "answers otherwise than the weights: 9 of 100 cells in one only" in " ".join(refused.err.split())
    moved = replace(broken, cells=100, unmatched=0, apart=2, box_pixels=9.0)
    monkeypatch.setattr(export_room, "parity", lambda *_: moved)
    assert inside(*given, "--out", tmp_path / "third", "--graph-only").code == 2
    assert not (tmp_path / "third" / CARD).is_file() or WEIGHTS in open_bundle(tmp_path / "third").card.files


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


def edited(tiny: Tiny, folder: Path, edit: Callable[[list[Path]], None]) -> Path:
    """A copy of the set after its label files were edited."""
    home = Path(shutil.copytree(tiny.home, folder / "tiny"))
    edit(sorted((home / "labels" / "all").glob("*.txt")))
    return home


@pytest.mark.parametrize(
    ("edit", "said", "line"),
    [
        (
            lambda files: files[0].with_name("classes.txt").write_text("RBC\nWBC\nPlatelets\n"),
            "class names in another order: 'RBC', the set's own list says 'WBC'",
            "classes.txt:1",
        ),
        (
            lambda files: files[3].write_text("5 0.5 0.5 0.2 0.2\n" + files[3].read_text()),
            "unknown class number: 5, known: 0, 1, 2",
            "f03.txt:1",
        ),
    ],
)
def test_a_mislabelled_class_file_is_refused(
    tiny: Tiny, tmp_path: Path, edit: Callable[[list[Path]], None], said: str, line: str
) -> None:
    home = edited(tiny, tmp_path, edit)
    answer = inside("train", "detector", tiny.config, "--data", tiny.card, "--root", home, "--out", tmp_path / "run")
    assert answer.code == 2
    for word in (said, line, "mend the list of classes", "smear data check"):
        assert word in answer.err
    assert not (tmp_path / "run").exists()


def test_a_class_name_that_merely_differs_is_no_reason_to_stop(tiny: Tiny, tmp_path: Path) -> None:
    home = edited(tiny, tmp_path, lambda files: files[0].with_name("classes.txt").write_text("WBC\nRBC\nPC\n"))
    tally = Tally()
    gather([Source(load_card(tiny.card), str(tiny.split), home)], tally)
    train_module._check_names(tally)
    assert any(p.kind == "class name differs" for p in tally.problems)


def test_a_class_without_a_cell_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    def no_platelets(files: list[Path]) -> None:
        for file in files:
            lines = [line for line in file.read_text().splitlines() if not line.startswith("2 ")]
            file.write_text("\n".join(lines) + "\n")

    home = edited(tiny, tmp_path, no_platelets)
    answer = inside("train", "detector", tiny.config, "--data", tiny.card, "--root", home, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "part train holds no cell of Platelet" in answer.err


@pytest.mark.long
def test_several_seeds_in_one_command(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    answer = train(tiny, tiny.config, out, "--seed", "3", "--seed", "4")
    assert answer.code == 0, answer.err[-3000:]
    assert "2 seeds, part dev" in answer.out
    told = yaml.safe_load((out / "seeds.yaml").read_text("utf-8"))
    runs = [yaml.safe_load((out / f"seed-{seed}" / "run.yaml").read_text("utf-8")) for seed in (3, 4)]
    assert [run["seed"] for run in runs] == [3, 4]
    values = [run["dev"]["mAP50"] for run in runs]
    assert told["mean"]["mAP50"] == pytest.approx(sum(values) / 2, abs=1e-4)
    assert (out / "seed-3" / WEIGHTS).read_bytes() != (out / "seed-4" / WEIGHTS).read_bytes()
    kept = (out / "seed-3" / WEIGHTS).stat().st_mtime_ns
    again = train(tiny, tiny.config, out, "--seed", "3", "--seed", "4", "--resume")
    assert again.code == 0, again.err[-3000:]
    assert (out / "seed-3" / WEIGHTS).stat().st_mtime_ns == kept


@pytest.mark.long
def test_stages_follow_one_another_in_one_command(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMEAR_DATA", str(tiny.home.parent))
    stages = [{"data": [str(tiny.card)], "epochs": n} for n in (2, 1)]
    config = write_config(tmp_path / "stages.yaml", stages=stages)
    refused = inside("train", "detector", config, "--data", tiny.card, "--out", tmp_path / "other")
    assert refused.code == 2
    assert "drop --data" in refused.err
    answer = inside("train", "detector", config, "--out", tmp_path / "run", "--device", "cpu")
    assert answer.code == 0, answer.err[-3000:]
    first = yaml.safe_load((tmp_path / "run" / "stage-1" / "run.yaml").read_text("utf-8"))
    last = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text("utf-8"))
    assert first["stages_before"] == []
    assert [(s["data"], s["epochs"]) for s in last["stages_before"]] == [(["tiny"], 2)]
    settings = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text("utf-8"))
    assert settings["epochs"] == 1
    assert settings["pretrained"] == str(tmp_path / "run" / "stage-1" / WEIGHTS)
    bundle = inside("bundle", "export", tmp_path / "run", "--out", tmp_path / "bundle")
    assert bundle.code == 0, bundle.err[-3000:]
    training = open_bundle(tmp_path / "bundle").card.training
    assert training is not None
    assert training.record["stages_before"] == last["stages_before"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/1")],
    ids=["system", "torch"],
)
def test_a_full_disk_is_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    from detect.detectors import ultralytics

    def full(job: TrainingJob) -> None:
        raise error

    monkeypatch.setattr(ultralytics, "train", full)
    answer = train(tiny, tiny.config, tmp_path / "run")
    assert answer.code == 2
    assert "the disk is full" in answer.err
    assert "--resume" in answer.err
    assert str(tmp_path / "run") in answer.err
