"""`smear evaluate detector` on a tiny drawn set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from detect import assets
from detect.bundles.folder import open_bundle
from tests.cli.command import Answer, inside
from tests.detectors.tiny import Tiny, write


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The set."""
    return write(tmp_path_factory.mktemp("tiny"))


def evaluate(tiny: Tiny, bundle: object, out: Path, *more: object) -> Answer:
    """Run the verb."""
    fixed = ("--data", tiny.card, "--root", tiny.home, "--out", out, "--bootstrap", 20)
    return inside("evaluate", "detector", bundle, *fixed, *more)


def test_figures_tables_and_pictures_are_written(tiny: Tiny, tmp_path: Path) -> None:
    answer = evaluate(tiny, "cells-yolov8n", tmp_path / "out", "--split", "test")
    assert answer.code == 0, answer.err
    names = {p.name for p in (tmp_path / "out").iterdir()}
    pictures = ("precision-recall", "confusion", "ap-by-kind", "errors", "froc", "counting", "calibration")
    assert names == {"metrics.json", "metrics.md", "truth.json", "predictions.json", *(f"{p}.png" for p in pictures)}
    said = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert (said["n_fields"], said["n_groups"], said["n_cells"]) == (2, 1, tiny.cells["test"])
    assert said["bundle_hash"] == open_bundle("cells-yolov8n").hash
    assert said["map50"]["value"] > 0.2
    assert (said["part"], said["data"]) == ("test", "tiny")
    assert all(f"| {name} |" in (tmp_path / "out" / "metrics.md").read_text() for name in ("WBC", "RBC", "Platelet"))
    assert "mAP50" in answer.out


def test_all_takes_every_field(tiny: Tiny, tmp_path: Path) -> None:
    assert evaluate(tiny, "cells-yolov8n", tmp_path / "out", "--split", "all").code == 0
    said = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert said["n_fields"] == 12
    assert said["n_cells"] == sum(tiny.cells.values())
    assert said["split"] is None


def test_the_same_command_gives_the_same_figures(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert evaluate(tiny, "cells-yolov8n", tmp_path / name, "--split", "dev", "--seed", 5).code == 0
    assert (tmp_path / "a" / "metrics.json").read_bytes() == (tmp_path / "b" / "metrics.json").read_bytes()


def test_figures_go_on_a_card_when_asked(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(assets.RELEASED_BUNDLES / "cells-yolov8n", tmp_path / "bundle"))
    before = open_bundle(folder).card.metrics
    assert evaluate(tiny, folder, tmp_path / "a", "--split", "test").code == 0
    assert open_bundle(folder).card.metrics == before
    for name in ("b", "c"):
        assert evaluate(tiny, folder, tmp_path / name, "--split", "test", "--write-card").code == 0
        added = [m for m in open_bundle(folder).card.metrics if m.data == "tiny"]
        assert {m.part for m in added} == {"test"}
        assert len({m.name for m in added}) == len(added)
        assert "mAP50" in {m.name for m in added}
        assert all(m.low is not None and m.high is not None and m.low <= m.high for m in added)


def test_an_unknown_part_lists_the_parts(tiny: Tiny, tmp_path: Path) -> None:
    answer = evaluate(tiny, "cells-yolov8n", tmp_path / "out", "--split", "holdout")
    assert answer.code == 2
    assert "dev, test, train" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_set_without_a_common_label_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    card = yaml.safe_load(tiny.card.read_text("utf-8"))
    card |= {"classes": ["Artefact"], "class_map": dict.fromkeys(card["class_map"], "Artefact"), "exhaustive_for": []}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(card), "utf-8")
    answer = inside(
        "evaluate",
        "detector",
        "cells-yolov8n",
        *("--data", tmp_path / "odd.yaml", "--root", tiny.home, "--out", tmp_path / "out", "--split", "all"),
    )
    assert answer.code == 2
    assert "no label of tiny (Artefact) is a class of the model" in answer.err


def test_a_folder_of_the_sets_name_does_not_hide_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "txl-pbc").mkdir()  # the images, in the folder that the command is called from
    monkeypatch.chdir(tmp_path)
    fixed = ("--root", tmp_path / "nowhere", "--out", tmp_path / "out")
    answer = inside("evaluate", "detector", "cells-yolov8n", "--data", "txl-pbc", *fixed)
    assert answer.code == 2
    assert "give the folder of txl-pbc" in answer.err


def test_two_evaluations_are_compared(tiny: Tiny, tmp_path: Path) -> None:
    for name, more in (("a", ()), ("b", ("--max-detections", 3))):
        assert evaluate(tiny, "cells-yolov8n", tmp_path / name, "--split", "all", *more).code == 0
    fixed = ("--out", tmp_path / "out", "--bootstrap", 20)
    answer = inside("evaluate", "compare", tmp_path / "a", tmp_path / "b", *fixed)
    assert answer.code == 0, answer.err
    assert "12 fields, 12 groups" in answer.out
    said = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))["comparison"]["figures"]
    for side in "ab":
        own = json.loads((tmp_path / side / "metrics.json").read_text("utf-8"))
        assert said["mAP50"][side] == pytest.approx(own["map50"]["value"])
        assert said["counting MAE RBC"][side] == pytest.approx(own["counting"]["RBC"]["mae"]["value"])
    assert said["mAP50"]["difference"]["value"] < 0
    assert (tmp_path / "out" / "compare.md").is_file()


def test_bundles_are_measured_and_compared_in_one_command(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMEAR_DATA", str(tiny.home.parent))
    fixed = ("--data", tiny.card, "--split", "test", "--out", tmp_path / "out", "--bootstrap", 20)
    answer = inside("evaluate", "compare", "cells-yolov8n", "classical", *fixed)
    assert answer.code == 0, answer.err
    said = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))["comparison"]["figures"]
    for side, name in (("a", "cells-yolov8n"), ("b", "classical")):
        own = json.loads((tmp_path / "out" / side / name / "metrics.json").read_text("utf-8"))
        assert own["n_fields"] == 2
        assert said["mAP50"][side] == pytest.approx(own["map50"]["value"])


def test_evaluations_of_other_parts_are_not_compared(tiny: Tiny, tmp_path: Path) -> None:
    for part in ("dev", "test"):
        assert evaluate(tiny, "cells-yolov8n", tmp_path / part, "--split", part).code == 0
    answer = inside("evaluate", "compare", tmp_path / "dev", tmp_path / "test", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "measured on part 'test'" in answer.err
    assert not (tmp_path / "out").exists()
    answer = inside("evaluate", "compare", tmp_path, tmp_path / "test", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "holds neither truth.json nor answers.json" in answer.err
