"""Scoring and measuring a detector at another input than its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from detect import assets
from detect.bundles.folder import open_bundle
from detect.errors import BundleError
from tests.cli.command import smear

NAME, SIZE = "cells-yolov8n", 320


@pytest.fixture(scope="module")
def altered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with a card that tells of the other input, as though it had been trained so."""
    path = tmp_path_factory.mktemp("altered") / NAME
    shutil.copytree(assets.bundle(NAME), path)
    card = yaml.safe_load((path / "bundle.yaml").read_text("utf-8"))
    card["detector"]["red_cell_px"] *= SIZE / card["detector"]["image_size"]
    card["detector"]["image_size"] = SIZE
    (path / "bundle.yaml").write_text(yaml.safe_dump(card, sort_keys=False), "utf-8")
    return path


@pytest.mark.parametrize("scale", ["fit", "auto"])
def test_cells_are_those_of_a_bundle_made_for_that_input(
    slides: Path, altered: Path, tmp_path: Path, scale: str
) -> None:
    words = ("--scale", scale, "--classifier", "none", "--precision", "fp32")
    told = smear("score", slides, "--out", tmp_path / "told", "--detector", NAME, "--image-size", SIZE, *words)
    made = smear("score", slides, "--out", tmp_path / "made", "--detector", altered, *words)
    own = smear("score", slides, "--out", tmp_path / "own", "--detector", NAME, *words)
    assert (told.code, made.code, own.code) == (0, 0, 0), told.err + made.err + own.err
    cells = {n: (tmp_path / n / "cells" / "part-00000.parquet").read_bytes() for n in ("told", "made", "own")}
    assert cells["told"] == cells["made"]
    assert cells["told"] != cells["own"]
    kept = yaml.safe_load((tmp_path / "told" / "run.yaml").read_text("utf-8"))
    assert kept["settings"]["pipeline"]["image_size"] == SIZE
    said = {n: (tmp_path / n / "report" / "index.html").read_text("utf-8") for n in ("told", "own")}
    assert f"shown to it in {SIZE} pixels" in said["told"]
    assert "shown to it in" not in said["own"]
    other = smear(
        "score", slides, "--out", tmp_path / "told", "--detector", NAME, "--image-size", 352, *words, "--resume"
    )
    assert other.code == 2
    assert "begin again with --overwrite" in other.err


def test_figures_are_those_of_a_bundle_made_for_that_input(altered: Path, shared_data: Path, tmp_path: Path) -> None:
    words = ("--data", "txl-pbc", "--split", "val", "--bootstrap", 10)
    told = smear("evaluate", "detector", NAME, *words, "--image-size", SIZE, "--out", tmp_path / "told")
    made = smear("evaluate", "detector", altered, *words, "--out", tmp_path / "made")
    assert (told.code, made.code) == (0, 0), told.err + made.err
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text("utf-8")) for n in ("told", "made"))
    assert one["map50_95"] == two["map50_95"]
    assert one["image_size"] == two["image_size"] == SIZE
    assert one["command"].count(f"--image-size {SIZE}") == 1


@pytest.mark.parametrize(
    ("bundle", "size", "words"),
    [
        (NAME, 300, ("300 px is no multiple of 32", "take 288", "416 px")),
        (NAME, 8, ("image_size", "greater than or equal to 32")),
        ("classical", 320, ("640 px, and is not to be changed", "leave --image-size out")),
        ("cells-accurate", 320, ("640 px, and is not to be changed",)),
    ],
)
def test_an_input_that_cannot_be_is_refused(
    slides: Path, tmp_path: Path, bundle: str, size: int, words: tuple[str, ...]
) -> None:
    answer = smear("score", slides, "--out", tmp_path / "out", "--detector", bundle, "--image-size", size)
    assert answer.code == 2
    assert [w for w in words if w not in answer.err.replace("\n", " ")] == []
    assert not (tmp_path / "out").exists()


def test_the_card_keeps_the_figures_of_its_own_input(tmp_path: Path) -> None:
    words = ("--data", "txl-pbc", "--image-size", SIZE, "--write-card", "--out", tmp_path / "out")
    answer = smear("evaluate", "detector", NAME, *words)
    assert answer.code == 2
    assert "the card is of an input of 416 px, not 320" in answer.err.replace("\n", " ")


def test_what_learnt_from_its_answers_knows_it_for_another_model() -> None:
    bundle = open_bundle(NAME)
    assert bundle.at(None) is bundle
    assert bundle.at(416) is bundle
    assert bundle.at(SIZE).model != bundle.model
    with pytest.raises(BundleError, match="not a detector"):
        open_bundle("wbc-types").at(SIZE)
