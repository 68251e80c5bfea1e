"""A MongoDB of the tests' own, and a small set to review."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.detectors.tiny import Tiny, write


def mongod() -> str | None:
    """A MongoDB server on this machine."""
    from detect.review.database import find_program

    return find_program().detail or None


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. FiftyOne reads it once, when it is imported, so that one server serves all tests."""
    if find_spec("fiftyone") is None:
        pytest.skip("fiftyone is not installed")
    assert "fiftyone" not in sys.modules, "FiftyOne would keep to the database that it found when it was imported"
    before = {k: os.environ.get(k) for k in ("FIFTYONE_DATABASE_URI", "FIFTYONE_CONFIG_PATH", "SMEAR_REVIEWS")}
    program = mongod()
    if program is None:
        pytest.skip("no mongod on this machine")
    from detect.review.database import start

    home = tmp_path_factory.mktemp("mongodb")
    address = start(program, home)
    os.environ["FIFTYONE_DATABASE_URI"] = address
    os.environ["FIFTYONE_CONFIG_PATH"] = str(home / "config.json")
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
    os.environ["FIFTYONE_DATABASE_VALIDATION"] = "false"
    os.environ["SMEAR_REVIEWS"] = str(tmp_path_factory.mktemp("reviews"))
    yield address
    for key, value in before.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Twelve drawn fields with boxes, in YOLO."""
    return write(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="session")
def source(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in COCO, with ids that have gaps, extra fields and attributes, as a labelled set has them."""
    import json

    from detect.data.cards import load_card
    from detect.data.load import load_dataset
    from detect.data.sources import merge
    from detect.formats import coco
    from detect.formats.tally import Tally

    folder = tmp_path_factory.mktemp("coco") / "curated"
    folder.mkdir()
    dataset = merge(load_dataset(load_card(tiny.card), Tally(), tiny.home))
    told = coco.to_dict(dataset)
    for image in told["images"]:
        image["stain"] = "Giemsa"
    for i, cell in enumerate(told["annotations"]):
        cell["id"] = 10 + 3 * i
        cell["drawn_by"] = "A"
        if i % 4 == 0:
            cell["attributes"] = {"doubtful": i % 8 == 0, "comment": f"cell {i}", "focus": i / 7, "unknown": [1, 2]}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_all.json").write_text(json.dumps(told))
    shutil.copytree(tiny.home / "images", folder / "images" / "images")
    return folder
