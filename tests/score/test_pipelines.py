"""Pipelines that lack a node, empty fields and fields of thousands of cells, through the real command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from detect.data.smear import field as fields
from detect.data.smear import slide
from detect.data.smear.settings import load_smear
from detect.score.store import Store
from detect.types import Image
from tests.cli.command import Answer, inside
from tests.data import encode

TILES = 9  # across and down
WHOLE: dict[str, Any] = {
    "detector": "cells-yolov8n",
    "nodes": [{"bundle": "wbc-types", "ask": ["WBC"]}],
    "morphology": "classical",
    "fab": True,
}
MISSING = {
    "nothing": {},
    "type": {"nodes": []},
    "morphology": {"morphology": None},
    "FAB": {"fab": False},
    "all but the detector": {"nodes": [], "morphology": None, "fab": False},
}


@pytest.fixture(scope="module")
def tile() -> Image:
    """A drawn field, small."""
    settings = load_smear("train")
    drawn = fields.draw(settings, slide.draw(settings, 3, 1), 3, 0, 640, 640).pixels
    return np.ascontiguousarray(cv2.resize(drawn, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="module")
def home(tile: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of one small field, of none with cells, and of thousands of cells in one field."""
    home = tmp_path_factory.mktemp("pipelines") / "in"
    rows = [np.hstack([tile[:, ::-1] if (i + j) % 2 else tile for j in range(TILES)]) for i in range(TILES)]
    pictures = {"crowd": np.vstack(rows), "empty": np.full((300, 300, 3), 230, np.uint8), "few": tile}
    for name, pixels in pictures.items():
        (home / name).mkdir(parents=True)
        (home / name / "0.png").write_bytes(encode(pixels, "PNG"))
    return home


def scored(home: Path, out: Path, only: str | None = None, **changes: Any) -> Answer:
    told = {k: v for k, v in (WHOLE | changes).items() if v is not None}
    out.mkdir(parents=True)
    (out / "p.yaml").write_text(yaml.safe_dump(told), "utf-8")
    return inside("score", home / only if only else home, "--out", out / "run", "--pipeline", out / "p.yaml")


def cells(out: Path) -> list[dict[str, Any]]:
    return [row for table in Store(out / "run").cells() for row in table.to_pylist()]


@pytest.mark.parametrize("missing", MISSING)
def test_a_pipeline_without_a_node_answers_the_rest(home: Path, tmp_path: Path, missing: str) -> None:
    few = tmp_path / "few"
    few.mkdir()
    (few / "0.png").write_bytes((home / "few" / "0.png").read_bytes())
    answer = scored(few, tmp_path / "out", **MISSING[missing])
    assert answer.code == 0, answer.err
    found = cells(tmp_path / "out")
    white = [c for c in found if c["label"] == "WBC"]
    assert white
    assert len(found) > len(white)
    told = WHOLE | MISSING[missing]
    assert all((c["type"] is not None) == bool(told["nodes"]) for c in white)
    assert all(bool(c["attributes"]) == (told["morphology"] is not None) for c in white)
    assert {row["trained_on"] for row in Store(tmp_path / "out" / "run").fields().to_pylist()} == {"real"}
    assert (tmp_path / "out" / "run" / "patterns.csv").exists() == bool(told["fab"])


@pytest.mark.long
def test_a_field_of_thousands_of_cells_and_one_of_none(home: Path, tmp_path: Path) -> None:
    answer = scored(home, tmp_path / "out")
    assert answer.code == 0, answer.err
    found = cells(tmp_path / "out")
    count = {name: sum(c["slide"] == name for c in found) for name in ("crowd", "empty", "few")}
    assert count["empty"] == 0
    assert count["crowd"] > 3000
    # Cells at the edges of tiles are halves that meet their mirror images: some are one cell there, some are two.
    assert count["crowd"] == pytest.approx(TILES**2 * count["few"], rel=0.1)
    rows = {row["slide"]: row for row in Store(tmp_path / "out" / "run").fields().to_pylist()}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert "capped" not in rows["crowd"]["flags"]
    assert dict(rows["empty"]["counts"]) == {}
    white = [c for c in found if c["label"] == "WBC" and c["slide"] == "crowd"]
    assert white
    assert all(c["type"] is not None for c in white)
