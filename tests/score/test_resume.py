"""Runs that are stopped, killed or robbed of their input end, once they are gone on with, as if nothing had been."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.cli.command import SCRIPT, inside, smear
from tests.score.conftest import SMALL

# What a run knows of times and machines; everything else must be the same bytes.
TIMES = {"run.yaml", "journal.jsonl"}
Table = Callable[[Path, str], list[dict[str, Any]]]


def results(out: Path) -> dict[str, bytes]:
    """Every file of a run that must come out the same, by its place."""
    found = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items()) if name not in TIMES}


def events(out: Path) -> list[str]:
    """What the journal tells, in order."""
    return [json.loads(line)["event"] for line in (out / "journal.jsonl").read_text().splitlines()]


def begun(out: Path, night: Path, parts: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The real command, once it has written some parts."""
    process = subprocess.Popen([SCRIPT, "score", night, "--out", out, *SMALL, *more], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (out / "journal.jsonl").is_file() and events(out).count("part") >= parts:
                break
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("parts", [pytest.param(0, marks=pytest.mark.long), 3])
def test_killed_and_gone_on_with(night: Path, whole: Path, tmp_path: Path, parts: int) -> None:
    out = tmp_path / "out"
    for process in begun(out, night, parts):
        process.kill()
    answer = inside("score", night, "--out", out, "--resume")
    assert answer.code == 0, answer.err
    assert results(out) == results(whole)
    assert yaml.safe_load((out / "run.yaml").read_text())["state"] == "finished"


@pytest.mark.long
def test_a_signal_finishes_the_parts_in_hand(night: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for process in begun(out, night, 1):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    told = events(out)
    assert told[-1] == "stopped"
    assert 1 <= told.count("part") < 12
    assert not list(out.rglob("*.partial"))
    before = {name: data for name, data in results(out).items() if name.startswith("fields/")}
    assert inside("score", night, "--out", out, "--resume", "--workers", "1").code == 0
    assert results(out) == results(whole)
    assert before.items() <= results(out).items()


def test_parts_that_the_disk_lost_are_made_again(night: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "cells" / "part-00002.parquet").write_bytes(b"")
    (out / "fields" / "part-00005.parquet").unlink()
    with (out / "journal.jsonl").open("ab") as file:
        file.write(b'{"event": "part", "par')  # as a crash leaves it
    (out / "cells" / ".part-00003.parquet.77.partial").write_bytes(b"half")
    assert inside("score", night, "--out", out, "--resume").code == 0
    assert results(out) == results(whole)


def test_a_finished_run_is_not_done_again(night: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    answer = inside("score", night, "--out", out, "--resume")
    assert answer.code == 0
    assert events(out).count("part") == 12
    assert results(out) == results(whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--batch", "3"), ("begun with batch 2, not 3", "--overwrite")),
        (("--detector", "cells-yolov8n"), ("begun with pipeline", "remedy")),
    ],
)
def test_a_run_is_gone_on_with_as_it_was_begun(
    night: Path, whole: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    answer = inside("score", night, "--out", out, "--resume", *options)
    assert answer.code == 2
    for word in words:
        assert word in " ".join(answer.err.split())
    assert results(out) == results(whole)


@pytest.mark.long
def test_other_slides_are_refused(night: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.copytree(night, tmp_path / "other")
    answer = inside("score", tmp_path / "other", "--out", out, "--resume")
    assert answer.code == 2
    assert "begun with the slides in" in answer.err
    assert results(out) == results(whole)


@pytest.mark.long
def test_a_live_run_is_not_overwritten(night: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for process in begun(out, night, 1):
        process.send_signal(signal.SIGSTOP)
        before = results(out)
        answer = smear("score", night, "--out", out, "--overwrite")
        assert answer.code == 2
        assert "another process leads this run" in answer.err
        assert before.items() <= results(out).items()


@pytest.mark.long
def test_another_bundle_or_version_is_refused(night: Path, whole: Path, tmp_path: Path) -> None:
    for key, value, said in (("smear_detect", "0.0.1", "0.0.1"), ("bundles", {}, "has changed")):
        out = tmp_path / key
        shutil.copytree(whole, out)
        record = yaml.safe_load((out / "run.yaml").read_text()) | {key: value}
        (out / "run.yaml").write_text(yaml.safe_dump(record))
        answer = inside("score", night, "--out", out, "--resume")
        assert answer.code == 2
        assert said in answer.err


def test_going_on_with_nothing_is_to_begin(night: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "plan.parquet").write_bytes(b"")
    assert inside("score", night, "--out", out, *SMALL, "--resume").code == 0
    assert results(out) == results(whole)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    answer = inside("score", night, "--out", tmp_path / "mine", "--resume")
    assert answer.code == 2
    assert "not empty" in answer.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years"


@pytest.mark.long
def test_two_do_not_lead_one_run(night: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for process in begun(out, night, 1):
        process.send_signal(signal.SIGSTOP)
        answer = smear("score", night, "--out", out, "--resume")
        assert answer.code == 2
        assert "another process leads this run" in answer.err


@pytest.mark.long
def test_files_that_change_vanish_or_appear(night: Path, tmp_path: Path, table: Table) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    shutil.copytree(night, slides)
    for process in begun(out, slides, 1):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    done = {row["field"] for row in table(out, "fields")}
    changed, gone = sorted(p.relative_to(slides).as_posix() for p in slides.rglob("*.jpg"))[-2:]
    assert not {changed, gone} & done
    (slides / changed).write_bytes((night / "slide-a" / "field-01.jpg").read_bytes())
    (slides / gone).unlink()
    shutil.copy(night / "slide-a" / "field-01.jpg", slides / "slide-a" / "zz-new.jpg")
    answer = inside("score", slides, "--out", out, "--resume")
    assert answer.code == 3
    rows = {row["field"]: row for row in table(out, "fields")}
    assert len(rows) == 25
    for name, why in ((changed, "changed since"), (gone, "vanished since"), ("slide-a/zz-new.jpg", "appeared after")):
        assert rows[name]["status"] == "failed"
        assert why in rows[name]["reason"]
    assert sum(row["status"] == "ok" for row in rows.values()) == 22


@pytest.mark.long
def test_a_share_that_goes_away_stops_the_run_and_loses_nothing(night: Path, whole: Path, tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    shutil.copytree(night, slides)
    for process in begun(out, slides, 1):
        slides.rename(tmp_path / "away")
        assert process.wait(60) == 4
    (tmp_path / "away").rename(slides)
    assert inside("score", slides, "--out", out, "--resume").code == 0
    ours, theirs = results(out), results(whole)
    assert {n: d for n, d in ours.items() if "report" not in n} == {
        n: d for n, d in theirs.items() if "report" not in n
    }


def test_the_same_picture_twice_counts_once(night: Path, tmp_path: Path, table: Table) -> None:
    slides = tmp_path / "slides"
    (slides / "s").mkdir(parents=True)
    (slides / "t").mkdir()
    for name in ("s/a.jpg", "s/b.jpg", "t/a.jpg"):
        shutil.copy(night / "slide-a" / "field-01.jpg", slides / name)
    answer = inside("score", slides, "--out", tmp_path / "out")
    assert answer.code == 0
    assert "1 fields left out" in answer.out
    rows = {row["field"]: row for row in table(tmp_path / "out", "fields")}
    assert [rows[n]["status"] for n in ("s/a.jpg", "s/b.jpg", "t/a.jpg")] == ["ok", "skipped", "ok"]
    assert rows["s/b.jpg"]["reason"] == "the same picture as s/a.jpg"
    assert {c["field"] for c in table(tmp_path / "out", "cells")} <= {"s/a.jpg", "t/a.jpg"}


@pytest.mark.long
def test_a_slide_ends_when_enough_is_counted(night: Path, whole: Path, tmp_path: Path, table: Table) -> None:
    answers = [inside("score", night, "--out", tmp_path / w, *SMALL[:2], "--workers", w, "--stop-at", 3) for w in "12"]
    assert [a.code for a in answers] == [0, 0]
    assert results(tmp_path / "1") == results(tmp_path / "2")
    white: dict[str, int] = {}
    for cell in table(whole, "cells"):
        white[cell["field"]] = white.get(cell["field"], 0) + (cell["label"] == "WBC")
    for slide in ("slide-a", "slide-b", "slide-c"):
        counted = 0
        for row in (r for r in table(tmp_path / "1", "fields") if r["slide"] == slide):
            assert row["status"] == ("skipped" if counted >= 3 else "ok"), row["field"]
            counted += white.get(row["field"], 0) if row["status"] == "ok" else 0


def test_what_the_lab_knows_reaches_every_table(night: Path, tmp_path: Path, table: Table) -> None:
    known = tmp_path / "slides.csv"
    known.write_text(
        "slide,patient,specimen,stain,scale\nslide-a,P1,blood,MGG,0.1\nslide-b,P1,marrow,,\nslide-z,P2,,,\n"
    )
    out = tmp_path / "out"
    done = inside("score", night, "--out", out, "--manifest", known)
    assert done.code == 0
    assert "rows of the manifest that name no slide here: slide-z" in done.out
    told = {"slide-a": ("P1", "blood", "MGG"), "slide-b": ("P1", "marrow", None), "slide-c": (None, None, None)}
    tables = [table(out, "cells"), table(out, "fields"), pq.read_table(out / "slides.parquet").to_pylist()]
    for rows in tables:
        assert rows
        for row in rows:
            assert (row["patient"], row["specimen"], row["stain"]) == told[row["slide"]]
    assert yaml.safe_load((out / "run.yaml").read_text())["scales"]["slide-a"]["um_per_px"] == 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\nslide-a\n", ("no column 'slide'", ":1")),
        ("slide,colour\nslide-a,red\n", ("unknown column 'colour'", ":1")),
        ("slide,scale\nslide-a,0.1\nslide-a,0.2\n", ("second time", ":3")),
        ("slide,scale\nslide-a,x40\n", ("scale 'x40'", ":2")),
        ("slide,scale\n,0.1\n", ("no slide named", ":2")),
        ("slide,scale\nslide-a,0.1,7\n", ("more values", ":2")),
    ],
)
def test_a_manifest_that_is_wrong_says_where(night: Path, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "m.csv").write_text(text)
    answer = inside("score", night, "--out", tmp_path / "out", "--manifest", tmp_path / "m.csv")
    assert answer.code == 2
    for word in words:
        assert word in answer.err
    assert not (tmp_path / "out").exists()
