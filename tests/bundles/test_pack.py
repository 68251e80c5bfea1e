"""Bundles made smaller answer as before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detect import assets
from detect.bundles.card import CARD, WEIGHTS, Card
from detect.bundles.folder import Bundle, open_bundle, write_card
from detect.bundles.pack import pack
from detect.config import load
from detect.errors import BundleError, StoreError
from tests.cli.command import inside

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two released detectors and the one that is both, as they were before they were packed."""
    for name in ("cells-robust", "cells-yolov8n", "cells-accurate"):
        shutil.copytree(assets.bundle(name), tmp_path / name)
    for name in ("cells-robust", "cells-yolov8n"):
        rewrite(tmp_path / name, lambda v: v.astype(np.float32) if v.dtype == np.float16 else v)
    write_card(card_of(tmp_path / "cells-accurate"), tmp_path / "cells-accurate")
    return tmp_path


def card_of(folder: Path) -> Card:
    return load(Card, folder / CARD)


def rewrite(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A bundle with other weights, as its own card says."""
    weights = safetensors.load_file(folder / WEIGHTS)
    safetensors.save_file({k: change(v) for k, v in weights.items()}, folder / WEIGHTS)
    write_card(card_of(folder), folder)


def test_weights_lose_no_bit_and_the_bundle_that_holds_them_still_opens(home: Path) -> None:
    before = safetensors.load_file(home / "cells-robust" / WEIGHTS)
    size = (home / "cells-robust" / WEIGHTS).stat().st_size
    saved = pack(open_bundle(home / "cells-robust"))
    assert saved == size - (home / "cells-robust" / WEIGHTS).stat().st_size > 0.49 * size
    after = safetensors.load_file(home / "cells-robust" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[k], after[k].astype(before[k].dtype)) for k in before)
    opened = open_bundle(home / "cells-accurate", "detector")
    assert {open_bundle(home / name).card.name for name in opened.card.architecture["config"]["members"]} == {
        "cells-robust",
        "cells-yolov8n",
    }
    assert pack(open_bundle(home / "cells-robust")) == 0


def test_weights_that_would_lose_a_bit_stay_as_they_are(home: Path) -> None:
    bundle = home / "cells-robust"
    shutil.rmtree(home / "cells-accurate")
    rewrite(bundle, lambda v: v + np.float32(1e-5) if v.dtype == np.float32 else v)
    before = (bundle / WEIGHTS).read_bytes(), (bundle / CARD).read_bytes()
    assert pack(open_bundle(bundle)) == 0
    assert ((bundle / WEIGHTS).read_bytes(), (bundle / CARD).read_bytes()) == before


def test_an_altered_bundle_beside_is_neither_blessed_nor_in_the_way(home: Path) -> None:
    with (home / "cells-yolov8n" / CARD).open("a") as file:
        file.write("\n")
    (home / "other").mkdir()
    (home / "other" / CARD).write_text("no: [card")
    assert pack(open_bundle(home / "cells-robust")) > 0
    open_bundle(home / "cells-robust")
    with pytest.raises(BundleError, match=r"cells-yolov8n/bundle.yaml was altered"):
        open_bundle(home / "cells-accurate")


def test_a_member_is_packed_within_its_ensemble(home: Path, tmp_path: Path) -> None:
    """One that was copied into the bundle of several, whose card then vouches for it."""
    outer = tmp_path / "both"
    shutil.copytree(home / "cells-robust", outer / "members" / "cells-robust")
    shutil.copytree(home / "cells-yolov8n", outer / "members" / "cells-yolov8n")
    card = card_of(home / "cells-accurate")
    config = {**card.architecture["config"], "beside": False}
    inner = card.model_copy(update={"architecture": {**card.architecture, "config": config}})
    write_card(inner, outer)
    open_bundle(outer)
    assert pack(open_bundle(outer / "members" / "cells-robust")) > 0
    open_bundle(outer)


def test_who_learnt_from_its_answers_still_knows_a_packed_bundle(home: Path, tmp_path: Path) -> None:
    before = open_bundle(home / "cells-robust").model
    pack(open_bundle(home / "cells-robust"))
    assert open_bundle(home / "cells-robust").model == before
    pack(open_bundle(home / "cells-robust"), graph_only=True)
    assert open_bundle(home / "cells-robust").model == before


def test_a_full_disk_leaves_the_bundle_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "cells-robust"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    theirs = Path.write_text

    def full(path: Path, *args: object, **named: object) -> int:
        if path.name.startswith(CARD):
            raise OSError(28, "No space left on device")
        return theirs(path, *args, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StoreError, match="No space left"):
            pack(open_bundle(folder))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    mode = (folder / WEIGHTS).stat().st_mode
    assert pack(open_bundle(folder)) > 0
    assert (folder / WEIGHTS).stat().st_mode == mode


def test_a_classifier_is_checked_and_then_packed_without_its_weights(tmp_path: Path) -> None:
    bundle = tmp_path / "types"
    shutil.copytree(assets.bundle("wbc-types"), bundle)
    graph = (bundle / "model.onnx").read_bytes()
    answer = inside("bundle", "pack", bundle, "--graph-only")
    assert answer.code == 0, answer.err
    assert "against the training framework" in answer.out
    assert not (bundle / WEIGHTS).exists()
    assert (bundle / "model.onnx").read_bytes() == graph
    assert isinstance(open_bundle(bundle, "classifier"), Bundle)
    again = inside("bundle", "verify", bundle)
    assert again.code == 0, again.err
    assert "against ONNX Runtime" in again.out
    assert "nothing to save" in inside("bundle", "pack", bundle, "--graph-only").out


def test_a_graph_that_answers_otherwise_keeps_its_weights(tmp_path: Path) -> None:
    bundle = tmp_path / "types"
    shutil.copytree(assets.bundle("wbc-types"), bundle)
    rewrite(bundle, lambda v: v * np.float32(1.5) if v.dtype == np.float32 else v)
    assert inside("bundle", "pack", bundle, "--graph-only").code == 1
    assert (bundle / WEIGHTS).is_file()
