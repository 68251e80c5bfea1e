"""`smear review` where its parts are missing, and which database it would use, started and stopped."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
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


_COMMAND = """
import sys
from pathlib import Path
from detect.review.database import start
print(start(sys.argv[1], Path(sys.argv[2])), flush=True)
if sys.argv[3] == "die":
    import os
    os._exit(1)
input()
"""


@pytest.mark.long
def test_the_last_command_to_end_stops_a_server_that_several_share(tmp_path: Path) -> None:
    program = database.find_program().detail
    if not program:
        pytest.skip("no mongod on this machine")

    def command(how: str) -> tuple[subprocess.Popen[str], str]:
        words = [sys.executable, "-c", _COMMAND, program, str(tmp_path), how]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    first, uri = command("stay")
    second, again = command("stay")
    assert uri == again
    first.communicate("\n")
    assert first.returncode == 0
    port = int(uri.split(":")[2].split("/")[0])
    assert database._serves(port, tmp_path)  # the one that started it is gone
    assert not database._serves(port, tmp_path / "elsewhere")
    second.communicate("\n")
    assert second.returncode == 0
    assert not database._listens(port)
    killed, uri = command("die")
    killed.wait()
    left = int(uri.split(":")[2].split("/")[0])
    assert database._listens(left)  # nobody stopped it
    third, again = command("stay")
    assert again == uri
    third.communicate("\n")
    assert not database._listens(left)


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
