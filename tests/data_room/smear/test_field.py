"""The synthetic smear knows every one of its cells, and what it says of them is what was drawn."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from detect import assets
from detect.data.smear import field as fields
from detect.data.smear import red, slide
from detect.data.smear.drawn import circularity
from detect.data.smear.settings import load_smear
from detect.data.smear.white import white

SETTINGS = {name: load_smear(name) for name in ("train", "test")}


@cache
def drawn(ranges: str, number: int, side: int = 640) -> fields.SmearField:
    settings = SETTINGS[ranges]
    return fields.draw(settings, slide.draw(settings, 5, number), 5, 0, side, side)


@pytest.mark.parametrize("ranges", ["train", "test"])
def test_every_box_is_the_bounds_of_its_mask_and_lies_in_the_field(ranges: str) -> None:
    for number in range(7):
        one = drawn(ranges, number)
        assert one.pixels.shape == (640, 640, 3)
        assert one.pixels.dtype == np.uint8
        for cell in one.cells:
            x0, y0, x1, y1 = cell.box
            assert 0 <= x0 < x1 <= 640
            assert 0 <= y0 < y1 <= 640
            for edge in (cell.cell[0], cell.cell[-1], cell.cell[:, 0], cell.cell[:, -1]):
                assert edge.any()
            if cell.nucleus is not None:
                assert not (cell.nucleus & ~cell.cell).any()


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    settings = SETTINGS["train"]
    again = fields.draw(settings, slide.draw(settings, 5, 1), 5, 0, 640, 640)
    np.testing.assert_array_equal(again.pixels, drawn("train", 1).pixels)
    other = fields.draw(settings, slide.draw(settings, 6, 1), 6, 0, 640, 640)
    assert (other.pixels != again.pixels).any()
    second = fields.draw(settings, slide.draw(settings, 5, 1), 5, 1, 640, 640)
    assert (second.pixels != again.pixels).any()


def test_cells_are_where_they_are_said_to_be() -> None:
    """What lies in a mask is darker than the ground around all masks, and nuclei are darker than their cytoplasm."""
    for number in range(7):
        one = drawn("train", number)
        green = one.pixels[..., 1].astype(float)
        ground = np.ones(green.shape, bool)
        for cell in one.cells:
            x0, y0, x1, y1 = cell.box
            ground[y0:y1, x0:x1] = False
        empty = np.median(green[ground])
        for cell in one.cells:
            x0, y0, x1, y1 = cell.box
            here = green[y0:y1, x0:x1]
            if cell.name in ("RBC", "Platelet") and np.count_nonzero(cell.cell) > 200:
                assert here[cell.cell].mean() < empty - 2, (number, cell.name, cell.box)
            if cell.nucleus is not None and cell.name not in ("Basophil", "Eosinophil"):
                rim = cell.cell & ~cell.nucleus
                if np.count_nonzero(rim) > 100 and np.count_nonzero(cell.nucleus) > 100:
                    assert here[cell.nucleus].mean() < here[rim].mean()


def test_a_shifted_mask_would_be_noticed() -> None:
    """The check above can fail: masks moved by a cell's width do not lie on what is dark."""
    one = drawn("train", 4)
    green = one.pixels[..., 1].astype(float)
    inside, moved = [], []
    for cell in one.cells:
        x0, y0, x1, y1 = cell.box
        if cell.nucleus is None or x1 + (x1 - x0) > 640:
            continue
        inside.append(green[y0:y1, x0:x1][cell.nucleus].mean())
        moved.append(green[y0:y1, x1 : x1 + (x1 - x0)][cell.nucleus].mean())
    assert np.mean(inside) < np.mean(moved) - 20


@pytest.mark.parametrize("ranges", ["train", "test"])
def test_fab_cells_keep_to_the_ranges_of_the_guide(ranges: str) -> None:
    guide = " ".join((assets.ROOT / "annotations" / "GUIDE.md").read_text("utf-8").replace("\u2013", "-").split())
    told = re.search(
        r"L1 (\d+)-(\d+) µm, cytoplasm under (\d+) % of the cell's area; L2 (\d+)-(\d+) µm, (\d+) % or more; "
        r"L3 (\d+)-(\d+) µm, (\d+) % or more",
        guide,
    )
    assert told is not None, "the guide states the working ranges in other words"
    n = [int(v) for v in told.groups()]
    spans = {
        "FAB L1": (n[0], n[1], 0.0, n[2] / 100),
        "FAB L2": (n[3], n[4], n[5] / 100, 1.0),
        "FAB L3": (n[6], n[7], n[8] / 100, 1.0),
    }
    settings = SETTINGS[ranges]
    for number in range(4):
        on = slide.draw(settings, 9, number)
        for name, (small, large, least, most) in spans.items():
            for i in range(12):
                rng = np.random.default_rng([number, i])
                cell = white(on, rng, name, settings.whites[name], 0.0, 0.0)
                told_of = cell.attributes
                assert small <= told_of["diameter_um"] <= large, (name, told_of)
                share = told_of["cytoplasm_share"]
                assert least <= share < most if name == "FAB L1" else least <= share, (name, told_of)
                assert told_of["low_nc"] == (name != "FAB L1")
                ratio = (1 - share) / share
                assert told_of["nc_ratio"] == pytest.approx(ratio, rel=0.05)


def test_features_of_fab_types_differ_as_the_guide_has_it() -> None:
    settings = SETTINGS["train"]
    on = slide.draw(settings, 9, 0)
    flags: dict[str, Counter[str]] = {}
    for name in ("FAB L1", "FAB L2", "FAB L3"):
        count = flags.setdefault(name, Counter())
        for i in range(40):
            cell = white(on, np.random.default_rng(i), name, settings.whites[name], 0.0, 0.0)
            count.update(k for k, v in cell.attributes.items() if v is True)
    assert flags["FAB L3"]["vacuolated"] == 40
    assert flags["FAB L1"]["vacuolated"] == 0
    assert flags["FAB L1"]["prominent_nucleoli"] == 0
    assert flags["FAB L2"]["prominent_nucleoli"] > 30
    assert flags["FAB L2"]["irregular_nucleus"] > flags["FAB L1"]["irregular_nucleus"] + 15
    assert flags["FAB L1"]["large_cell"] == 0
    assert flags["FAB L3"]["large_cell"] > 20


def test_some_myeloblasts_have_auer_rods_and_nothing_else_has() -> None:
    settings = SETTINGS["train"]
    on = slide.draw(settings, 9, 0)
    for name, look in settings.whites.items():
        if look.nucleus == "smeared":
            continue
        rods = [white(on, np.random.default_rng(i), name, look, 0.0, 0.0).attributes["auer_rods"] for i in range(25)]
        assert any(rods) == (name == "Myeloblast"), name
        assert not all(rods)


def test_every_type_is_drawn_with_the_nucleus_it_should_have() -> None:
    settings = SETTINGS["train"]
    on = slide.draw(settings, 9, 0)
    round_ = {}
    for name, look in settings.whites.items():
        if look.nucleus == "smeared":
            continue
        cells = [white(on, np.random.default_rng(i), name, look, 0.0, 0.0) for i in range(20)]
        assert all(c.nucleus is not None and c.nucleus.any() for c in cells)
        low, high = look.nucleus_share
        for cell in cells:
            share = 1 - cell.attributes["cytoplasm_share"]
            assert low - 0.03 <= share <= high + 0.03, (name, share)
        round_[name] = float(np.mean([c.attributes["nucleus_circularity"] for c in cells]))
    assert round_["Band neutrophil"] < 0.7 < 0.85 < round_["FAB L1"]
    assert round_["Segmented neutrophil"] < round_["Metamyelocyte"] < round_["Myelocyte"]


def test_the_test_range_holds_the_training_range() -> None:
    train, test = (SETTINGS[n].model_dump() for n in ("train", "test"))
    wider = 0

    def compare(one: object, other: object, where: str) -> None:
        nonlocal wider
        if isinstance(one, dict):
            assert isinstance(other, dict)
            for key, value in one.items():
                if key not in ("name", "differential"):
                    assert key in other, f"{where}.{key}"
                    compare(value, other[key], f"{where}.{key}")
        elif isinstance(one, tuple) and len(one) == 2 and ".looks" not in where:
            assert isinstance(other, tuple)
            assert other[0] <= one[0] <= one[1] <= other[1], where
            wider += other != one
        elif isinstance(one, float) and not where.endswith(".share"):  # how often a look is taken is no range
            assert isinstance(other, float)
            assert other >= one, where

    compare(train, test, "")
    assert wider > 100
    assert set(test["looks"]) > set(train["looks"])


def test_circularity_is_one_for_a_disc_and_less_for_a_bar() -> None:
    picture = np.zeros((120, 120), np.uint8)
    disc = cv2.circle(picture.copy(), (60, 60), 50, 1, -1) > 0
    bar = cv2.rectangle(picture.copy(), (10, 50), (110, 70), 1, -1) > 0
    assert circularity(disc) > 0.97
    width, height = 101, 21
    assert circularity(bar) == pytest.approx(4 * np.pi * width * height / (2 * (width + height)) ** 2, abs=0.05)
    assert circularity(np.zeros((5, 5), bool)) == 0


def test_red_cells_have_the_size_that_was_asked_for() -> None:
    settings = SETTINGS["train"]
    on = slide.draw(settings, 9, 3)
    for i in range(30):
        cell = red.red(on, np.random.default_rng(i), 0.0, 0.0, 30.0)
        assert cell.attributes["diameter_um"] == pytest.approx(60 / on.px_per_um, rel=0.12)


def test_ranges_that_cannot_be_are_refused(tmp_path: Path) -> None:
    from detect.errors import ConfigError

    text = (assets.ROOT / "configs" / "smear" / "train.yaml").read_text("utf-8")
    path = tmp_path / "mine.yaml"
    for old, new, said in (
        ("cover: [0.45, 0.9]", "cover: [0.9, 0.45]", "low, high"),
        ("  Basophil: {", "  Basofil: {", "Basofil"),
        ("FAB L3: 0.72", "FAB L4: 0.72", "FAB L4"),
        ("rim: [0.0, 0.5]", "rime: [0.0, 0.5]", "rime"),
    ):
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(ConfigError, match=re.escape(said)):
            load_smear(str(path))
