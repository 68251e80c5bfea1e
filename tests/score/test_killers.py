"""Pictures that take a worker down with them: each is a row that says so, and every other field is scored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import drawn as sample
from tests.cli.command import SCRIPT

Table = Callable[[Path, str], list[dict[str, Any]]]

# Put in front of the decoder of every process that the command starts, as a fault in a library would be.
FAULT = """
import os, signal, time
from detect.images import decode

real = decode.sized

def faulty(data, *more):
    if b"KILLS" in data[-16:]:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANGS" in data[-16:]:
        time.sleep(1000)
    if b"EATS" in data[-16:]:
        held = [bytearray(os.urandom(1 << 20)) * 16 for _ in range(256)]
        time.sleep(1000)
    if b"BREAKS" in data[-16:]:
        raise RuntimeError("a fault of ours")
    return real(data, *more)

decode.sized = faulty
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose presence on the path makes the decoder faulty."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "sitecustomize.py").write_text(FAULT)
    return folder


def score(slides: Path, out: Path, faulty: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The real command with a faulty decoder."""
    environment = os.environ | {"PYTHONPATH": str(faulty)}
    command = [SCRIPT, "score", slides, "--out", out, "--batch", "4", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)


def spoilt(home: Path, marks: dict[str, bytes]) -> Path:
    """Two slides of four fields, some of which bear a mark."""
    slides = home / "slides"
    sample.write_slides(slides, 4, 9)
    shutil.rmtree(slides / "slide-c")
    for name, mark in marks.items():
        with (slides / name).open("ab") as file:
            file.write(mark)
    return slides


@pytest.mark.parametrize(
    ("mark", "options", "why"),
    [
        (b"KILLS", (), "SIGSEGV"),
        pytest.param(b"HANGS", ("--time-limit", "6"), "took longer than 6 s", marks=pytest.mark.long),
        pytest.param(b"EATS", ("--memory-limit", "2500"), "took more than 2500 MiB", marks=pytest.mark.long),
        pytest.param(b"BREAKS", (), "RuntimeError: a fault of ours", marks=pytest.mark.long),
        pytest.param(
            b"HANGS", ("--engine", "ray", "--time-limit", "6"), "took longer than 6 s", marks=pytest.mark.long
        ),
    ],
)
def test_a_field_that_ends_its_worker_is_a_row(
    tmp_path: Path, faulty: Path, table: Table, mark: bytes, options: tuple[str, ...], why: str
) -> None:
    slides = spoilt(tmp_path, {"slide-a/field-02.jpg": mark})
    done = score(slides, tmp_path / "out", faulty, *options, "--scale", "fit")
    assert done.returncode == 3, done.stderr
    rows = {row["field"]: row for row in table(tmp_path / "out", "fields")}
    assert len(rows) == 8
    bad = rows.pop("slide-a/field-02.jpg")
    assert bad["status"] == "failed"
    assert why in bad["reason"]
    assert {row["status"] for row in rows.values()} == {"ok"}


@pytest.mark.long
def test_several_killers_in_one_part_are_all_found_and_remembered(tmp_path: Path, faulty: Path, table: Table) -> None:
    bad = {"slide-a/field-01.jpg": b"KILLS", "slide-a/field-04.jpg": b"KILLS"}
    slides = spoilt(tmp_path, bad)
    done = score(slides, tmp_path / "out", faulty, "--scale", "fit")
    assert done.returncode == 3, done.stderr
    rows = {row["field"]: row["status"] for row in table(tmp_path / "out", "fields")}
    assert {name for name, status in rows.items() if status == "failed"} == set(bad)
    told = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    assert {line["field"] for line in told if line["event"] == "killed"} == set(bad)


@pytest.mark.long
def test_a_slide_that_cannot_be_measured_for_it_is_scored_all_the_same(
    tmp_path: Path, faulty: Path, table: Table
) -> None:
    slides = spoilt(tmp_path, {f"slide-a/field-0{i}.jpg": b"KILLS" for i in (1, 2, 3)})
    done = score(slides, tmp_path / "out", faulty)
    assert done.returncode == 3, done.stderr
    rows = {row["field"]: row["status"] for row in table(tmp_path / "out", "fields")}
    assert [rows[f"slide-a/field-0{i}.jpg"] for i in (1, 2, 3, 4)] == ["failed", "failed", "failed", "ok"]
    assert {rows[f"slide-b/field-0{i}.jpg"] for i in (1, 2, 3, 4)} == {"ok"}
