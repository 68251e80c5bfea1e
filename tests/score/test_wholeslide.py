"""Whole slides: a pyramid is taken apart where cells lie side by side, and its cells are those of its fields."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from detect.errors import ImageError, StoppedRunError
from detect.geometry import iou
from detect.images import wholeslide
from detect.images.folder import scan
from detect.score import apart
from detect.types import Image
from tests import drawn as sample
from tests.cli.command import SCRIPT, inside

pytest.importorskip("openslide", reason="the extra 'wsi' is not installed")
tifffile = pytest.importorskip("tifffile")

Table = Callable[[Path, str], list[dict[str, Any]]]
TILE = 2048
GROUND = (222, 214, 212)
MPP = 0.1


def side_by_side(seed: int) -> Image:
    """A tile of drawn fields."""
    tile = np.full((TILE, TILE, 3), GROUND, np.uint8)
    for k in range(12):
        pixels, _ = sample.field(seed * 100 + k, ["Neutrophil"] if k % 3 == 0 else [])
        y, x = divmod(k, 3)
        tile[64 + 480 * y : 544 + 480 * y, 64 + 640 * x : 704 + 640 * x] = pixels
    return tile


def piled_up(seed: int) -> Image:
    """A tile in which cells cover everything, several deep."""
    rng = np.random.default_rng(seed)
    tile = np.full((TILE, TILE, 3), (150, 70, 80), np.uint8)
    for x, y in rng.integers(0, TILE, (400, 2)):
        cv2.circle(tile, (int(x), int(y)), 40, (120, 50, 60), -1)
    return tile


def write_pyramid(path: Path, pixels: Image) -> None:
    """Tiled levels of a half, a quarter and so on, losslessly packed, with the scale."""
    with tifffile.TiffWriter(path) as out:
        level, k = pixels, 0
        while min(level.shape[:2]) >= 256:
            packed = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
            resolution = (1e4 / (MPP * 2**k), 1e4 / (MPP * 2**k))
            out.write(level, resolution=resolution, resolutionunit="CENTIMETER", subfiletype=int(k > 0), **packed)
            level, k = (
                np.ascontiguousarray(cv2.resize(level, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
                k + 1,
            )


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one slide: cells side by side in two of its six tiles, one piled up, three empty."""
    folder = tmp_path_factory.mktemp("pyramid") / "in"
    folder.mkdir()
    empty = np.full((TILE, TILE, 3), GROUND, np.uint8)
    rows = [[side_by_side(1), empty, empty], [empty, piled_up(3), side_by_side(4)]]
    write_pyramid(folder / "slide.tif", np.vstack([np.hstack(row) for row in rows]))
    return folder


@pytest.fixture(scope="module")
def scored(pyramid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its run folder."""
    out = tmp_path_factory.mktemp("scored") / "out"
    answer = inside("score", pyramid, "--out", out)
    assert answer.code == 0, answer.err
    return out


def test_only_regions_with_cells_side_by_side_are_fields(pyramid: Path) -> None:
    fields = apart.expand(scan(pyramid)).fields
    assert [f.region for f in fields] == [(0, 0, 2048, 2048), (4096, 2048, 6144, 4096)]
    assert {f.slide for f in fields} == {"slide.tif"}
    slide = wholeslide.WholeSlide(pyramid / "slide.tif")
    assert (slide.width, slide.height) == (6144, 4096)
    assert slide.mpp == pytest.approx(MPP, rel=1e-3)


def test_a_plain_tiff_is_a_field_as_before(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    tifffile.imwrite(tmp_path / "s" / "f.tif", side_by_side(1)[:512, :512], photometric="rgb")
    (field,) = apart.expand(scan(tmp_path)).fields
    assert field.region is None


def test_cells_of_the_slide_are_those_of_its_fields(pyramid: Path, scored: Path, tmp_path: Path, table: Table) -> None:
    fields = apart.expand(scan(pyramid)).fields
    corners = {}
    for number, field in enumerate(fields):
        name = f"s/f{number}.png"
        (tmp_path / "in" / "s").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), cv2.cvtColor(wholeslide.read_field(field), cv2.COLOR_RGB2BGR))
        corners[name] = (wholeslide.with_margin(field), field)
    assert inside("score", tmp_path / "in", "--out", tmp_path / "out", "--mpp", slide_mpp(pyramid)).code == 0
    expected = []
    for cell in table(tmp_path / "out", "cells"):
        (left, top, _, _), field = corners[cell["field"]]
        assert field.region is not None
        x0, y0, x1, y1 = (cell["x0"] + left, cell["y0"] + top, cell["x1"] + left, cell["y1"] + top)
        a, b, c, d = field.region
        edge = wholeslide.BORDER
        if a - edge <= (x0 + x1) / 2 < c + edge and b - edge <= (y0 + y1) / 2 < d + edge:
            expected.append((field.id, cell["label"], x0, y0, x1, y1))
    found = [(c["field"], c["label"], c["x0"], c["y0"], c["x1"], c["y1"]) for c in table(scored, "cells")]
    assert len(found) > 200
    assert [f[:2] for f in found] == [e[:2] for e in expected]
    assert np.allclose([f[2:] for f in found], [e[2:] for e in expected], atol=0.01)
    assert {f[1] for f in found} >= {"WBC", "RBC"}


@pytest.mark.long
def test_a_cell_on_a_border_between_regions_is_counted_once(tmp_path: Path, table: Table) -> None:
    tile = 2 * TILE
    whole = np.full((tile, tile, 3), GROUND, np.uint8)
    for k in range(8 * 6):  # fields side by side without ground between them: cells lie across every border
        pixels, _ = sample.field(900 + k, ["Neutrophil"] if k % 3 == 0 else [])
        y, x = divmod(k, 6)
        whole[500 * y + 17 : 500 * y + 497, 650 * x + 11 : 650 * x + 651] = pixels
    slides = tmp_path / "in"
    slides.mkdir()
    write_pyramid(slides / "slide.tif", whole)
    assert inside("score", slides, "--out", tmp_path / "out").code == 0
    elsewhere = {(r["field"], r["cell"]) for r in pq.read_table(tmp_path / "out" / "repeats.parquet").to_pylist()}
    cells = table(tmp_path / "out", "cells")
    boxes = np.array([[c[k] for k in ("x0", "y0", "x1", "y1")] for c in cells], np.float32)
    counted = np.array([(c["field"], c["cell"]) not in elsewhere for c in cells])
    assert len(elsewhere) > 5
    overlap = iou(boxes[counted], boxes[counted])
    np.fill_diagonal(overlap, 0)
    middles = (boxes[counted, :2] + boxes[counted, 2:]) / 2
    near = (np.abs(middles - TILE) <= wholeslide.BORDER).any(axis=1)
    assert near.sum() >= 8
    assert overlap[near].max() < 0.5
    # None is lost: the same pixels around a border, as a field of its own.
    (tmp_path / "strip" / "s").mkdir(parents=True)
    across = np.ascontiguousarray(whole[:, TILE - 400 : TILE + 400])
    cv2.imwrite(str(tmp_path / "strip" / "s" / "f.png"), cv2.cvtColor(across, cv2.COLOR_RGB2BGR))
    assert inside("score", tmp_path / "strip", "--out", tmp_path / "one", "--mpp", str(MPP)).code == 0
    sights = [
        c for c in table(tmp_path / "one", "cells") if abs((c["x0"] + c["x1"]) / 2 - 400) < 80 and c["score"] > 0.6
    ]
    there = np.array([[c["x0"] + TILE - 400, c["y0"], c["x1"] + TILE - 400, c["y1"]] for c in sights], np.float32)
    assert len(there) > 8
    assert (iou(there, boxes[counted]).max(axis=1) >= 0.5).all()


def slide_mpp(pyramid: Path) -> float:
    """As the slide's file tells it."""
    told = wholeslide.WholeSlide(pyramid / "slide.tif").mpp
    assert told is not None
    return told


def test_its_scale_comes_from_the_file_and_is_checked(scored: Path, table: Table) -> None:
    told = yaml.safe_load((scored / "run.yaml").read_text())["scales"]["slide.tif"]
    assert told["how"] == "mpp"
    assert told["um_per_px"] == pytest.approx(MPP, rel=0.01)
    rows = table(scored, "fields")
    assert [(r["x"] >= 0, r["status"]) for r in rows] == [(True, "ok")] * 2
    assert (scored / "report" / "index.html").stat().st_size > 50_000


@pytest.mark.long
def test_it_goes_on_and_exports_in_pixels_of_the_slide(
    pyramid: Path, scored: Path, tmp_path: Path, table: Table
) -> None:
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    (out / "fields" / "part-00000.parquet").unlink()
    assert inside("score", pyramid, "--out", out, "--resume").code == 0
    assert (out / "fields" / "part-00000.parquet").read_bytes() == (
        scored / "fields" / "part-00000.parquet"
    ).read_bytes()
    assert inside("runs", "export", out, "--to", "geojson").code == 0
    assert [p.name for p in (out / "geojson").iterdir()] == ["slide.tif.geojson"]
    assert len(json.loads((out / "geojson" / "slide.tif.geojson").read_text())["features"]) == len(table(out, "cells"))
    points = [
        point
        for path in (out / "geojson").glob("*.geojson")
        for feature in json.loads(path.read_text())["features"]
        for point in feature["geometry"]["coordinates"][0]
    ]
    assert max(p[0] for p in points) > 5000


def test_a_slide_that_is_none_is_a_row(tmp_path: Path, table: Table) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.svs").write_bytes(b"not a slide")
    assert inside("score", tmp_path / "in", "--out", tmp_path / "out").code == 3
    (row,) = table(tmp_path / "out", "fields")
    assert row["status"] == "failed"
    assert "OpenSlide" in row["reason"]


@pytest.mark.long
def test_a_large_plain_tiff_is_scored(tmp_path: Path, table: Table) -> None:
    """Above the size at which whole slides are known by their ends only."""
    (tmp_path / "in" / "s").mkdir(parents=True)
    large = np.vstack([np.hstack([side_by_side(5), side_by_side(6)])] * 2)[:3600, :3600]
    tifffile.imwrite(tmp_path / "in" / "s" / "f.tif", np.ascontiguousarray(large), photometric="rgb")
    assert (tmp_path / "in" / "s" / "f.tif").stat().st_size > 2**25
    answer = inside("score", tmp_path / "in", "--out", tmp_path / "out", "--scale", "fit", "--classifier", "none")
    assert answer.code == 0, answer.out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_named_like_a_slide_does_not_stop_the_run(tmp_path: Path, table: Table) -> None:
    (tmp_path / "in" / "s").mkdir(parents=True)
    for name in ("a.tif", "b.svs"):
        os.mkfifo(tmp_path / "in" / "s" / name)
    assert inside("score", tmp_path / "in", "--out", tmp_path / "out").code == 3
    assert [row["status"] for row in table(tmp_path / "out", "fields")] == ["failed", "failed"]


def test_of_dicom_files_each_slide_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two slides in one folder, two levels each, and one that is none."""
    series = {"a1": "1.2", "a2": "1.2", "b1": "1.3", "b2": "1.3"}
    (tmp_path / "s").mkdir()
    for name in (*series, "broken"):
        (tmp_path / "s" / f"{name}.dcm").write_bytes(b"DICM")

    class Level:
        levels = 1

        def __init__(self, path: Path) -> None:
            if path.stem not in series:
                raise ImageError("no whole slide that OpenSlide reads")
            self.series = series[path.stem]

    monkeypatch.setattr(wholeslide, "WholeSlide", Level)
    monkeypatch.setattr(wholeslide, "_fields", lambda field: [field])
    monkeypatch.setattr(apart, "each", lambda do, things, check=lambda thing: thing: [do(check(t)) for t in things])
    found = apart.expand(scan(tmp_path))
    assert [f.id for f in found.fields] == ["s/a1.dcm", "s/b1.dcm", "s/broken.dcm"]
    with pytest.raises(StoppedRunError):
        apart.expand(scan(tmp_path), lambda: True)


FATAL = """
import os, openslide
real = openslide.OpenSlide.__init__
def opened(self, path):
    if os.path.basename(path) == "fatal.svs":
        os.kill(os.getpid(), 11)
    real(self, path)
openslide.OpenSlide.__init__ = opened
"""


@pytest.mark.long
def test_a_slide_that_takes_its_reader_down_is_a_row(pyramid: Path, tmp_path: Path, table: Table) -> None:
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(FATAL)
    (tmp_path / "in").mkdir()
    shutil.copy(pyramid / "slide.tif", tmp_path / "in")
    (tmp_path / "in" / "fatal.svs").write_bytes(b"any")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "fault")}
    command = [SCRIPT, "score", tmp_path / "in", "--out", tmp_path / "out", "--classifier", "none"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 3, done.stderr
    rows = {row["field"]: (row["status"], row["reason"]) for row in table(tmp_path / "out", "fields")}
    assert [status for name, (status, _) in rows.items() if name.startswith("slide.tif#")] == ["ok", "ok"]
    status, reason = rows["fatal.svs"]
    assert status == "failed"
    assert "ended" in reason


def doubled(number: int) -> int:
    """Twice it; three ends the process."""
    if number == 3:
        os._exit(1)
    return 2 * number


def test_of_many_only_the_one_that_ends_its_process_is_lost() -> None:
    assert apart.each(doubled, [1, 2, 3, 4, 5]) == [2, 4, None, 8, 10]


@pytest.mark.long
def test_a_slide_in_one_file_is_watched(pyramid: Path, tmp_path: Path) -> None:
    scanner = tmp_path / "scanner"
    scanner.mkdir()
    shutil.copy(pyramid / "slide.tif", scanner / "slide.svs")
    (scanner / "slide.svs.done").touch()
    words = ("watch", scanner, "--out", tmp_path / "runs", "--mark", "done", "--every", "0.1", "--once")
    answer = inside(*words)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("slide.svs: 2 fields")
    assert inside(*words).out == ""
