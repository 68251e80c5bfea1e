"""Our own augmentations: built by name, random by seed, and fit to be pickled and written into checkpoints."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detect import assets
from detect.data.augment import Transform, build, load_set
from detect.errors import ConfigError
from detect.images import preprocess, stain
from detect.types import Image
from tests import data
from tests.images.test_preprocess import FITTED

A = pytest.importorskip("albumentations")

SMEAR = data.smear(96, 80)
SETS = sorted((assets.ROOT / "configs" / "transforms").glob("*.yaml"))
ARGS = FITTED | {"HedJitter": {"alpha": 0.2, "beta": 0.1}, "MacenkoJitter": {"alpha": 0.2}}
OURS = ("HedJitter", "MacenkoJitter", "MixUp", *preprocess.STEPS)


def made(name: str, *, bgr: bool = False, **args: Any) -> Any:
    return build([Transform(name=name, args=args)], "a.yaml", metadata=True, bgr=bgr)[0]


def done(kind: Any, picture: Image = SMEAR, seed: int = 1, **handed: Any) -> Image:
    out: Image = A.Compose([kind], seed=seed)(image=picture, **handed)["image"]
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    return out


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        (
            "HedJitter",
            {"gamma": 1},
            r"(?s)a\.yaml: augment\.0: HedJitter has no argument \['gamma'\].*alpha, beta, p\b",
        ),
        ("HedJitter", {"bgr": True}, r"HedJitter has no argument \['bgr'\]"),
        ("HedJitter", {"alpha": 1}, r"augment\.0: HedJitter: .*"),
        ("MixUp", {"alpha": 0}, r"augment\.0: MixUp: .*"),
        ("Unsharp", {"amunt": 1}, r"a\.yaml: augment\.0: Unsharp: .*\n.*did you mean 'amount'"),
        ("Unsharp", {"p": 2}, r"augment\.0: Unsharp: .*"),
        ("Macenko", {"p": 1}, r"augment\.0: Macenko: .*\n.*give either 'reference'"),
        ("Macenko", {"reference": "no.png"}, r"augment\.0: Macenko: the reference no\.png: cannot be read"),
        ("HedJiter", {}, r"(?s)no transform 'HedJiter'.*ours are HedJitter, MacenkoJitter, MixUp, Macenko"),
    ],
)
def test_mistakes_are_told_before_training(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build([Transform(name=name, args=args)], "a.yaml", metadata=True)


@pytest.mark.parametrize("name", ["Mosaic", "MixUp", "FDA"])
def test_what_needs_other_pictures_is_built_only_where_they_are_handed_over(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"augment\.0: {name} needs other pictures"):
        build([Transform(name=name)], "a.yaml")
    assert type(made(name)).__name__ == name


@pytest.mark.parametrize("name", OURS)
def test_a_checkpoint_can_hold_it(name: str) -> None:
    """The library that trains pickles transforms, and writes them as dictionaries that it builds anew."""
    kind = made(name, p=0.25, bgr=True, **ARGS.get(name, {}))
    told = A.to_dict(kind)
    copies = [pickle.loads(pickle.dumps(kind)), A.from_dict(told)]
    assert name in repr(kind)
    for copy in copies:
        assert type(copy) is type(kind)
        assert A.to_dict(copy) == told
        assert copy.p == 0.25
        copy.p = 1.0
    if name != "MixUp":
        assert all(copy.bgr for copy in copies)
        np.testing.assert_array_equal(*(done(copy) for copy in copies))


@pytest.mark.parametrize("name", [n for n in OURS if n != "MixUp"])
def test_pictures_of_swapped_channels_are_seen_as_they_are(name: str) -> None:
    args = ARGS.get(name, {}) | {"p": 1.0}
    swapped = np.ascontiguousarray(SMEAR[:, :, ::-1])
    expected = done(made(name, **args))
    np.testing.assert_array_equal(done(made(name, bgr=True, **args), swapped), expected[:, :, ::-1])


@pytest.mark.parametrize("name", preprocess.STEPS)
def test_a_step_is_done_now_and_then(name: str) -> None:
    args = FITTED.get(name, {})
    expected = preprocess.apply(SMEAR, [preprocess.Step(name=name, args=args)])
    np.testing.assert_array_equal(done(made(name, **args, p=1.0)), expected)
    outcomes = [(done(made(name, **args, p=0.5), seed=s) == expected).all() for s in range(12)]
    assert 0 < sum(map(bool, outcomes)) < 12 or (expected == SMEAR).all()


@pytest.mark.parametrize(("name", "numbers"), [("HedJitter", (3, 3)), ("MacenkoJitter", (2,))])
def test_jitter_is_drawn_within_its_limits(name: str, numbers: tuple[int, ...]) -> None:
    kind = made(name, **ARGS[name], p=1.0)
    drawn = []
    for seed in range(200):
        kind.set_random_seed(seed)
        drawn.append(kind.get_params())
    limits = {"gain": (0.8, 1.2), "shift": (-0.1, 0.1)}
    assert [len(v) for v in drawn[0].values()] == [*numbers]
    for key in drawn[0]:
        values, (low, high) = np.array([d[key] for d in drawn]), limits[key]
        assert low <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high
    together = np.array([np.concatenate([*d.values()]) for d in drawn])
    assert np.abs(np.corrcoef(together.T) - np.eye(sum(numbers))).max() < 0.3


def test_jitter_is_that_of_the_function() -> None:
    kind = made("HedJitter", p=1.0)
    out = done(kind)
    np.testing.assert_array_equal(out, stain.jitter_hed(SMEAR, kind.params["gain"], kind.params["shift"]))
    np.testing.assert_array_equal(out, done(made("HedJitter", p=1.0)))
    assert (out != done(made("HedJitter", p=1.0), seed=2)).any()


def test_mixup_takes_what_there_is() -> None:
    params = A.BboxParams(format="pascal_voc", label_fields=["labels"], min_visibility=0.25, clip=True)
    chain = A.Compose([made("MixUp", p=1.0)], bbox_params=params, seed=1)
    none = {"bboxes": np.zeros((0, 4), np.float32), "labels": []}
    one = {"bboxes": np.array([[1, 2, 30, 40]], np.float32), "labels": ["RBC"]}
    other = {"image": data.smear(96, 80, 5)}
    alone = chain(image=SMEAR, **one, mixup_metadata=[])
    np.testing.assert_array_equal(alone["image"], SMEAR)
    assert chain(image=SMEAR, **one, mixup_metadata=[other])["labels"] == ["RBC"]
    assert chain(image=SMEAR, **one, mixup_metadata=[other | none])["labels"] == ["RBC"]
    stranger = other | {"bboxes": np.array([[5, 6, 20, 21]], np.float32), "labels": ["WBC"]}
    out = chain(image=SMEAR, **none, mixup_metadata=[stranger])
    assert out["labels"] == ["WBC"]
    np.testing.assert_allclose(out["bboxes"], stranger["bboxes"], atol=1e-3)
    out = chain(image=SMEAR, **one, mixup_metadata=[stranger])
    assert out["labels"] == ["RBC", "WBC"]  # a label that the picture itself does not have
    empty = np.zeros((0, 80, 96), np.uint8)
    out = chain(image=SMEAR, **none, masks=empty, mixup_metadata=[stranger | {"masks": np.ones((1, 80, 96), np.uint8)}])
    assert out["masks"].shape == (1, 80, 96)
    assert out["image"].flags.c_contiguous
    assert made("MixUp", p=1.0)(image=SMEAR, mixup_metadata=[other])["image"].shape == SMEAR.shape  # not composed


def test_mixup_draws_shares_around_a_half() -> None:
    other = {"image": np.zeros_like(SMEAR)}
    shares = []
    for seed in range(40):
        kind = made("MixUp", p=1.0)
        done(kind, np.full_like(SMEAR, 200), seed=seed, mixup_metadata=[other])
        shares.append(kind.params["share"])
    assert 0.3 < min(shares) < max(shares) < 0.7
    assert np.std(shares) == pytest.approx(np.sqrt(1 / (4 * 65)), rel=0.4)  # of Beta(32, 32)


@pytest.mark.parametrize("path", SETS, ids=lambda p: p.stem)
def test_packaged_sets_are_built_as_written(path: Path) -> None:
    chosen, where = load_set(path.stem)
    assert where == str(path)
    assert chosen.preprocess or chosen.augment
    kinds = build(chosen.augment, where, metadata=True)
    assert [type(k).__name__ for k in kinds] == [t.name for t in chosen.augment]
    assert path.read_text("utf-8").startswith("# ")


def test_a_set_is_found_by_name_or_path_or_in_a_training(tmp_path: Path) -> None:
    assert load_set("configs/transforms/colour.yaml")[0] == load_set("colour")[0]
    detector, where = load_set("yolov8n")
    assert where.endswith("detectors/yolov8n.yaml")
    assert "RandomRotate90" in [t.name for t in detector.augment]
    assert load_set("wbc-types-small")[0].augment[0].name == "D4"
    with pytest.raises(ConfigError, match="no file 'colours'"):
        load_set("colours")
    own = tmp_path / "own.yaml"
    own.write_text("augmment: [{name: HedJitter}]\n", "utf-8")
    with pytest.raises(ConfigError, match=r"own\.yaml: .*\n.*augmment: unknown key; did you mean 'augment'"):
        load_set(str(own))
    own.write_text("preprocess: [{name: Unsharp, args: {sigma: 0}}]\n", "utf-8")
    with pytest.raises(ConfigError, match=r"own\.yaml: preprocess\.0: Unsharp"):
        load_set(str(own))


def test_naming_a_set_loads_no_framework() -> None:
    code = (
        "import sys; from detect.data.augment import load_set; load_set('stain-macenko'); load_set('geometry');"
        "print(sorted({'albumentations', 'torch', 'skimage', 'scipy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
