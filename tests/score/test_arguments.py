"""What a run refuses, and that refusing deletes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.cli.command import Answer, inside, smear
from tests.score.conftest import RESULTS


@pytest.fixture
def one(slides: Path, tmp_path: Path) -> Path:
    """A folder with one slide of one field, which may be spoilt."""
    folder = tmp_path / "in"
    (folder / "s").mkdir(parents=True)
    shutil.copy(slides / "slide-a" / "field-01.jpg", folder / "s" / "f.jpg")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_refused(answer: Answer, *words: str) -> None:
    """Exit code 2, one message with a remedy, no traceback."""
    assert answer.code == 2, answer.out + answer.err
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--batch", "0"), ("batch", "greater than or equal to 1")),
        (("--batch", "many"), ("--batch",)),
        (("--workers", "-1"), ("workers",)),
        (("--threshold", "WBC"), ("--threshold WBC", "CLASS=VALUE")),
        (("--threshold", "WBC=2"), ("thresholds.WBC", "less than or equal to 1")),
        (("--threshold", "Blast=0.5"), ("threshold Blast", "WBC, RBC, Platelet")),
        (("--min-score", "1.5"), ("min_score", "less than or equal to 1")),
        (("--runtime", "tensorflow"), ("runtime", "openvino", "onnxruntime")),
        (("--engine", "spark"), ("engine", "local", "ray")),
        (("--stop-at", "0"), ("stop_at",)),
        (("--resume", "--overwrite"), ("exclude each other",)),
        (("--precision", "int4"), ("precision", "bf16")),
        (("--precision", "int8"), ("int8", "remedy")),
        (("--runtime", "onnxruntime", "--precision", "bf16"), ("bf16", "remedy")),
        (("--detector", "nowhere"), ("no bundle 'nowhere'", "cells-yolov8n")),
        (("--detector", "wbc-types"), ("this is a classifier, not a detector",)),
        (("--classifier", "cells-yolov8n"), ("this is a detector, not a classifier",)),
        (("--colour",), ("--colour",)),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    one: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    check_refused(inside("score", one, "--out", tmp_path / "out", *options), *words)
    assert not (tmp_path / "out").exists()


def test_several_bad_options_are_listed_together(one: Path, tmp_path: Path) -> None:
    answer = inside("score", one, "--out", tmp_path / "out", "--batch", 0, "--workers", -2)
    check_refused(answer, "2 mistakes", "batch", "workers", "remedy")


def test_the_script_exits_with_2(one: Path, tmp_path: Path) -> None:
    check_refused(smear("score", one / "none", "--out", tmp_path / "out"), "no such folder", "remedy")
    check_refused(smear("score", one), "--out")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "slide").mkdir(parents=True)
    (tmp_path / "in" / "slide" / "readme.md").write_text("none yet")
    check_refused(inside("score", tmp_path / "in", "--out", tmp_path / "out"), "no images in it (1 other files)")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_and_left_alone(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years")
    check_refused(inside("score", one, "--out", out), "not empty", "--overwrite")
    check_refused(inside("score", one, "--out", out, "--overwrite"), "thesis.txt", "nothing was deleted")
    assert contents(out) == {"thesis.txt": b"three years"}


def test_an_earlier_run_is_overwritten_only_when_told(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert inside("score", one, "--out", out).code == 0
    before = contents(out)
    check_refused(inside("score", one, "--out", out), "not empty")
    assert contents(out) == before
    (out / "cells" / "part-00007.parquet").write_bytes(b"of an older, longer run")
    assert inside("score", one, "--out", out, "--overwrite").code == 0
    after = contents(out)
    assert set(after) == set(before)
    assert all(after[name] == before[name] for name in RESULTS)


def test_a_run_with_something_else_in_it_is_not_overwritten(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert inside("score", one, "--out", out).code == 0
    (out / "my counts.xlsx").write_bytes(b"mine")
    before = contents(out)
    check_refused(inside("score", one, "--out", out, "--overwrite"), "my counts.xlsx")
    assert contents(out) == before


def test_an_output_that_is_a_file_is_refused(one: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    check_refused(inside("score", one, "--out", tmp_path / "out"), "is a file")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("place", [".", "..", "../in/s/.."])
def test_the_slides_are_never_written_over(one: Path, place: str) -> None:
    before = contents(one.parent)
    for more in ((), ("--overwrite",)):
        check_refused(inside("score", one, "--out", one / place, *more), "overwrite the slides")
    assert contents(one.parent) == before


def test_an_output_inside_the_input_is_not_scored_the_next_time(one: Path) -> None:
    out = one / "results"
    assert inside("score", one, "--out", out).code == 0
    (out / "report" / "shot.jpg").write_bytes((one / "s" / "f.jpg").read_bytes())
    before = {name: (out / name).read_bytes() for name in RESULTS}
    assert inside("score", one, "--out", out, "--overwrite").code == 0
    assert {name: (out / name).read_bytes() for name in RESULTS} == before
    record = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    assert record["fields"]["found"] == 1
    assert record["other_files"] == []


def test_a_folder_whose_only_images_are_in_the_output_is_refused(one: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert inside("score", one, "--out", home / "results").code == 0
    (home / "results" / "report" / "shot.jpg").write_bytes((one / "s" / "f.jpg").read_bytes())
    check_refused(inside("score", home, "--out", home / "results", "--overwrite"), "no images")


def test_names_in_square_brackets_are_printed_whole(one: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    shutil.copytree(one, slides / "[smith] 12")
    answer = inside("score", slides, "--out", tmp_path / "o[may]")
    assert answer.code == 0
    assert "[smith] 12: 1 fields" in answer.out
    assert f"report: {tmp_path / 'o[may]' / 'report' / 'index.html'}" in answer.out


def test_two_bundles_of_one_name_are_refused(one: Path, tmp_path: Path) -> None:
    twice = ("--classifier", "wbc-types", "--classifier", "wbc-types")
    check_refused(inside("score", one, "--out", tmp_path / "o", *twice), "share the name")


def test_pictures_that_are_not_read_are_failed_fields_and_others_are_told(one: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    shutil.copytree(one, slides / "a")
    (slides / "b").mkdir()
    (slides / "b" / "scan.svs").write_bytes(b"a slide")
    (slides / "b" / "notes.txt").write_text("two cells", "utf-8")
    answer = inside("score", slides, "--out", tmp_path / "o")
    assert answer.code == 3
    assert "1 files that are no pictures were left alone: 1 .txt" in answer.out
    assert "b: 0 fields, 1 not read" in answer.out
