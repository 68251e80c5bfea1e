"""The contact sheet: what it shows, that it is drawn the same again, and what it says when it cannot be drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from detect.data import preview
from detect.data.augment import Transform, TransformSet
from detect.errors import ConfigError, MissingExtraError
from detect.images import decode
from detect.images.preprocess import Step
from tests import data
from tests.cli.command import inside

SMEAR = data.smear(200, 150)
RED = (200, 0, 0)


def picture(seed: int = 0) -> preview.Picture:
    boxes = np.array([[20, 30, 80, 90], [120, 40, 199, 149]], np.float32)
    return preview.Picture(data.smear(200, 150, seed), boxes, np.array([0, 1]))


def chosen(*augment: Transform, steps: tuple[Step, ...] = ()) -> TransformSet:
    return TransformSet(preprocess=steps, augment=augment)


def transform(name: str, **args: Any) -> Transform:
    return Transform(name=name, args=args)


def sheet(what: TransformSet, seed: int = 1) -> np.ndarray:
    return preview.sheet(picture(), [picture(1), picture(2)], what, "a.yaml", seed)


def rows_of(page: np.ndarray) -> int:
    """Rows of pictures: runs of lines that are not paper at the left edge of the first picture."""
    dark = (page[:, preview._GAP + 2] != 255).any(axis=1)
    runs = np.split(np.flatnonzero(dark), np.flatnonzero(np.diff(np.flatnonzero(dark)) > 1) + 1)
    return sum(len(run) > 100 for run in runs)


def test_a_row_for_each_and_one_for_all() -> None:
    pytest.importorskip("albumentations")
    step, flip, blur = Step(name="Unsharp"), transform("HorizontalFlip"), transform("GaussianBlur", p=0.1)
    for what, rows in (
        (chosen(steps=(step,)), 2),
        (chosen(steps=(step, step)), 4),
        (chosen(flip), 2),
        (chosen(flip, blur), 4),
        (chosen(flip, blur, steps=(step,)), 5),
    ):
        page = sheet(what)
        assert page.dtype == np.uint8
        assert page.shape[1] == preview._GAP + preview.DRAWS * (preview._SIDE + preview._GAP)
        assert rows_of(page) == rows


def test_a_sheet_is_drawn_the_same_again() -> None:
    pytest.importorskip("albumentations")
    what = chosen(transform("HedJitter"), transform("Affine", rotate=[-30, 30]), transform("MixUp"))
    page = sheet(what)
    np.testing.assert_array_equal(page, sheet(what))
    assert page.shape != (other := sheet(what, seed=2)).shape or (page != other).any()


def test_boxes_are_drawn_where_cells_move() -> None:
    pytest.importorskip("albumentations")
    page = sheet(chosen(transform("HorizontalFlip", p=0.01)))
    below = page[-200:]  # within the last row
    left = preview._GAP
    thumbnail = below[:, left : left + preview._SIDE]
    xs = np.flatnonzero((thumbnail == RED).all(axis=2).any(axis=0))
    scale = preview._SIDE / 200
    # Mirrored: the box from 20 to 80 of 200 now reaches from 120 to 180. A flip is shown once.
    assert abs(xs.min() - 120 * scale) <= 2
    assert abs(xs.max() - 180 * scale) <= 3
    assert (below[:, left + preview._SIDE + preview._GAP :] == 255).all()
    still = sheet(chosen(transform("GaussianBlur")))
    assert not (still[-200:] == RED).all(axis=2).any()


@pytest.mark.parametrize("name", ["MixUp", "Mosaic", "FDA"])
def test_other_fields_are_handed_over(name: str) -> None:
    pytest.importorskip("albumentations")
    args = {"target_size": [100, 100], "cell_shape": [80, 80]} if name == "Mosaic" else {}
    assert rows_of(sheet(chosen(transform(name, **args)))) == 2


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: names no step and no transform"):
        sheet(chosen())
    pytest.importorskip("albumentations")
    with pytest.raises(ConfigError, match=r"a\.yaml: augment\.1: .*'Flip'"):
        sheet(chosen(transform("VerticalFlip"), transform("Flip")))
    with pytest.raises(ConfigError, match=r"a\.yaml: RandomCrop: "):
        sheet(chosen(transform("RandomCrop", height=900, width=900)))


def test_steps_alone_need_no_extra() -> None:
    with mock.patch.dict(sys.modules, {"albumentations": None}):
        assert rows_of(sheet(chosen(steps=(Step(name="Unsharp"),)))) == 2
        with pytest.raises(MissingExtraError, match="train"):
            sheet(chosen(transform("HorizontalFlip")))


def write(folder: Path, name: str, seed: int = 0, labels: str | None = None) -> Path:
    path = folder / f"{name}.png"
    path.write_bytes(data.encode(data.smear(200, 150, seed), "PNG"))
    if labels is not None:
        path.with_suffix(".txt").write_text(labels, "utf-8")
    return path


def test_boxes_are_read_from_the_label_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a", labels="2 0.5 0.5 0.1 0.2\n0 0.25 0.4 0.5 0.8\n")
    for labels in (None, path.with_suffix(".txt")):
        found = preview.read(path, labels)
        np.testing.assert_allclose(found.boxes, [[90, 60, 110, 90], [0, 0, 100, 120]], atol=1e-3)
        assert found.labels.tolist() == [2, 0]
    elsewhere = tmp_path / "by-hand.txt"
    elsewhere.write_text("1 0.5 0.5 1 1\n", "utf-8")
    assert preview.read(path, elsewhere).boxes.tolist() == [[0, 0, 200, 150]]
    assert len(preview.read(write(tmp_path, "b")).boxes) == 0
    for wrong in (tmp_path / "no.txt", path):
        with pytest.raises(ConfigError, match="no such label file"):
            preview.read(path, wrong)


def test_neighbours_follow_by_name(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, seed) for seed, name in enumerate("abcde")]
    (tmp_path / "notes.txt").write_text("none\n", "utf-8")
    found = [n.pixels for n in preview.neighbours(paths[3])]
    for pixels, seed in zip(found, (4, 0, 1), strict=True):
        np.testing.assert_array_equal(pixels, data.smear(200, 150, seed))


def test_the_command_writes_a_sheet(tmp_path: Path) -> None:
    pytest.importorskip("albumentations")
    path = write(tmp_path, "a", labels="0 0.5 0.5 0.2 0.2\n")
    write(tmp_path, "b", 1, labels="")
    for config in ("geometry", "mixup", "stain-reinhard", "yolov8n"):
        out = tmp_path / "sheets" / f"{config}.png"
        out.parent.mkdir(exist_ok=True)
        answer = inside("data", "preview", config, path, "--out", out, "--seed", 3)
        assert answer.code == 0, answer.err
        assert decode.read(out).shape[1] > 1000
    assert inside("data", "preview", "geometri", path).code == 2
    told = inside("data", "preview", "geometry", path, "--out", tmp_path / "no" / "a.png")
    assert told.code == 2
    assert "cannot be written" in told.err
