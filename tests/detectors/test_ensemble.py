"""Several detectors as one: fused boxes, mirror images, bundles of bundles."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from detect.bundles.folder import open_bundle
from detect.detectors.ensemble import EnsembleDetector, EnsembleSettings
from detect.detectors.opened import open_detector
from detect.errors import BundleError, MissingExtraError
from detect.formats.masks import encode, mirrored
from detect.images.magnification import Scale
from detect.types import ClassMap, Detections, Image
from tests import drawn as sample
from tests.cli.command import inside
from tests.detectors.test_seams import BLUE, NAMES, RED, SCALE, TILE, detector, draw, told, truth
from tests.detectors.tiny import Tiny, write


class Fixed:
    """A detector that always finds the same."""

    red_cell_px = None

    def __init__(self, names: Sequence[str], rows: Sequence[tuple[str, float, tuple[float, ...]]]) -> None:
        self.classes = ClassMap(tuple(names))
        boxes = np.array([b for *_, b in rows], np.float32).reshape(-1, 4)
        labels = np.array([self.classes.index(n) for n, *_ in rows], np.int64)
        self.found = Detections(boxes, np.array([s for _, s, _ in rows]), labels, self.classes)

    def shape(self, width: int, height: int, scale: Scale | None = None) -> tuple[int, int]:
        return height, width

    def predict(
        self, fields: Sequence[Image], scales: Sequence[Scale | None] | None = None, *, least: float | None = None
    ) -> list[Detections]:
        return [self.found] * len(fields)


FIELD = np.zeros((100, 200, 3), np.uint8)
HERE, NEAR, ELSEWHERE = (20, 20, 60, 60), (24, 20, 64, 60), (120, 30, 150, 60)


def together(members: Sequence[Fixed], least: float = 0.0, **more: object) -> EnsembleDetector:
    settings = EnsembleSettings(members=tuple(f"m{k}" for k in range(len(members))), **more)
    names = {n for m in members for n in m.classes.names}
    return EnsembleDetector(members, settings, thresholds=dict.fromkeys(names, least))


def test_two_that_agree_meet_in_the_middle_and_one_alone_counts_half() -> None:
    a = Fixed(NAMES, [("WBC", 0.9, HERE), ("RBC", 0.8, ELSEWHERE)])
    b = Fixed(NAMES[::-1], [("WBC", 0.9, NEAR)])
    found = together([a, b]).predict([FIELD])[0]
    assert told(found) == [(0, 22, 20, 62, 60), (1, *ELSEWHERE)]
    assert found.scores.tolist() == pytest.approx([0.9, 0.4], abs=1e-6)


def test_weights_count() -> None:
    a, b = Fixed(NAMES, [("WBC", 0.8, HERE)]), Fixed(NAMES, [("WBC", 0.8, NEAR)])
    found = together([a, b], weights=(3.0, 1.0)).predict([FIELD])[0]
    assert found.boxes[0].tolist() == pytest.approx([21, 20, 61, 60], abs=1e-3)


def test_a_class_that_one_knows_is_not_halved_by_the_other() -> None:
    a = Fixed(("WBC", "RBC", "Platelet"), [("Platelet", 0.7, ELSEWHERE)])
    b = Fixed(NAMES, [])
    model = together([a, b])
    assert model.classes.names == ("WBC", "RBC", "Platelet")
    found = model.predict([FIELD])[0]
    assert [(model.classes.names[k], pytest.approx(0.7)) for k in found.labels] == [("Platelet", found.scores[0])]


def test_thresholds_come_after_the_fusion() -> None:
    a = Fixed(NAMES, [("WBC", 0.9, HERE), ("WBC", 0.7, ELSEWHERE)])
    b = Fixed(NAMES, [("WBC", 0.5, HERE)])
    model = together([a, b], least=0.4)
    assert len(model.predict([FIELD])[0]) == 1
    assert len(model.predict([FIELD], least=0.3)[0]) == 2


def test_a_second_box_of_one_member_is_no_second_member() -> None:
    one = Fixed(NAMES, [("WBC", 0.9, HERE)])
    doubled = Fixed(NAMES, [("WBC", 0.9, HERE), ("WBC", 0.06, (22, 20, 62, 60))])
    nothing = Fixed(NAMES, [])
    assert together([doubled, nothing]).predict([FIELD])[0].scores.tolist() == pytest.approx([0.45])
    assert together([doubled, one]).predict([FIELD])[0].scores.tolist() == pytest.approx([0.9])


def test_a_cap_of_any_member_is_told() -> None:
    a, b = Fixed(NAMES, [("WBC", 0.9, HERE)]), Fixed(NAMES, [])
    assert not together([a, b]).predict([FIELD])[0].capped
    b.found = replace(b.found, capped=True)
    assert together([a, b]).predict([FIELD])[0].capped


def test_mirror_images_give_the_same_cells() -> None:
    rng = np.random.default_rng(8)
    cells = [(int(rng.integers(400)), int(rng.integers(330)), 10, (RED, BLUE)[k % 2]) for k in range(40)]
    pixels = draw(400, 330, cells)
    settings = EnsembleSettings(members=("discs",), views="flips")
    model = EnsembleDetector([detector()], settings, thresholds=dict.fromkeys(NAMES, 0.1))
    assert model.shape(400, 330, SCALE) == detector().shape(400, 330, SCALE)
    assert max(model.shape(400, 330, SCALE)) == TILE
    assert sorted(told(model.predict([pixels], [SCALE])[0])) == sorted(truth(pixels))


def test_masks_are_mirrored_back() -> None:
    inside = np.random.default_rng(3).random((20, 31)) > 0.5
    for across in (False, True):
        for down in (False, True):
            seen = inside[:: -1 if down else 1, :: -1 if across else 1]
            assert (rle.decode(dict(mirrored(encode(seen), across=across, down=down))) == inside).all()


def test_masks_come_from_the_surest_member() -> None:
    one = open_detector(open_bundle("classical"))
    settings = EnsembleSettings(members=("classical",), views="flips")
    model = EnsembleDetector([one], settings, thresholds=dict.fromkeys(one.classes.names, 0.0))
    from tests import drawn as sample

    pixels = next(iter(sample.fields(1, 3, sample.SLIDES["slide-a"])))[0]
    found = model.predict([pixels])[0]
    assert found.masks is not None
    assert len(found) > 5
    for box, mask in zip(found.boxes, found.masks, strict=True):
        x, y, w, h = rle.toBbox(dict(mask))
        own = np.array([x, y, x + w, y + h])
        assert np.abs(own - box).max() <= 0.25 * max(w, h)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def fused(tiny: Tiny) -> Path:
    """Two released detectors as one bundle, made by the command."""
    out = tiny.card.parent / "fused"
    words = ("bundle", "fuse", "cells-yolov8n", "classical", "--data", tiny.card, "--root", tiny.home, "--out", out)
    answer = inside(*words, "--weight", 2, "--weight", 1)
    assert answer.code == 0, answer.err
    return out


def test_a_bundle_of_bundles_is_one_like_any_other(fused: Path, tiny: Tiny, tmp_path: Path) -> None:
    bundle = open_bundle(fused, "detector")
    assert bundle.card.architecture["config"]["weights"] == [2.0, 1.0]
    assert set(bundle.card.files) == {"members/cells-yolov8n/bundle.yaml", "members/classical/bundle.yaml"}
    assert bundle.card.metrics
    measured = inside(
        "evaluate", "detector", fused, "--data", tiny.card, "--root", tiny.home, "--split", "test", "--out",
        tmp_path / "e", "--bootstrap", 20,
    )  # fmt: skip
    assert measured.code == 0, measured.err
    scored = inside("score", tiny.home / "images", "--out", tmp_path / "s", "--detector", fused)
    assert scored.code == 0, scored.err
    assert "12 of 12 fields read" in scored.out
    checked = inside("bundle", "verify", fused)
    assert checked.code == 0, checked.err
    assert "cells-yolov8n: hashes match" in checked.out


def test_members_beside_a_bundle_are_named_and_not_copied(fused: Path, tiny: Tiny, tmp_path: Path) -> None:
    home = tmp_path / "home"
    members = sorted(p.name for p in (fused / "members").iterdir())
    for name in members:
        shutil.copytree(fused / "members" / name, home / name)
    words = [home / name for name in members]
    data = ("--data", tiny.card, "--root", tiny.home)
    made = inside("bundle", "fuse", *words, *data, "--out", home / "both", "--beside")
    assert made.code == 0, made.err
    assert [p.name for p in (home / "both").iterdir()] == ["bundle.yaml"]
    copied = inside("bundle", "fuse", *words, *data, "--out", tmp_path / "copied")
    assert copied.code == 0, copied.err
    fields = [f for f, _ in sample.fields(1, 3, sample.SLIDES["slide-a"])]
    found = [open_detector(open_bundle(place)).predict(fields)[0] for place in (home / "both", tmp_path / "copied")]
    np.testing.assert_array_equal(found[0].boxes, found[1].boxes)
    elsewhere = inside("bundle", "fuse", *words, *data, "--out", tmp_path / "other", "--beside")
    assert elsewhere.code == 2
    assert "does not lie beside it" in elsewhere.err.replace("\n", " ")
    card = home / members[0] / "bundle.yaml"
    card.write_text(card.read_text() + "# changed\n")
    with pytest.raises(BundleError, match="was altered"):
        open_bundle(home / "both")
    shutil.rmtree(home / members[0])
    with pytest.raises(BundleError, match="is missing"):
        open_bundle(home / "both")


def test_an_altered_member_is_noticed(fused: Path) -> None:
    path = fused / "members" / "cells-yolov8n" / "bundle.yaml"
    kept = path.read_bytes()
    path.write_bytes(re.sub(rb"WBC: 0\.[0-9]+", b"WBC: 0.01", kept))
    with pytest.raises(BundleError, match="altered"):
        open_bundle(fused)
    path.write_bytes(kept)
    graph = path.with_name("model.onnx")
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"model\.onnx was altered"):
        open_detector(open_bundle(fused))
    graph.write_bytes(whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("classical", "classical"), "share a name"),
        (("classical",), "add --views flips"),
        (("classical", "--views", "turns"), "no views"),
        (("classical", "cells-yolov8n", "--weight", 1), "weights"),
        (("classical", "cells-yolov8n", "--weight", 1, "--weight", 0), "weights"),
    ],
)
def test_nonsense_is_refused(tiny: Tiny, tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    answer = inside(
        "bundle", "fuse", *words, "--data", tiny.card, "--root", tiny.home, "--out", tmp_path / "o"
    )  # fmt: skip
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "o").exists()


def test_an_ensemble_of_ensembles_is_refused(tiny: Tiny, fused: Path, tmp_path: Path) -> None:
    words = ("bundle", "fuse", fused, "classical", "--data", tiny.card, "--root", tiny.home, "--out", tmp_path / "o")
    answer = inside(*words)
    assert answer.code == 2
    assert "name its members" in answer.err


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detect.detectors.ensemble.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="ensemble"):
        together([Fixed(NAMES, [("WBC", 0.9, HERE)])], views="flips")


def test_an_input_is_never_the_output(fused: Path, tiny: Tiny, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(fused / "members" / "cells-yolov8n", own)
    for out in (own, own / "below"):
        words = ("bundle", "fuse", own, "--views", "flips", "--data", tiny.card, "--root", tiny.home, "--out", out)
        answer = inside(*words, "--overwrite")
        assert answer.code == 2
        assert "name another folder" in answer.err
    assert open_bundle(own).card.name == "cells-yolov8n"


def test_a_member_that_the_card_does_not_know_is_refused(fused: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    shutil.copytree(fused, out)
    shutil.copytree(out / "members" / "classical", out / "members" / "other")
    with pytest.raises(BundleError, match="gives no hash for members/other"):
        open_bundle(out)
