"""The packaged pipeline demo-leukemia, whole: drawn slides of known diseases, from fields to what they resemble."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from detect import assets
from detect.score.store import Store
from tests.cli.command import smear

NAME = "demo-leukemia"
DRAWN_ONLY = ("synthetic-white", "fab-lymphoblast", "slide-disease")
SLIDES = {"ALL-L1": "ALL", "ALL-L3": "ALL", "AML": "AML", "CLL": "CLL"}  # drawn as, resembles


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of the generator's wider range, one a disease and one of a single field, scored by the real command."""
    home = tmp_path_factory.mktemp("demonstration")
    slides = home / "slides"
    for disease in SLIDES:
        drawn = home / disease
        told = ("--ranges", "test", "--disease", disease, "--px-per-um", 5, "--slides", 1, "--fields", 12)
        answer = smear("data", "synthesize", "--out", drawn, *told, "--seed", 77)
        assert answer.code == 0, answer.err
        (folder,) = (drawn / "images").iterdir()
        shutil.copytree(folder, slides / disease)
    (slides / "one field").mkdir()
    shutil.copy(min((slides / "AML").iterdir()), slides / "one field")
    answer = smear("score", slides, "--out", home / "run", "--pipeline", NAME)
    assert answer.code == 0, answer.err
    return home / "run"


@pytest.mark.long
def test_slides_resemble_what_they_were_drawn_as(run: Path) -> None:
    with (run / "patterns.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = {(row["slide"], row["question"]): row for row in rows}
    assert len(said) == 2 * (len(SLIDES) + 1)
    right = [slide for slide, told in SLIDES.items() if said[slide, "disease"]["pattern"] == told]
    assert right == list(SLIDES), rows
    for slide in right:
        row = said[slide, "disease"]
        assert row["said"].startswith("pattern resembling")
        assert int(row["counted"]) >= 100
        assert row["cells"]
        fab = said[slide, "FAB"]["pattern"]
        assert fab == (f"FAB {slide[4:]}" if slide.startswith("ALL-") else ""), said[slide, "FAB"]
    assert said["one field", "disease"]["pattern"] == ""
    assert said["one field", "FAB"]["pattern"] == ""
    assert int(said["one field", "disease"]["counted"]) < 100


@pytest.mark.long
def test_every_row_and_page_says_what_it_learnt_from(run: Path) -> None:
    store = Store(run)
    assert {row["trained_on"] for row in store.fields().to_pylist()} == {"synthetic"}
    for name in ("patterns.csv", "slides.csv"):
        with (run / name).open(newline="", encoding="utf-8") as file:
            assert {row["trained_on"] for row in csv.DictReader(file)} == {"synthetic"}, name
    typed = [row for table in store.cells() for row in table.to_pylist() if row["type"] is not None]
    assert typed
    assert all("synthetic" in row["flags"] for row in typed)
    for page in (run / "report").rglob("*.html"):
        text = page.read_text("utf-8")
        assert f"Trained on drawn cells only: {', '.join(DRAWN_ONLY)}." in text, page
    kept = yaml.safe_load((run / "run.yaml").read_text("utf-8"))
    assert sorted(kept["synthetic"]) == sorted(DRAWN_ONLY)


@pytest.mark.parametrize("bundle", DRAWN_ONLY[:2])
def test_its_bundles_answer_nowhere_else(slides: Path, tmp_path: Path, bundle: str) -> None:
    answer = smear("score", slides, "--out", tmp_path / "out", "--classifier", bundle)
    assert answer.code == 2
    assert f"{bundle} learnt from drawn cells only" in answer.err
    assert not (tmp_path / "out" / "run.yaml").exists()


def test_the_default_pipeline_asks_none_of_them() -> None:
    text = (assets.ROOT / "configs" / "pipelines" / "default.yaml").read_text("utf-8")
    assert not [bundle for bundle in DRAWN_ONLY if bundle in text]
    cards = (assets.RELEASED_BUNDLES / bundle / "bundle.yaml" for bundle in DRAWN_ONLY)
    assert {yaml.safe_load(card.read_text("utf-8"))["trained_on"] for card in cards} == {"synthetic"}
