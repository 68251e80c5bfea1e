"""Slides at any magnification through the real command: measured, told, given by hand."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from detect import assets, geometry
from detect.bundles.folder import open_bundle, write_card
from detect.data.smear import field as fields
from detect.data.smear import slide
from detect.data.smear.settings import load_smear
from detect.images import decode
from detect.types import Image
from tests.cli.command import inside
from tests.data import encode

Table = Callable[[Path, str], list[dict[str, Any]]]


def picture(number: int) -> Image:
    settings = load_smear("train")
    return fields.draw(settings, slide.draw(settings, 3, 1), 3, number, 512, 512).pixels


def small(pixels: Image, factor: float) -> Image:
    return np.ascontiguousarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slide as it is, once at less than half its size, once with fields of both, and one without cells."""
    home = tmp_path_factory.mktemp("scales") / "in"
    for name in ("whole", "small", "both", "empty"):
        (home / name).mkdir(parents=True)
    for k in range(2):
        drawn = picture(k)
        (home / "whole" / f"{k}.png").write_bytes(encode(drawn, "PNG"))
        (home / "small" / f"{k}.png").write_bytes(encode(small(drawn, 0.4), "PNG"))
        (home / "both" / f"{k}.png").write_bytes(encode(small(drawn, 0.4) if k else drawn, "PNG"))
    (home / "empty" / "0.png").write_bytes(encode(np.full((300, 300, 3), 230, np.uint8), "PNG"))
    return home


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """Scored as it comes."""
    out = home.parent / "out"
    answer = inside("score", home, "--out", out)
    assert answer.code == 0, answer.err
    return out


def by_slide(run: Path, table: Table) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in table(run, "cells"):
        counts[row["slide"]] = counts.get(row["slide"], 0) + 1
    return counts


def test_a_small_picture_has_the_cells_of_the_large_one(run: Path, table: Table) -> None:
    counts = by_slide(run, table)
    assert counts["whole"] > 40
    assert counts["small"] == pytest.approx(counts["whole"], rel=0.1)
    assert counts["both"] == pytest.approx(counts["whole"], rel=0.1)
    assert "empty" not in counts


def test_the_scale_is_told(run: Path, table: Table) -> None:
    told = yaml.safe_load((run / "run.yaml").read_text())["scales"]
    whole, half = told["whole"], told["small"]
    assert half["red_cell_px"][0] / whole["red_cell_px"][0] == pytest.approx(0.4, rel=0.1)
    assert whole["sure"]
    assert whole["cells"] > 10
    assert told["both"]["each_field"]
    assert told["empty"] == "could not be measured"
    used = {r["field"]: r["scale_used"] for r in table(run, "fields")}
    assert used["both/1.png"] / used["both/0.png"] == pytest.approx(0.4, rel=0.15)
    assert used["empty/0.png"] is None
    with (run / "slides.csv").open() as file:
        rows = {r["slide"]: r for r in csv.DictReader(file)}
    assert float(rows["small"]["red_cell_px"]) / float(rows["whole"]["red_cell_px"]) == pytest.approx(0.4, rel=0.1)
    assert rows["whole"]["scale_unsure"] == "False"
    assert 0 <= float(rows["whole"]["scale_spread"]) < 0.2


def test_a_person_may_say_the_scale(run: Path, home: Path, tmp_path: Path, table: Table) -> None:
    diameter = yaml.safe_load((run / "run.yaml").read_text())["scales"]["whole"]["red_cell_px"][0]
    for words in (("--cell-diameter-px", diameter), ("--mpp", 7.5 / diameter)):
        out = tmp_path / str(words[0])
        assert inside("score", home / "whole", "--out", out, *words).code == 0
        rows = table(out, "cells")
        assert len(rows) == by_slide(run, table)["whole"]
        assert [r["scale_used"] for r in table(out, "fields")] == pytest.approx([diameter] * 2, abs=0.02)


def test_a_wrong_scale_is_as_wrong_as_it_sounds(run: Path, home: Path, tmp_path: Path, table: Table) -> None:
    assert inside("score", home / "whole", "--out", tmp_path / "o", "--cell-diameter-px", 600).code == 0
    assert len(table(tmp_path / "o", "cells")) < 0.5 * by_slide(run, table)["whole"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scale", "fit", "--mpp", 0.1), "give one of them"),
        (("--mpp", 0.1, "--cell-diameter-px", 70), "give one of them"),
        (("--mpp", -1), "mpp"),
        (("--mpp", 1e-6), "mpp"),
        (("--cell-diameter-px", 1), "cell_diameter_px"),
        (("--scale", "automatic"), "scale"),
    ],
)
def test_contradictions_are_refused(home: Path, tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    answer = inside("score", home / "whole", "--out", tmp_path / "o", *words)
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "o").exists()


def test_an_older_run_survives_a_scale_that_the_detector_cannot_use(home: Path, run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(assets.bundle("cells-yolov8n"), old)
    card = open_bundle(old).card
    assert card.detector is not None
    write_card(card.model_copy(update={"detector": card.detector.model_copy(update={"red_cell_px": None})}), old)
    out = tmp_path / "kept"
    assert inside("score", home / "whole", "--out", out, "--detector", old).code == 0
    before = (out / "slides.csv").read_bytes()
    answer = inside("score", home / "whole", "--out", out, "--detector", old, "--mpp", 0.1, "--overwrite")
    assert answer.code == 2
    assert "--scale fit" in answer.err
    assert (out / "slides.csv").read_bytes() == before


def test_the_classical_method_measures_each_field_by_itself(home: Path, tmp_path: Path, table: Table) -> None:
    assert inside("score", home / "whole", "--out", tmp_path / "o", "--detector", "classical").code == 0
    rows = table(tmp_path / "o", "fields")
    assert {r["scale_used"] for r in rows} == {None}
    assert all(r["flags"] == [] for r in rows)


def test_large_jpegs_are_unpacked_smaller_where_only_cells_are_asked_for(tmp_path: Path, table: Table) -> None:
    drawn = [cv2.resize(picture(k), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)[:2043, :1997] for k in range(2)]
    runs = {}
    for kind in ("JPEG", "PNG"):
        slides = tmp_path / kind / "one"
        slides.mkdir(parents=True)
        for k, pixels in enumerate(drawn):
            jpeg = encode(np.ascontiguousarray(pixels), "JPEG")
            content = jpeg if kind == "JPEG" else encode(decode.decode(jpeg), "PNG")
            (slides / f"{k}.{kind.lower()}").write_bytes(content)
        for more in (("--scale", "fit"), ("--cell-diameter-px", 330)):
            out = tmp_path / f"{kind}-{more[0]}"
            words = ("--out", out, "--classifier", "none", "--precision", "fp32", *more)
            answer = inside("score", slides.parent, *words)
            assert answer.code == 0, answer.err
            runs[kind, more[0]] = table(out, "cells"), table(out, "fields")
    for more in ("--scale", "--cell-diameter-px"):
        (small, about), (whole, told) = runs["JPEG", more], runs["PNG", more]
        for a, b in zip(about, told, strict=True):
            assert (a["width"], a["height"]) == (b["width"], b["height"]) == (1997, 2043)
            assert a["scale"] == pytest.approx(b["scale"], rel=0.02)
        assert len(whole) > 20
        assert len(small) == pytest.approx(len(whole), rel=0.05)
        met, apart = 0, 0.0
        for cell in whole:
            own = [
                c for c in small if Path(c["field"]).stem == Path(cell["field"]).stem and c["label"] == cell["label"]
            ]
            box = np.array([[cell[k] for k in ("x0", "y0", "x1", "y1")]], np.float32)
            near = geometry.iou(box, np.array([[c[k] for k in ("x0", "y0", "x1", "y1")] for c in own], np.float32))[0]
            if near.max() > 0.8:
                other = own[int(near.argmax())]
                met, apart = met + 1, apart + np.mean([other[k] - cell[k] for k in ("x0", "y0", "x1", "y1")])
        assert met >= 0.95 * len(whole)
        assert abs(apart / met) < 2  # of 2,000 pixels: nothing is shifted
