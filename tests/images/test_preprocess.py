"""Preprocessing as named steps: mistakes name the file and the key, and what is fitted is plain data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detect import assets
from detect.config import Settings, dump, load_yaml, parse
from detect.errors import ConfigError
from detect.images import filters, preprocess, stain
from detect.images.preprocess import STEPS, Step
from tests import data
from tests.images.test_stain import stained

SMEAR = data.smear(120, 90)
FITTED = {
    "Macenko": {"vectors": [[0.69, 0.38], [0.69, 0.92], [0.22, 0.07]], "most": [1.2, 1.8]},
    "Reinhard": {"mean": [81.0, 10.0, 9.6], "spread": [15.0, 8.8, 13.3]},
    "ColourSpace": {"space": "HSV"},
}
SETS = sorted((assets.ROOT / "configs" / "transforms").glob("*.yaml"))


def step(name: str, **args: Any) -> Step:
    return Step(name=name, args=args)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("Unshrp", {}, r"a\.yaml: preprocess\.1: no preprocessing step 'Unshrp'\n.*the steps are: Macenko, Reinhard"),
        ("Unsharp", {"amunt": 1}, r"a\.yaml: preprocess\.1: Unsharp: .*\n.*amunt: unknown key; did you mean 'amount'"),
        ("Unsharp", {"sigma": 0, "amount": -1}, r"(?s)2 mistakes.*sigma: .*got 0.*amount: .*got -1"),
        ("Unsharp", {"sigma": float("nan")}, r"sigma: "),
        ("MedianDenoise", {"size": 4}, r"size: Input should be 3, 5 or 7, got 4"),
        ("CorrectIllumination", {"most": 0.5}, r"most: .*got 0.5"),
        ("ColourSpace", {"space": "XYZ"}, r"space: Input should be 'Lab', 'YCbCr', 'HSV' or 'CMYK', got 'XYZ'"),
        ("ColourSpace", {}, r"space: missing"),
        ("Macenko", {}, r"give either 'reference', or 'vectors' and 'most'"),
        ("Macenko", {"most": [1, 2]}, r"give either 'reference', or 'vectors' and 'most'"),
        ("Macenko", {"reference": "a.png", "most": [1, 2]}, r"give either 'reference', or 'vectors' and 'most'"),
        ("Macenko", FITTED["Macenko"] | {"most": [1.0, 0.0]}, r"most\.1: .*greater than 0"),
        ("Macenko", FITTED["Macenko"] | {"vectors": [[1, 2], [3, 4]]}, r"vectors\.2: missing"),
        ("Reinhard", {"mean": [1, 2, 3]}, r"give either 'reference', or 'mean' and 'spread'"),
        ("Reinhard", FITTED["Reinhard"] | {"mean": [1, 2, float("inf")]}, r"mean\.2: "),
    ],
)
def test_a_mistake_names_the_file_and_the_key(name: str, args: dict[str, Any], said: str) -> None:
    steps = [step("MedianDenoise"), step(name, **args)]
    for look in (preprocess.check, preprocess.fit):
        with pytest.raises(ConfigError, match=said):
            look(steps, "a.yaml")


def test_a_reference_that_cannot_be_used_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.write_bytes(data.encode(np.full((40, 50, 3), 255, np.uint8), "PNG"))
    for path, said in ((empty, "shows no two stains"), (tmp_path / "no.png", "cannot be read")):
        with pytest.raises(ConfigError, match=rf"a\.yaml: preprocess\.0: Macenko: the reference .*{said}"):
            preprocess.fit([step("Macenko", reference=str(path))], "a.yaml")


def test_a_reference_becomes_numbers(tmp_path: Path) -> None:
    """Fitted steps go through YAML, keep every default, and do what the functions do."""
    path = tmp_path / "reference.png"
    path.write_bytes(data.encode(stained(), "PNG"))
    asked = [step("Macenko", reference=str(path), beta=0.1), step("Reinhard", reference=str(path)), step("Unsharp")]
    preprocess.check(asked, "a.yaml")
    with pytest.raises(ConfigError, match="fit the steps before"):
        preprocess.apply(SMEAR, asked)
    fitted = preprocess.fit(asked, "a.yaml")
    assert str(tmp_path) not in yaml.safe_dump([s.model_dump() for s in fitted])
    assert fitted[0].args.keys() == {"vectors", "most", "light", "alpha", "beta"}
    assert fitted[0].args["beta"] == 0.1
    assert fitted[2].args == {"sigma": 1.0, "amount": 1.0}

    class Bundle(Settings):
        steps: tuple[Step, ...]

    again = parse(Bundle, yaml.safe_load(dump(Bundle(steps=fitted))), "bundle.yaml").steps
    assert again == fitted == preprocess.fit(fitted, "a.yaml")
    reference = stain.fit_macenko(stained(), beta=0.1)
    assert reference is not None
    expected = stain.apply_macenko(SMEAR, reference, beta=0.1)
    expected = filters.unsharp(stain.apply_reinhard(expected, stain.fit_reinhard(stained())))
    path.unlink()
    np.testing.assert_array_equal(preprocess.apply(SMEAR, again), expected)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_takes_and_gives_a_picture(name: str) -> None:
    steps = preprocess.fit([step(name, **FITTED.get(name, {}))], "a.yaml")
    kept = SMEAR.copy()
    out = preprocess.apply(SMEAR, steps)
    assert out.shape == SMEAR.shape
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(SMEAR, kept)
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(lambda _: preprocess.apply(SMEAR, steps), range(8)):
            np.testing.assert_array_equal(again, out)


def test_steps_are_done_in_their_order() -> None:
    one, two = step("ColourSpace", space="Lab"), step("MedianDenoise", size=5)
    expected = filters.median(filters.colour_space(SMEAR, "Lab"), 5)
    np.testing.assert_array_equal(preprocess.apply(SMEAR, [one, two]), expected)
    assert (preprocess.apply(SMEAR, [two, one]) != expected).any()
    np.testing.assert_array_equal(preprocess.apply(SMEAR, []), SMEAR)


def test_a_view_of_a_picture_comes_back_whole() -> None:
    out = preprocess.apply(SMEAR[:, ::-1], [step("MedianDenoise")])
    assert out.flags.c_contiguous
    assert preprocess.apply(SMEAR[:, ::-1], []).flags.c_contiguous


@pytest.mark.parametrize("path", SETS, ids=lambda p: p.stem)
def test_packaged_steps_are_fitted(path: Path) -> None:
    steps = [Step.model_validate(s) for s in load_yaml(path).get("preprocess", [])]
    preprocess.apply(SMEAR, preprocess.fit(steps, str(path)))
    assert all("reference" not in s.args for s in steps)
