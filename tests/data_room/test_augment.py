"""Augmentation: what is misspelt is an error before training, and boxes move with the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detect import assets
from detect.config import load
from detect.data.augment import Transform, build
from detect.detectors.base import DetectorSettings
from detect.errors import ConfigError
from tests import data

albumentations = pytest.importorskip("albumentations")


def made(name: str, **args: Any) -> list[Any]:
    return build([Transform(name="HorizontalFlip"), Transform(name=name, args=args)], "a.yaml")


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("HorizontalFlp", {}, r"a\.yaml: augment\.1: albumentations has no transform 'HorizontalFlp'"),
        ("Compose", {}, "no transform 'Compose'"),
        ("Lambda", {}, "no transform 'Lambda'"),
        ("__name__", {}, "no transform '__name__'"),
        ("HorizontalFlip", {"q": 0.5}, r"(?s)HorizontalFlip has no argument \['q'\].*it takes: p"),
        ("HorizontalFlip", {"p": 3}, r"augment\.1: HorizontalFlip: "),
        ("GaussianBlur", {"blur_limit": "strong"}, r"augment\.1: GaussianBlur: "),
    ],
)
def test_what_albumentations_does_not_know_is_refused(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(name, **args)


@pytest.mark.parametrize("name", ["BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"])
def test_a_base_class_is_no_transform(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'|{name}"):
        made(name)


@pytest.mark.parametrize("name", ["RandomCrop3D", "OverlayElements"])
def test_a_transform_that_does_not_keep_boxes_is_refused(name: str) -> None:
    args = {"size": [1, 8, 8]} if name.endswith("3D") else {}
    with pytest.raises(ConfigError, match=name):
        made(name, **args)


def test_lists_become_tuples() -> None:
    _, blur = made("GaussianBlur", blur_limit=[3, 5], p=1)
    assert blur.blur_limit == (3, 5)
    assert blur.p == 1


def test_nothing_is_built_of_nothing() -> None:
    assert build([], "a.yaml") == []


CONFIGS = sorted((assets.ROOT / "configs" / "detectors").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_packaged_augmentations_are_built_as_written(path: Path) -> None:
    settings = load(DetectorSettings, path)
    named = [t["name"] for t in yaml.safe_load(path.read_text()).get("augment", [])]
    assert [type(t).__name__ for t in build(settings.augment, str(path))] == named


@pytest.mark.parametrize("name", ["HorizontalFlip", "VerticalFlip", "RandomRotate90", "Transpose"])
def test_boxes_move_with_the_picture(name: str) -> None:
    picture = np.full((60, 90, 3), 240, np.uint8)
    picture[10:30, 50:80] = 0
    chain = albumentations.Compose(
        made(name, p=1.0)[1:],
        bbox_params=albumentations.BboxParams(format="pascal_voc", label_fields=["labels"]),
        seed=3,
    )
    done = chain(image=picture, bboxes=[[50, 10, 80, 30]], labels=[0])
    y, x = np.nonzero(done["image"][:, :, 0] < 128)
    np.testing.assert_allclose(done["bboxes"], [[x.min(), y.min(), x.max() + 1, y.max() + 1]], atol=1e-3)


def test_a_smear_stays_a_smear() -> None:
    chain = albumentations.Compose(made("GaussianBlur", blur_limit=[3, 5], p=1.0), seed=1)
    done = chain(image=data.smear())["image"]
    assert done.shape == data.smear().shape
    assert done.dtype == np.uint8
