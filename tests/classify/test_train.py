"""A classifier trained through the real command on thirty-two drawn cells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from detect.bundles.card import CARD, GRAPH, WEIGHTS
from detect.bundles.folder import open_bundle
from detect.data.fingerprint import file_hash
from detect.data.splits import Row, Split
from tests import drawn as sample
from tests.cli.command import Answer, inside, smear
from tests.data import encode

TYPES = {"1": "Neutrophil", "2": "Lymphocyte"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the set `drawn`, its card, its split and a configuration of two epochs."""
    home = tmp_path_factory.mktemp("cells")
    cells = home / "drawn" / "cells"
    cells.mkdir(parents=True)
    lines, rows = ["id,type"], []
    for i in range(32):
        number = str(1 + i % 2)
        pixels, truth = sample.field(500 + i, [TYPES[number]])
        x0, y0, x1, y1 = (round(v) for v in truth[0].box)
        cut = np.ascontiguousarray(pixels[y0:y1, x0:x1])
        (cells / f"{i:03d}.bmp").write_bytes(encode(cut, "BMP"))
        mask = np.full(cut.shape[:2], 128, np.uint8)
        (cells / f"{i:03d}.png").write_bytes(encode(mask, "PNG"))
        lines.append(f"{i},{number}")
        part = "train" if i < 20 else "dev" if i < 26 else "test"
        rows.append(Row(f"drawn/cells/{i:03d}.bmp", f"g{i}", part, file_hash(cells / f"{i:03d}.bmp")))
    (home / "drawn" / "types.csv").write_text("\n".join(lines) + "\n")
    Split("drawn-split", tuple(rows)).write(home / "drawn-split.csv")
    told = dict.fromkeys(("title", "licence", "citation", "source", "how_to_get"), "drawn for a test")
    masks = {"folder": "cells", "table": "types.csv", "id_column": "id", "type_column": "type", "types": TYPES}
    card = told | {"name": "drawn", "folder": "drawn", "classes": list(TYPES.values()), "class_map": TYPES}
    card |= {"exhaustive_for": [], "grouping": {"key": "field"}, "mask_folders": [masks]}
    (home / "drawn.yaml").write_text(yaml.safe_dump(card), "utf-8")
    config = {"image_size": 32, "epochs": 2, "batch": 8, "network": "smallnet"}
    (home / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return home


def train(home: Path, out: str, *more: str) -> Answer:
    """Run the command where the set lies."""
    fixed = ("--data", home / "drawn.yaml", "--split", home / "drawn-split.csv", "--out", home / out)
    return smear("train", "classifier", home / "config.yaml", *fixed, *more, cwd=home)


@pytest.mark.long
def test_train_export_verify_evaluate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMEAR_DATA", str(home))
    trained = train(home, "run")
    assert trained.code == 0, trained.err[-3000:]
    record = yaml.safe_load((home / "run" / "run.yaml").read_text("utf-8"))
    assert sorted(record["types"]) == ["Lymphocyte", "Neutrophil"]
    assert record["cells"]["train"] == {"Neutrophil": 10, "Lymphocyte": 10}
    again = train(home, "run")
    assert again.code == 2
    assert "--resume" in again.err
    exported = smear("bundle", "export", home / "run", "--out", home / "bundle", cwd=home)
    assert exported.code == 0, exported.err[-3000:]
    assert {p.name for p in (home / "bundle").iterdir()} == {CARD, WEIGHTS, GRAPH}
    verified = smear("bundle", "verify", home / "bundle", "--most", 3, cwd=home)
    assert verified.code == 0, verified.out
    assert "BROKEN" not in verified.out
    fixed = ("--data", home / "drawn.yaml", "--out", home / "figures", "--bootstrap", 20)
    unnamed = smear("evaluate", "classifier", home / "bundle", *fixed, cwd=home)
    assert unnamed.code == 2
    assert "--split-file" in unnamed.err
    fixed += ("--split-file", home / "drawn-split.csv")
    measured = smear("evaluate", "classifier", home / "bundle", *fixed, "--write-card", cwd=home)
    assert measured.code == 0, measured.err[-3000:]
    assert {p.name for p in (home / "figures").iterdir()} >= {"metrics.json", "metrics.md", "confusion.png"}
    assert "test" in {m.part for m in open_bundle(home / "bundle").card.metrics}


@pytest.mark.long
def test_a_resumed_training_ends_in_the_same_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMEAR_DATA", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = yaml.safe_load((home / "config.yaml").read_text())
    (home / "config.yaml").write_text(yaml.safe_dump(settings | {"epochs": 11}))
    assert train(home, "whole").code == 0
    shutil.copytree(home / "whole", home / "stopped")
    for name in ("run.yaml", WEIGHTS, "fitted.yaml", "architecture.yaml"):
        (home / "stopped" / name).unlink()
    resumed = train(home, "stopped", "--resume")
    assert resumed.code == 0, resumed.err[-3000:]
    assert (home / "stopped" / WEIGHTS).read_bytes() == (home / "whole" / WEIGHTS).read_bytes()
    (home / "config.yaml").write_text(yaml.safe_dump(settings))


@pytest.mark.long
def test_stages_hand_on_their_weights_and_no_copy_of_a_cell_that_is_held_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMEAR_DATA", str(home))
    cells = home / "other" / "cells"
    shutil.copytree(home / "drawn", home / "other")
    card = yaml.safe_load((home / "drawn.yaml").read_text())
    (home / "other.yaml").write_text(yaml.safe_dump(card | {"name": "other", "folder": "other"}))

    def split(first: int) -> str:
        rows = [Row(f"other/cells/{i:03d}.bmp", f"o{i}", "train" if i % 4 else "dev", "") for i in range(first, 32)]
        path = tmp_path / f"other-{first}.csv"
        Split("other", tuple(replace(r, hash=file_hash(cells / Path(r.field).name)) for r in rows)).write(path)
        return str(path)

    def config(first: int) -> Path:
        told = {"image_size": 32, "batch": 8, "network": "smallnet", "stages": []}
        told["stages"].append({"data": [str(home / "other.yaml")], "split": split(first), "epochs": 2})
        one = {"data": [str(home / "drawn.yaml")], "split": str(home / "drawn-split.csv"), "epochs": 1}
        told["stages"].append(one)
        path = tmp_path / f"stages-{first}.yaml"
        path.write_text(yaml.safe_dump(told))
        return path

    held = inside("train", "classifier", config(0), "--out", tmp_path / "leak")
    assert held.code == 2
    assert "is a copy of drawn/cells/" in held.err.replace("\n", " ")
    assert not (tmp_path / "leak").exists()
    allowed = inside("train", "classifier", config(0), "--out", tmp_path / "leak", "--allow-leak")
    assert allowed.code == 0, allowed.err
    assert yaml.safe_load((tmp_path / "leak" / "run.yaml").read_text())["leaking_groups"] == 12
    for i in range(20, 32):  # another picture in the place of each one that is held out
        pixels, truth = sample.field(900 + i, [TYPES[str(1 + i % 2)]])
        x0, y0, x1, y1 = (round(v) for v in truth[0].box)
        (cells / f"{i:03d}.bmp").write_bytes(encode(pixels[y0:y1, x0:x1].copy(), "BMP"))
        (cells / f"{i:03d}.png").write_bytes(encode(pixels[y0:y1, x0:x1, 0] * 0 + 128, "PNG"))
    clean = inside("train", "classifier", config(0), "--out", tmp_path / "run")
    assert clean.code == 0, clean.err
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert record["leaking_groups"] == 0
    assert [stage["epochs"] for stage in record["stages_before"]] == [2]
    first, last = (load_file(tmp_path / "run" / p / WEIGHTS) for p in ("stage-1", "."))
    changed = [float((last[k].float() - first[k].float()).norm() / first[k].float().norm()) for k in first]
    assert max(changed) > 0
    assert np.median(changed) < 0.5  # one epoch from the weights that were handed on, not from chance


def test_an_unknown_network_and_key_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    for content, word in (({"network": "resnet"}, "one of: smallnet"), ({"lerning_rate": 1}, "learning_rate")):
        config.write_text(yaml.safe_dump(content))
        answer = inside("train", "classifier", config, "--data", "bccd", "--split", "s", "--out", tmp_path / "run")
        assert answer.code == 2
        assert word in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_hybrid_and_an_ensemble_go_the_same_way_and_run_without_scikit_learn(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, export, verify, evaluate; then answered where torch, scikit-learn and scikit-image cannot be imported."""
    monkeypatch.setenv("SMEAR_DATA", str(home))
    network = home / "net.yaml"
    network.write_text(yaml.safe_dump({"image_size": 32, "epochs": 3, "batch": 8, "network": "lenet"}))
    hybrid = home / "hybrid.yaml"
    svm = {"features": [{"network": str(network)}], "head": {"name": "svm-rbf"}, "views": 2, "image_size": 32}
    hybrid.write_text(yaml.safe_dump(svm))
    both = home / "both.yaml"
    both.write_text(yaml.safe_dump({"members": [str(hybrid), str(network)], "rule": "weighted", "image_size": 32}))
    for config in (hybrid, both):
        out = home / config.stem
        fixed = ("--data", home / "drawn.yaml", "--split", home / "drawn-split.csv", "--out", out / "run")
        trained = smear("train", "classifier", config, *fixed, cwd=home)
        assert trained.code == 0, trained.err[-3000:]
        exported = smear("bundle", "export", out / "run", "--out", out / "bundle", cwd=home)
        assert exported.code == 0, exported.err[-3000:]
        verified = smear("bundle", "verify", out / "bundle", "--most", 3, cwd=home)
        assert verified.code == 0, verified.out
        assert "BROKEN" not in verified.out
        fixed = ("--data", home / "drawn.yaml", "--split-file", home / "drawn-split.csv", "--bootstrap", 20)
        measured = smear("evaluate", "classifier", out / "bundle", *fixed, "--out", out / "figures", cwd=home)
        assert measured.code == 0, measured.err[-3000:]
        blocked = "import sys\nfor name in ('torch', 'sklearn', 'skimage', 'timm'):\n    sys.modules[name] = None\n"
        script = blocked + (
            "from pathlib import Path\nimport numpy as np\n"
            "from detect.bundles.folder import open_bundle\nfrom detect.classify.bundled import BundleClassifier\n"
            "model = BundleClassifier(open_bundle(sys.argv[1]))\n"
            "field = np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8)\n"
            "told = model.predict([model.cut(field, (10, 10, 60, 60))])\n"
            "assert told.shape == (1, 2) and abs(told.sum() - 1) < 1e-5\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", script, str(out / "bundle")], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
