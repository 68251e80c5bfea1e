"""`smear review` where its parts are missing, and which database it would use. Starts none."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from detect.review import database
from tests.cli.command import inside


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package was not installed."""
    real = importlib.util.find_spec

    def find(wanted: str, package: str | None = None) -> ModuleSpec | None:
        return None if wanted == name else real(wanted, package)

    monkeypatch.setattr(database, "find_spec", find)


@pytest.mark.parametrize("words", [("pull", "x-y", "--out", "o"), ("list",), ("app", "x-y")])
def test_without_fiftyone_the_extra_is_named(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    without("fiftyone", monkeypatch)
    answer = inside("review", *words)
    assert answer.code == 2
    assert "needs the 'review' extra" in answer.err
    assert "pip install 'smear-detect[review]'" in answer.err


def test_opening_without_fiftyone_leaves_no_snapshot(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMEAR_REVIEWS", str(tmp_path / "reviews"))
    without("fiftyone", monkeypatch)
    answer = inside("review", "open", source, "--annotator", "a", "--no-app")
    assert answer.code == 2
    assert "'review' extra" in answer.err
    assert not (tmp_path / "reviews").exists()


def test_databases_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(database.URI, "mongodb://lab.example:27017")
    assert database.find_server() == database.Server("given", "mongodb://lab.example:27017")
    monkeypatch.delenv(database.URI)
    package = tmp_path / "fiftyone"
    (package / "db" / "bin").mkdir(parents=True)
    spec = ModuleSpec("fiftyone", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(database, "find_spec", lambda name: spec)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert database.find_server().kind == "none"
    program = tmp_path / "bin" / "mongod"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    assert database.find_server() == database.Server("local", str(program))
    (package / "db" / "bin" / "mongod").write_text("")
    assert database.find_server().kind == "fiftyone"
    monkeypatch.setattr(database, "_PATIENCE", 5)
    with pytest.raises(database.ReviewError, match="mongod did not start"):
        database.start(str(program), tmp_path / "data")


def test_without_any_mongodb_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_server", lambda: database.Server("none"))
    answer = inside("review", "list")
    assert answer.code == 2
    assert "there is none" in answer.err
    assert database.PACKAGE in answer.err


def test_bad_names_and_versions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    answer = inside("review", "diff", tmp_path / "folder", tmp_path / "folder")
    assert answer.code == 2
    assert "review.yaml" in answer.err
    answer = inside("review", "diff", "no-such-snapshot", "other")
    assert answer.code == 2
    assert "no snapshot 'no-such-snapshot'" in answer.err
    answer = inside("review", "open", tmp_path / "folder", "--annotator", "a", "--prelabel", "--no-app")
    assert answer.code == 2
    assert "--predictions" in answer.err
