"""What a slide resembles: the FAB rule against its closed form, and a disease learnt from runs and told in the next."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detect.bundles.folder import open_bundle
from detect.errors import BundleError, ConfigError, DataError
from detect.pipeline.route import Asked
from detect.pipeline.run import Opened, Pipeline, _check_slide, asked, open_pipeline
from detect.pipeline.settings import PipelineSettings
from detect.runtime.base import EngineSettings
from detect.score import patterns
from detect.score.bags import bags
from detect.score.differential import Slide, count
from detect.score.patterns import FAB, Patterns
from detect.score.store import FieldRecord, Store
from detect.types import CellRecord
from tests.cli.command import inside
from tests.score.test_fab import bag

NAMES = ("Neutrophil", "Lymphocyte", "Blast")
SHARES = {"none": (0.6, 0.35, 0.05), "ALL": (0.1, 0.2, 0.7), "CLL": (0.1, 0.88, 0.02)}


def run_folder(folder: Path, slides: dict[str, str], cells: int, seed: int, part: int = 3) -> Store:
    """A finished run, in parts, of slides with a disease each; their cells are answered for with some noise."""
    rng = np.random.default_rng(seed)
    store = Store.create(folder)
    rows: list[tuple[FieldRecord, list[CellRecord]]] = []
    for slide, disease in slides.items():
        for f in range(2):
            field = f"{slide}/{f}.png"
            made = []
            for i in range(cells // 2):
                kind = int(rng.choice(3, p=SHARES[disease]))
                told = rng.dirichlet(np.eye(3)[kind] * 6 + 0.4)
                name = NAMES[int(told.argmax())]
                chances = dict(zip(NAMES, told.tolist(), strict=True))
                made.append(CellRecord(slide, field, i, (0, 0, 9, 9), "WBC", 0.9, name, max(told), chances))
            made.append(CellRecord(slide, field, cells, (0, 0, 5, 5), "RBC", 0.9))
            rows.append((FieldRecord(slide, field, "ok"), made))
    for number, start in enumerate(range(0, len(rows), part)):
        some = rows[start : start + part]
        store.write_part(number, [f for f, _ in some], [c for _, made in some for c in made])
    finish(store)
    return store


def finish(store: Store, **changes: Any) -> None:
    """Write the record of a run whose cells one bundle was asked of."""
    asked = changes.pop("asked", "white")
    models = {"cells": "1" * 64, asked: "2" * 64} | changes.pop("models", {})
    pipeline = {"error_rate": changes.pop("error_rate", 0.1)}
    told = {"trained_on": "synthetic", "drawn_slides": True} | changes
    store.write_run(
        {"state": "finished", "asked": [asked], "models": models, "settings": {"pipeline": pipeline}, **told}
    )


CONFIG: dict[str, Any] = {
    "inputs": list(NAMES),
    "patterns": {"none": "none", "ALL-L1": "ALL", "CLL": "CLL", "odd": None},
    "epochs": 30,
}


def slides_of(n: int, offset: int = 0) -> dict[str, str]:
    """Slides by name, diseases in turn."""
    return {f"slide-{i + offset:02d}": list(SHARES)[i % 3] for i in range(n)}


def truth_of(path: Path, slides: dict[str, str]) -> Path:
    """The table of what slides are."""
    words = {"ALL": "ALL-L1"}
    lines = [f"{slide},{words.get(disease, disease)}" for slide, disease in slides.items()]
    path.write_text("\n".join(["slide,disease", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide bundle, by the real command."""
    pytest.importorskip("torch", reason="torch is not installed")
    home = tmp_path_factory.mktemp("slides")
    slides = slides_of(36)
    run_folder(home / "run", slides, 140, 1)
    (home / "c.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    truth = truth_of(home / "truth.csv", slides)
    answer = inside("train", "slide", home / "c.yaml", "--run", home / "run", "--truth", truth, "--out", home / "out")
    assert answer.code == 0, answer.err
    return home / "out"


def opened(path: Path) -> Opened:
    """A pipeline whose only bundle that is used is that of slides."""
    real = open_pipeline(PipelineSettings(detector="cells-yolov8n"))
    return Opened(real.detector, (), 0.1, open_bundle(path, "slide"), synthetic=True)


def test_a_disease_is_learnt_and_told(learnt: Path, tmp_path: Path) -> None:
    slides = slides_of(12, 50) | {"few": "ALL"}
    store = run_folder(tmp_path / "run", slides, 160, 2)
    counted = [s if s.name != "few" else few(s) for s in count(store, NAMES)]
    asked = Patterns(opened(learnt), EngineSettings(), fab=False)
    got = {c.slide: c for c in asked.call(store, counted)}
    assert got.pop("few").said == "not called: 99 white cells counted, 100 needed"
    right = [got[name].pattern == slides[name] for name in got]
    assert sum(right) >= 11
    for one in got.values():
        assert one.trained_on == "synthetic"
        assert one.share is not None
        assert one.counted == 160
        if one.pattern == "none":
            assert one.said == "pattern resembling none of the leukemias it knows, which rules none of them out"
        elif one.pattern is not None:
            assert one.said == f"pattern resembling {one.pattern}"
    blast = next(c for c in got.values() if c.pattern == "ALL")
    here = bags(store, NAMES)[blast.slide]
    kinds = [here.types[here.cells.index(c)] for c in blast.cells]
    assert len(kinds) == 12
    assert kinds.count("Blast") > 6
    patterns.write(got.values(), tmp_path)
    with (tmp_path / "patterns.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["slide"] for r in rows] == list(got)
    assert {r["trained_on"] for r in rows} == {"synthetic"}
    assert all("#" in r["cells"] for r in rows)
    assert {r["low"] + r["high"] for r in rows} == {""}  # a probability has no limits
    assert all(0 < float(r["share"]) <= 1 for r in rows)


def few(slide: Slide) -> Slide:
    """The same slide with too few white cells."""
    return replace(slide, white=99)


def test_fab_is_asked_only_where_it_is_named_and_the_slide_may_be_all(learnt: Path) -> None:
    slide, cells = bag(150, 3, 0, 10)
    asked = Patterns(opened(learnt), EngineSettings(), fab=True)
    nobody = asked._fab_type(slide, cells, None)
    assert (nobody.pattern, nobody.cells) == (None, ())
    assert nobody.said == "not asked: no bundle of this pipeline names L1, L2 or L3"
    asked._named = True
    alone = asked._fab_type(slide, cells, None)
    assert alone.pattern == "FAB L1"
    whole = replace(alone, question="disease", pattern="CLL", said="pattern resembling CLL")
    other = asked._fab_type(slide, cells, whole)
    assert (other.pattern, other.share, other.cells) == (None, None, ())
    assert other.said == "not called: L1, L2 and L3 are of ALL, the slide resembles CLL"
    between = bag(120, 40, 0)
    assert asked._fab_type(*between, None).said.startswith("undecided")
    assert asked._fab_type(*between, whole).said.startswith("not called")
    undecided = replace(whole, pattern=None, candidates=("CLL", "CML"))
    assert asked._fab_type(slide, cells, undecided).said.endswith("the slide resembles CLL or CML")
    for pattern, candidates in (("ALL", ()), ("ALL-L1", ()), (None, ("CLL", "ALL")), (None, ())):
        assert asked._fab_type(slide, cells, replace(whole, pattern=pattern, candidates=candidates)) == alone


def test_a_card_says_what_it_learnt_from(learnt: Path) -> None:
    card = open_bundle(learnt, "slide").card
    assert card.trained_on == "synthetic"
    assert card.classes == ("none", "ALL", "CLL")
    assert card.slide is not None
    assert (card.slide.asks, card.slide.min_cells) == (("white",), 100)
    assert (card.slide.detector, card.slide.error_rate) == ("cells", 0.1)
    assert card.slide.models == {"cells": "1" * 64, "white": "2" * 64}
    assert (card.slide.min_score, card.slide.thresholds) == (None, {})
    assert card.training is not None
    assert card.training.fields == {"train": 36}
    assert {m.part for m in card.metrics} == {"held out"}


def test_its_bundles_must_be_asked(learnt: Path) -> None:
    settings = PipelineSettings(detector="cells-yolov8n", slide=str(learnt), synthetic=True)
    with pytest.raises(Exception, match="learnt from the answers of white; here are asked"):
        open_pipeline(settings)


def test_what_answers_must_be_what_it_learnt_from(learnt: Path) -> None:
    bundle, here = open_bundle(learnt, "slide"), open_pipeline(PipelineSettings(detector="cells-yolov8n"))
    section = bundle.card.slide
    assert section is not None
    right = {"asks": (), "detector": "cells-yolov8n", "models": {"cells-yolov8n": here.detector.model}}

    def check(**changes: Any) -> None:
        card = bundle.card.model_copy(update={"slide": section.model_copy(update=right | changes)})
        _check_slide(replace(bundle, card=card), here)

    check()
    for changes, words in (
        ({"detector": "cells-robust"}, "learnt from cells that cells-robust found, here is cells-yolov8n"),
        ({"error_rate": 0.02}, "at error_rate 0.02, here it is 0.1"),
        ({"models": {"cells-yolov8n": "0" * 64}}, "another cells-yolov8n than this one"),
    ):
        with pytest.raises(ConfigError, match=words):
            check(**changes)


def test_thresholds_must_be_those_that_it_learnt_at(learnt: Path) -> None:
    bundle = open_bundle(learnt, "slide")
    assert bundle.card.slide is not None
    given = opened(learnt)
    for named, said in (({"min_score": 0.01}, "every class 0.01"), ({"thresholds": {"WBC": 0.99}}, "WBC 0.99")):
        with pytest.raises(ConfigError, match=f"at the detector's own thresholds, here are asked thresholds of {said}"):
            Pipeline(given, EngineSettings(), **named)
    section = bundle.card.slide.model_copy(update={"thresholds": {"WBC": 0.99}})
    other = replace(given, slide=replace(bundle, card=bundle.card.model_copy(update={"slide": section})))
    Pipeline(other, EngineSettings(), thresholds={"WBC": 0.99})
    with pytest.raises(ConfigError, match=r"at thresholds of WBC 0\.99, here are asked the detector's own thresholds"):
        Pipeline(other, EngineSettings())


def test_what_is_never_asked_neither_hinders_a_slide_bundle_nor_is_counted(learnt: Path) -> None:
    """Behind a bundle that names no lymphoblast, one of FAB types has nothing to answer."""
    white = asked(open_bundle("wbc-types", "classifier"), ("WBC",))
    assert white.bundle.card.classifier is not None
    card = white.bundle.card.model_copy(update={"name": "fab", "classes": (*FAB, "Lymphoblast")})
    fab = Asked(replace(white.bundle, card=card), ("Lymphoblast",))
    here = replace(opened(learnt), nodes=(white, fab), slide=None)
    slide, cells = bag(150, 3, 0, 10)
    said = Patterns(here, EngineSettings(), fab=True)._fab_type(slide, cells, None).said
    assert said == "not asked: no bundle of this pipeline names L1, L2 or L3"
    bundle = open_bundle(learnt, "slide")
    section = bundle.card.slide
    assert section is not None
    models = {b.card.name: b.model for b in (here.detector, white.bundle)}
    told = {"asks": ("wbc-types",), "detector": here.detector.card.name, "models": models}
    changed = bundle.card.model_copy(update={"slide": section.model_copy(update=told)})
    _check_slide(replace(bundle, card=changed), here)


def test_a_slide_bundle_of_a_newer_taxonomy_is_refused(learnt: Path, tmp_path: Path) -> None:
    shutil.copytree(learnt, tmp_path / "slide")
    path = tmp_path / "slide" / "bundle.yaml"
    path.write_text(re.sub(r"^taxonomy: \d+", "taxonomy: 99", path.read_text(), flags=re.MULTILINE))
    with pytest.raises(BundleError, match="of version 99 of the taxonomy"):
        open_pipeline(PipelineSettings(detector="cells-yolov8n", slide=str(tmp_path / "slide"), synthetic=True))


def test_a_patient_is_held_out_whole(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from detect.classify.bags import SlideSettings
    from detect.classify.slides import _folds
    from detect.score.bags import to_learn

    slides = slides_of(36)
    finish(run_folder(tmp_path / "run", slides, 110, 1))
    truth = truth_of(tmp_path / "truth.csv", slides)
    lines = truth.read_text().splitlines()
    told = [f"{lines[0]},patient", *(f"{line},p{i % 18}" for i, line in enumerate(lines[1:]))]
    truth.write_text("\n".join(told))
    recipe = SlideSettings.model_validate(CONFIG | {"patterns": {**CONFIG["patterns"]}})
    found = to_learn([tmp_path / "run"], truth, recipe)
    assert len(set(found.groups)) == 18
    _, fold_of = _folds(recipe, found)
    assert sorted(fold_of) == list(range(36))
    for group in set(found.groups):
        assert len({fold_of[i] for i in fold_of if found.groups[i] == group}) == 1
    same = [f"{line},{line.rsplit(',', 1)[1]}" for line in lines[1:]]  # a patient for each disease
    truth.write_text("\n".join([f"{lines[0]},patient", *same]))
    with pytest.raises(DataError, match="12 slides of 1 patients of the pattern"):
        _folds(recipe, to_learn([tmp_path / "run"], truth, recipe))


def test_a_slide_bundle_is_no_classifier(learnt: Path) -> None:
    with pytest.raises(BundleError, match="this is a slide, not a classifier"):
        open_bundle(learnt, "classifier")


def test_bags_are_the_same_in_one_part_or_many(tmp_path: Path) -> None:
    a = bags(run_folder(tmp_path / "a", slides_of(4), 20, 3, part=1), NAMES)
    b = bags(run_folder(tmp_path / "b", slides_of(4), 20, 3, part=100), ("Blast", "Monocyte", "Neutrophil"))
    assert a.keys() == b.keys()
    for slide in a:
        assert a[slide].cells == b[slide].cells
        assert np.array_equal(a[slide].told[:, [2, 0]], b[slide].told[:, [0, 2]])
        assert (b[slide].told[:, 1] == 0).all()
        assert a[slide].told.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("slide,disease\nslide-00,none\n", "no row for slide 'slide-01' of run 'run'"),
        ("slide,what\nslide-00,none\n", "expected columns 'slide' and 'disease'"),
        ("odd", "which 'patterns' does not name"),
        ("slide,disease\nslide-00,none\nslide-00,CLL\n", "slide 'slide-00' is both 'none' and 'CLL'"),
        ("slide,disease\nslide-00\n", "no disease for slide 'slide-00'"),
        ("slide;disease\nslide-00;none\n", "found slide;disease"),
        ("slide,disease\nslide-00,kr\xe4nk\n", "not UTF-8"),
        ("input", "no cell of these runs has a probability of 'Monocyte'"),
        ("unfinished", "not a finished scoring run"),
        ("few", "4 slides of the pattern 'CLL', 4 with 100"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: str, said: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    slides = slides_of(14 if change == "few" else 15)
    run_folder(tmp_path / "run", slides, 100, 1)
    truth = truth_of(tmp_path / "truth.csv", slides)
    if "slide" in change:
        truth.write_text(change, "latin-1")
    if change == "odd":
        truth.write_text(truth.read_text().replace("CLL", "MDS"))
    if change == "unfinished":
        (tmp_path / "run" / "run.yaml").unlink()
    config = CONFIG | ({"inputs": [*NAMES, "Monocyte"]} if change == "input" else {})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    answer = inside(
        "train", "slide", tmp_path / "c.yaml", "--run", tmp_path / "run", "--truth", truth, "--out", tmp_path / "out"
    )
    assert answer.code != 0
    assert said in " ".join(answer.err.split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"asked": "other"}, "their asks differ"),
        ({"error_rate": 0.02}, "their error_rate differ"),
        ({"models": {"white": "3" * 64}}, "their models differ"),
    ],
)
def test_runs_of_different_pipelines_are_not_mixed(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    from detect.classify.bags import SlideSettings
    from detect.score.bags import to_learn

    for name in ("a", "b"):
        finish(run_folder(tmp_path / name, slides_of(3), 10, 1), **({} if name == "a" else dict(changes)))
    told = truth_of(tmp_path / "t.csv", slides_of(3))
    with pytest.raises(DataError, match=f"asked different bundles: {words}"):
        to_learn([tmp_path / "a", tmp_path / "b"], told, SlideSettings(**CONFIG))


def test_a_run_that_does_not_say_what_answered_is_refused(tmp_path: Path) -> None:
    from detect.classify.bags import SlideSettings
    from detect.score.bags import to_learn

    store = run_folder(tmp_path / "old", slides_of(3), 10, 1)
    store.write_run({"state": "finished", "asked": ["white"], "trained_on": "real", "drawn_slides": False})
    with pytest.raises(DataError, match="does not say which models answered"):
        to_learn([tmp_path / "old"], truth_of(tmp_path / "t.csv", slides_of(3)), SlideSettings(**CONFIG))


@pytest.mark.parametrize(
    ("bundles", "slides", "said"),
    [("real", False, "real"), ("real", True, "synthetic"), ("synthetic", False, "synthetic"),
     ("real and synthetic", False, "real and synthetic")],
)  # fmt: skip
def test_drawn_slides_teach_drawn_knowledge(tmp_path: Path, bundles: str, slides: bool, said: str) -> None:
    """Whatever the bundles that answered had learnt from."""
    from detect.classify.bags import SlideSettings
    from detect.score.bags import to_learn

    store = run_folder(tmp_path / "run", slides_of(3), 10, 1)
    finish(store, trained_on=bundles, drawn_slides=slides)
    told = truth_of(tmp_path / "t.csv", slides_of(3))
    assert to_learn([tmp_path / "run"], told, SlideSettings(**CONFIG)).trained_on == said


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With the mark at its beginning that Excel writes."""
    from detect.classify.bags import SlideSettings
    from detect.score.bags import to_learn

    run_folder(tmp_path / "run", slides_of(3), 10, 1)
    told = truth_of(tmp_path / "t.csv", slides_of(3))
    told.write_text(told.read_text(), "utf-8-sig")
    assert len(to_learn([tmp_path / "run"], told, SlideSettings(**CONFIG)).names) == 3
