"""Broken files among good ones: every good one is scored, every broken one is a row with its reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import SCRIPT, Answer, inside

Table = Callable[[Path, str], list[dict[str, Any]]]
Mixed = tuple[Path, dict[str, str], Answer]


def test_some_failed_is_exit_code_3(mixed: Mixed) -> None:
    _, expected, answer = mixed
    failed = sum(what != "ok" for what in expected.values())
    assert answer.code == 3, answer.err
    assert failed >= 25
    assert f"{failed} fields not read: the report says why" in answer.out


def test_every_file_is_a_row(mixed: Mixed, table: Table) -> None:
    out, expected, _ = mixed
    assert [r["field"] for r in table(out, "fields")] == sorted(expected)


def test_good_files_are_scored_and_broken_ones_say_why(mixed: Mixed, table: Table) -> None:
    out, expected, _ = mixed
    for row in table(out, "fields"):
        what = expected[row["field"]]
        if what == "ok" and row["status"] == "skipped":
            first = row["reason"].removeprefix("the same picture as ")
            assert expected[first] == "ok"
            assert (out.parent / "in" / first).read_bytes() == (out.parent / "in" / row["field"]).read_bytes()
        elif what == "ok":
            assert (row["status"], row["reason"]) == ("ok", ""), row["field"]
            assert row["width"] > 0
        else:
            assert row["status"] == "failed", row["field"]
            if row["field"].endswith(".svs"):  # tried as a whole slide, where that extra is installed
                what = "whole slide"
            assert what in row["reason"], row["field"]
            assert (row["width"], row["counts"]) == (None, [])


def test_no_cell_comes_from_a_broken_file(mixed: Mixed, table: Table) -> None:
    out, expected, _ = mixed
    cells = table(out, "cells")
    assert {expected[c["field"]] for c in cells} == {"ok"}
    assert {c["slide"] for c in cells} >= {"slide-a", "slide-b", "slide-c"}


def test_good_fields_are_scored_as_without_the_broken_ones(mixed: Mixed, table: Table, tmp_path: Path) -> None:
    out, _, _ = mixed
    alone = tmp_path / "in"
    for slide in ("slide-a", "slide-b", "slide-c"):
        shutil.copytree(out.parent / "in" / slide, alone / slide)
    assert inside("score", alone, "--out", tmp_path / "out").code == 0
    ours = [c for c in table(out, "cells") if c["slide"] != "slide-odd"]
    theirs = table(tmp_path / "out", "cells")
    assert [(c["field"], c["cell"], c["label"], c["type"]) for c in ours] == [
        (c["field"], c["cell"], c["label"], c["type"]) for c in theirs
    ]


def test_the_record_counts_failures_and_other_files(mixed: Mixed) -> None:
    out, expected, _ = mixed
    record = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    failed = sum(what != "ok" for what in expected.values())
    told = record["fields"]
    assert (told["found"], told["failed"]) == (len(expected), failed)
    assert told["ok"] + told["skipped"] == len(expected) - failed
    assert told["skipped"] < 10
    assert record["other_files"] == ["slide-a/notes.txt"]


def test_the_report_names_each_failed_field(mixed: Mixed, table: Table) -> None:
    out, _, _ = mixed
    page = unescape((out / "report" / "index.html").read_text("utf-8"))
    section = page[page.index("Fields that were not read") : page.index("<h2>Models")]
    for row in table(out, "fields"):
        assert (f"<td>{row['field']}</td>" in section) == (row["status"] != "ok")
        assert row["reason"] in section
    assert "notes.txt" in page


def test_a_run_of_nothing_but_broken_files_still_ends(tmp_path: Path, table: Table) -> None:
    (tmp_path / "in" / "s").mkdir(parents=True)
    (tmp_path / "in" / "s" / "a.jpg").write_bytes(b"")
    (tmp_path / "in" / "s" / "b.png").write_bytes(b"<html>")
    answer = inside("score", tmp_path / "in", "--out", tmp_path / "out")
    assert answer.code == 3
    assert [r["status"] for r in table(tmp_path / "out", "fields")] == ["failed", "failed"]
    assert table(tmp_path / "out", "cells") == []
    assert "s: 0 fields, 2 not read, 0 white cells" in answer.out
    assert "Fields that were not read" in (tmp_path / "out" / "report" / "index.html").read_text("utf-8")


def test_a_name_that_is_not_unicode_does_not_end_the_run(slides: Path, tmp_path: Path, table: Table) -> None:
    good = slides / "slide-a" / "field-01.jpg"
    (tmp_path / "in" / "s").mkdir(parents=True)
    odd = os.fsencode(tmp_path / "in" / "s") + b"/f\xfc1.jpg"  # Latin-1, as an old disk writes it
    try:
        Path(os.fsdecode(odd)).write_bytes(good.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    shutil.copy(good, tmp_path / "in" / "s" / "good.jpg")
    answer = inside("score", tmp_path / "in", "--out", tmp_path / "out")
    assert answer.code in (0, 3)
    assert len(table(tmp_path / "out", "fields")) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_with_the_name_of_an_image_does_not_stop_the_run(slides: Path, tmp_path: Path, table: Table) -> None:
    (tmp_path / "in" / "s").mkdir(parents=True)
    shutil.copy(slides / "slide-a" / "field-01.jpg", tmp_path / "in" / "s" / "good.jpg")
    os.mkfifo(tmp_path / "in" / "s" / "pipe.jpg")
    command = [SCRIPT, "score", tmp_path / "in", "--out", tmp_path / "out"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail("the run waits for ever on a pipe")
    assert done.returncode == 3
    rows = {r["field"]: r for r in table(tmp_path / "out", "fields")}
    assert rows["s/good.jpg"]["status"] == "ok"
    assert rows["s/pipe.jpg"]["status"] == "failed"
