"""Every verb: help, errors, and those that are not tested elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from detect import __version__, assets
from detect.cli.main import app
from tests.cli.command import inside, smear


def verbs(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Each command of the tree with the words that call it."""
    out = [(path, command)]
    for name, child in getattr(command, "commands", {}).items():
        out += verbs(child, (*path, name))
    return out


TREE = verbs(typer.main.get_command(app))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize(("path", "command"), TREE, ids=[" ".join(path) or "smear" for path, _ in TREE])
def test_every_verb_has_help(path: tuple[str, ...], command: Any) -> None:
    answer = inside(*path, "--help")
    assert answer.code == 0
    assert "Usage:" in answer.out
    assert (command.help or "").strip()
    for parameter in command.params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), f"{' '.join(path)}: {parameter.name} has no help"


def test_the_verbs_are_all_there() -> None:
    names = {" ".join(path) for path, command in TREE if not getattr(command, "commands", None)}
    assert names >= {
        "score",
        "doctor",
        "data synthesize",
        "data split",
        "data split-cells",
        "train detector",
        "train classifier",
        "evaluate detector",
        "evaluate classifier",
        "bundle export",
        "bundle verify",
        "bundle show",
    }


def test_the_installed_script_answers() -> None:
    answer = smear("--version")
    assert (answer.code, answer.out.strip()) == (0, f"smear-detect {__version__}")
    assert "not a diagnosis" in " ".join(smear("--help").out.split())


def test_an_unknown_verb_is_code_2() -> None:
    answer = inside("scare")
    assert answer.code == 2
    assert "scare" in answer.err


def test_doctor_names_parts_engines_and_bundles() -> None:
    answer = inside("doctor")
    assert answer.code == 0, answer.out
    for word in ("numpy", "engine onnxruntime", "one opencv", "extra train", "GPU"):
        assert word in answer.out
    for name in assets.released():
        assert f"bundle {name}" in answer.out
    assert "problem" not in answer.out


def test_doctor_finds_an_altered_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(assets.RELEASED_BUNDLES / "wbc-types", tmp_path / "wbc-types")
    (tmp_path / "wbc-types" / "model.onnx").write_bytes(b"altered")
    monkeypatch.setattr(assets, "RELEASED_BUNDLES", tmp_path)
    answer = inside("doctor")
    assert answer.code == 1
    assert "model.onnx was altered" in answer.out
    assert "remedy" in answer.out


def test_doctor_says_when_an_engine_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detect.runtime.base.installed", lambda: [])
    answer = inside("doctor")
    assert answer.code == 1
    assert "nothing can be scored" in answer.out
    assert "pip install onnxruntime" in answer.out


def test_a_synthetic_set_is_not_drawn_over_anything(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"mine")
    answer = inside("data", "synthesize", "--out", tmp_path)
    assert answer.code == 2
    assert "not empty" in answer.err
    assert digests(tmp_path) == {"mine.jpg": hashlib.sha256(b"mine").hexdigest()}


@pytest.mark.parametrize("words", [("--fields", 0), ("--slides", 10_000), ("--size", 100), ("--px-per-um", 0)])
def test_a_synthetic_set_has_a_size(tmp_path: Path, words: tuple[object, ...]) -> None:
    assert inside("data", "synthesize", "--out", tmp_path / "x", *words).code == 2
    assert not (tmp_path / "x").exists()


def test_show_prints_the_card(tmp_path: Path) -> None:
    answer = inside("bundle", "show", "wbc-types")
    assert answer.code == 0
    card = assets.RELEASED_BUNDLES / "wbc-types" / "bundle.yaml"
    assert yaml.safe_load(answer.out)["files"] == yaml.safe_load(card.read_text("utf-8"))["files"]
    assert inside("bundle", "show", tmp_path).code == 2


@pytest.mark.long
@pytest.mark.parametrize("name", assets.released())
def test_released_bundles_verify(name: str) -> None:
    answer = smear("bundle", "verify", name, "--most", 6)
    assert answer.code == 0, answer.out + answer.err
    assert "hashes match the card" in answer.out
    assert ("nothing to compare" if name == "classical" else "holds") in answer.out
    assert "BROKEN" not in answer.out
