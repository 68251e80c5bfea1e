"""Bundle folders: what is altered, missing, misspelt or meant for something else is refused."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detect import assets
from detect.bundles.card import CARD, GRAPH, WEIGHTS, Metric
from detect.bundles.folder import add_metrics, open_bundle, sha256, write_card
from detect.errors import BundleError, ConfigError, SmearError, StoreError

RELEASED = ("cells-yolov8n", "wbc-types")
SMALL = "wbc-types"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A bundle that may be spoilt."""
    return Path(shutil.copytree(assets.RELEASED_BUNDLES / SMALL, tmp_path / "bundle"))


def alter(path: Path, position: int) -> None:
    """Change one byte in place."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit(folder: Path, **changes: object) -> None:
    """Change keys of a card by hand."""
    card = yaml.safe_load((folder / CARD).read_text("utf-8")) | changes
    (folder / CARD).write_text(yaml.safe_dump(card, sort_keys=False), "utf-8")


@pytest.mark.parametrize("name", RELEASED)
def test_released_bundles_open(name: str) -> None:
    bundle = open_bundle(name)
    assert bundle.graph.is_file()
    assert bundle.weights.is_file()
    assert bundle.hash == sha256(bundle.path / CARD)
    assert "diagnosis" in bundle.card.intended_use
    assert bundle.card.metrics


@pytest.mark.parametrize("name", RELEASED)
def test_no_pickle_in_a_released_bundle(name: str) -> None:
    files = [p for p in (assets.RELEASED_BUNDLES / name).rglob("*") if p.is_file()]
    assert {p.name for p in files} == {CARD, WEIGHTS, GRAPH}
    for path in files:
        start = path.read_bytes()[:2]
        assert start != b"PK", f"{path.name} is a zip, as torch writes"
        assert start[:1] != b"\x80", f"{path.name} is a pickle"


def test_opening_a_bundle_loads_no_framework() -> None:
    code = (
        "import sys; from detect.bundles.folder import open_bundle\n"
        f"for name in {RELEASED}: open_bundle(name)\n"
        "print(sorted({'torch', 'ultralytics', 'timm', 'joblib', 'sklearn', 'safetensors.torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH])
@pytest.mark.parametrize("position", [0, 1000, -1])
def test_one_altered_byte_is_refused(copy: Path, name: str, position: int) -> None:
    alter(copy / name, position)
    with pytest.raises(BundleError, match=f"{name} was altered") as caught:
        open_bundle(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(copy)


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH])
def test_a_card_without_a_hash_is_refused(copy: Path, name: str) -> None:
    files = yaml.safe_load((copy / CARD).read_text())["files"]
    files.pop(name)
    edit(copy, files=files)
    with pytest.raises(BundleError, match=f"no hash for {name}"):
        open_bundle(copy)


def test_a_folder_without_a_card_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle\.yaml"):
        open_bundle(tmp_path)


def test_an_unknown_name_lists_the_released_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        open_bundle("cells-yolov9")
    assert all(name in str(caught.value) for name in RELEASED)


def test_a_folder_that_is_no_bundle_does_not_hide_a_released_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / SMALL).mkdir()  # such as the run folder of a training
    monkeypatch.chdir(tmp_path)
    assert open_bundle(SMALL).path == assets.RELEASED_BUNDLES / SMALL


def test_the_wrong_task_is_refused() -> None:
    with pytest.raises(BundleError, match="this is a classifier, not a detector"):
        open_bundle(SMALL, "detector")
    with pytest.raises(BundleError, match="this is a detector, not a classifier"):
        open_bundle("cells-yolov8n", "classifier")


def test_every_mistake_of_a_card_is_listed(copy: Path) -> None:
    edit(copy, licens="MIT", titel="x", task="painter")
    with pytest.raises(ConfigError) as caught:
        open_bundle(copy)
    text = str(caught.value)
    assert "licens: unknown key; did you mean 'licence'?" in text
    assert "titel" in text
    assert "painter" in text
    assert str(copy / CARD) in text


def test_a_card_must_fit_its_task(copy: Path) -> None:
    edit(copy, task="detector")
    with pytest.raises(ConfigError, match="a detector has a 'detector' section"):
        open_bundle(copy)


def test_a_detector_needs_a_threshold_for_each_class(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(assets.RELEASED_BUNDLES / "cells-yolov8n", tmp_path / "bundle"))
    section = yaml.safe_load((folder / CARD).read_text())["detector"]
    edit(folder, detector=section | {"thresholds": {"WBC": 0.5}})
    with pytest.raises(ConfigError, match="expected one for each of"):
        open_bundle(folder)


def metric(name: str, value: float, part: str = "val") -> Metric:
    """A figure."""
    return Metric(name=name, value=value, data="d", part=part, n_fields=1, n_groups=1, n_cells=1, command="c")


def test_a_figure_replaces_that_of_its_name(copy: Path) -> None:
    before = open_bundle(copy).card.metrics
    add_metrics(copy, [metric("F1", 0.5), metric("accuracy", 0.6)])
    add_metrics(copy, [metric("F1", 0.7), metric("F1", 0.4, "test")])
    opened = open_bundle(copy)
    assert opened.card.metrics[: len(before)] == before
    added = {(m.name, m.part): m.value for m in opened.card.metrics[len(before) :]}
    assert added == {("F1", "val"): 0.7, ("accuracy", "val"): 0.6, ("F1", "test"): 0.4}
    assert len(opened.card.metrics) == len(before) + 3


def test_new_figures_do_not_bless_an_altered_file(copy: Path) -> None:
    alter(copy / WEIGHTS, 1000)
    with contextlib.suppress(SmearError):  # to refuse here is as good as to leave the old hash
        add_metrics(copy, [metric("F1", 0.5)])
    with pytest.raises(BundleError, match=WEIGHTS):
        open_bundle(copy)


def test_a_card_is_written_whole(copy: Path) -> None:
    card = open_bundle(copy).card
    written = write_card(card.model_copy(update={"title": "µ-cells"}), copy)
    assert open_bundle(copy).card == written
    assert written.title == "µ-cells"
    assert sorted(p.name for p in copy.iterdir()) == sorted([CARD, WEIGHTS, GRAPH])


def test_a_folder_in_use_is_not_overwritten(copy: Path, tmp_path: Path) -> None:
    from detect.bundles.draft import prepare_folder

    with pytest.raises(StoreError, match="not empty"):
        prepare_folder(copy, overwrite=False)
    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="not a bundle"):
        prepare_folder(other, overwrite=True)
    assert (other / "letter.txt").read_text() == "dear"
    assert (copy / WEIGHTS).is_file()
    prepare_folder(copy, overwrite=True)
    assert list(copy.iterdir()) == []
