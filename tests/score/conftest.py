"""Drawn slides, and runs over them that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import drawn as sample
from tests.cli.command import Answer, inside, smear
from tests.data import bad_files

SMALL = ("--batch", "2", "--workers", "2")  # parts of two fields
# Files of a run that must be the same bytes each time.
RESULTS = ("cells/part-00000.parquet", "fields/part-00000.parquet", "slides.parquet", "slides.csv")


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn slides of two fields."""
    folder = tmp_path_factory.mktemp("drawn") / "slides"
    sample.write_slides(folder, 2, 7)
    return folder


@pytest.fixture(scope="session")
def scored(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """The run folder of a plain run of the installed script, and what the script said."""
    out = tmp_path_factory.mktemp("scored") / "out"
    answer = smear("score", slides, "--out", out)
    assert answer.code == 0, answer.err
    return out, answer


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides of eight fields."""
    folder = tmp_path_factory.mktemp("night") / "slides"
    sample.write_slides(folder, 8, 5)
    return folder


@pytest.fixture(scope="session")
def whole(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a night that nothing stopped, in small parts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    answer = smear("score", night, "--out", out, *SMALL)
    assert answer.code == 0, answer.err
    return out


@pytest.fixture(scope="session")
def mixed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], Answer]:
    """Run folder of good slides with a slide of odd and broken files among them, what is expected, the answer."""
    home = tmp_path_factory.mktemp("mixed")
    sample.write_slides(home / "in", 1, 3)
    expected = {f"slide-odd/{name}": what for name, what in bad_files(home / "in" / "slide-odd").items()}
    expected |= {p.relative_to(home / "in").as_posix(): "ok" for p in (home / "in").glob("slide-[abc]/*.jpg")}
    (home / "in" / "slide-a" / "notes.txt").write_text("counted on Tuesday")
    answer = inside("score", home / "in", "--out", home / "out")
    return home / "out", expected, answer


@pytest.fixture(scope="session")
def table() -> Callable[[Path, str], list[dict[str, Any]]]:
    """All rows of `cells` or `fields` of a run folder."""

    def rows(out: Path, name: str) -> list[dict[str, Any]]:
        parts = sorted((out / name).glob("part-*.parquet"))
        return pa.concat_tables([pq.read_table(p) for p in parts]).to_pylist()

    return rows
