"""Maps of where a network looks, whether they are to be believed, and the command that draws them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detect.bundles.folder import Bundle, open_bundle
from detect.errors import BundleError
from detect.types import CellCrop, Image
from tests import drawn as sample
from tests.cli.command import inside

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")

from safetensors.torch import save_file  # noqa: E402

from detect.classify import networks  # noqa: E402
from detect.classify.answerers import Ensemble  # noqa: E402
from detect.classify.explain import Explainer, _last_map, _off, _Pixels, deletion, random_map  # noqa: E402
from detect.classify.explained import explain, explain_known, faithfulness, sheet  # noqa: E402
from detect.classify.heat import over  # noqa: E402
from detect.classify.learn import state_of  # noqa: E402


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The released classifier."""
    return open_bundle("wbc-types", "classifier")


@pytest.fixture(scope="module")
def crops() -> list[CellCrop]:
    """White cells of drawn fields."""
    out = []
    for pixels, truth in sample.fields(2, 9, sample.SLIDES["slide-b"]):
        for cell in truth:
            if cell.name not in ("RBC", "Platelet"):
                x0, y0, x1, y1 = (int(v) for v in cell.box)
                cut = np.ascontiguousarray(pixels[max(0, y0) : y1, max(0, x0) : x1])
                out.append(CellCrop(cut, (x0, y0, x1, y1), False))
    return out[:4]


def other(bundle: Bundle, folder: Path, name: str, size: int) -> Bundle:
    """The same bundle with an untrained network of the zoo in it."""
    torch.manual_seed(1)
    model = networks.build(name, len(bundle.card.classes), size)
    save_file(state_of(model), folder / "weights.safetensors")
    about = {"kind": "network", "name": name, "types": len(bundle.card.classes), "image_size": size}
    assert bundle.card.classifier is not None
    section = bundle.card.classifier.model_copy(update={"image_size": size})
    card = bundle.card.model_copy(update={"architecture": about, "classifier": section})
    return replace(bundle, card=card, path=folder)


@pytest.mark.parametrize("method", ["grad-cam", "score-cam"])
def test_a_map_of_the_released_network(bundle: Bundle, crops: list[CellCrop], method: Any) -> None:
    got = explain(Explainer(bundle, method), crops, bundle.card.classes)
    for cell, crop in zip(got, crops, strict=True):
        assert cell.found.shape == cell.crop.shape[:2] == (96, 96)
        assert 0 <= cell.found.min() <= cell.found.max() <= 1
        assert cell.answer in bundle.card.classes
        assert 0 <= cell.area <= 1
        assert crop.pixels.dtype == np.uint8
    again = explain(Explainer(bundle, method), crops, bundle.card.classes)
    assert [c.area for c in got] == pytest.approx([c.area for c in again], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "method"),
    [
        ("resnet18", 64, "grad-cam"),
        ("mobilenet-v2", 64, "grad-cam"),
        ("cnn-gru", 64, "grad-cam"),
        ("attention-cnn", 64, "grad-cam"),
        ("convnext", 64, "grad-cam"),
        ("vit-tiny", 64, "grad-cam"),
        ("vit-tiny", 64, "attention"),
        ("swin", 64, "grad-cam"),
    ],
)
def test_every_kind_of_network_has_a_map(
    bundle: Bundle, crops: list[CellCrop], tmp_path: Path, name: str, size: int, method: Any
) -> None:
    (cell,) = explain(Explainer(other(bundle, tmp_path, name, size), method), crops[:1], bundle.card.classes)
    assert cell.found.shape == (size, size)
    assert cell.found.max() == pytest.approx(1)
    assert cell.found.std() > 0.01


@pytest.mark.parametrize(
    ("name", "size", "known"),
    [
        ("smallnet", 96, -7.5),  # four steps by two, each padded by one: a place is the 16th pixel, not 16 pixels
        ("resnet18", 96, -15.5),
        ("resnet18", 64, -15.5),
        ("vgg16", 64, 0),  # pooled without padding
        ("lenet", 64, 0),
        ("cnn-gru", 96, 0),
        ("convnext", 64, 0),  # patches that do not overlap
        ("vit-tiny", 64, 0),
    ],
)
def test_a_map_is_moved_to_where_its_network_looked(name: str, size: int, known: float) -> None:
    torch.manual_seed(1)
    model = _Pixels(networks.build(name, 4, size)).eval()
    layer, turn = _last_map(model, size)
    assert layer is not None
    assert turn is not None
    assert _off(model, layer, turn, size) == pytest.approx((known, known), abs=size / 50)


def test_what_answers_for_a_crop_and_its_turns_is_explained_as_it_stands(bundle: Bundle, crops: list[CellCrop]) -> None:
    batch = np.stack([cv2.resize(c.pixels, (96, 96)) for c in crops])
    once = Explainer(bundle)
    about = bundle.card.architecture
    turned = {**about, "members": [{**member, "turns": 4} for member in about["members"]]}
    card = bundle.card.model_copy(update={"architecture": turned})
    four = Explainer(replace(bundle, card=card))
    for one, same in zip(*(e.maps(batch, [0] * len(batch)) for e in (once, four)), strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.abs(four.chances(batch) - once.chances(batch)).max() > 1e-5
    assert np.abs(four.chances(batch) - four.chances(np.ascontiguousarray(np.rot90(batch, 1, (1, 2))))).max() < 1e-5


@pytest.mark.parametrize(("name", "method", "said"), [("resnet18", "attention", "no attention"),
                                                      ("swin", "attention", "of windows")])  # fmt: skip
def test_a_network_without_attention_says_so(
    bundle: Bundle, crops: list[CellCrop], tmp_path: Path, name: str, method: Any, said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        explain(Explainer(other(bundle, tmp_path, name, 64), method), crops[:1], bundle.card.classes)


def test_a_hybrid_is_not_explained_as_one_network(bundle: Bundle) -> None:
    about = {**bundle.card.architecture, "kind": "hybrid"}
    hybrid = replace(bundle, card=bundle.card.model_copy(update={"architecture": about}))
    with pytest.raises(BundleError, match="only networks are explained, here is a hybrid"):
        Explainer(hybrid)


def test_an_ensemble_is_explained_by_the_mean_of_its_networks(
    bundle: Bundle, crops: list[CellCrop], tmp_path: Path
) -> None:
    types = len(bundle.card.classes)
    singles, members = [], []
    for name in ("resnet18", "smallnet"):
        (tmp_path / name).mkdir()
        singles.append(other(bundle, tmp_path / name, name, 64))
        torch.manual_seed(1)
        members.append(networks.build(name, types, 64))
    both = Ensemble(members, "mean", torch.ones(2), torch.ones(2) / 2)
    save_file(state_of(both), tmp_path / "weights.safetensors")
    about = {"kind": "ensemble", "rule": "mean", "members": [s.card.architecture for s in singles]}
    card = singles[0].card.model_copy(update={"architecture": about})
    joined = Explainer(replace(bundle, card=card, path=tmp_path))
    batch = np.stack([cv2.resize(c.pixels, (64, 64)) for c in crops])
    maps = [Explainer(s).maps(batch, [0] * len(batch)) for s in singles]
    for i, found in enumerate(joined.maps(batch, [0] * len(batch))):
        mean = (maps[0][i] + maps[1][i]) / 2
        low, high = mean.min(), mean.max()
        np.testing.assert_allclose(found, (mean - low) / (high - low), atol=1e-5)
    assert joined.chances(batch).sum(axis=1) == pytest.approx(1, abs=1e-5)


class Spot:
    """Answers by how dark one corner of the crop is, so that the right map is known."""

    size = 64

    def chances(self, crops: Image) -> Any:
        dark = 1 - crops[:, :16, :16].mean(axis=(1, 2, 3)) / 255
        return np.stack([dark, 1 - dark], axis=1).astype(np.float32)


def test_the_deletion_curve_falls_sooner_along_the_right_map() -> None:
    crop = np.full((64, 64, 3), 255, np.uint8)
    crop[:16, :16] = 0
    right = np.zeros((64, 64), np.float32)
    right[:16, :16] = 1
    rng = np.random.default_rng(1)
    best = deletion(Spot(), crop, 0, right).area  # type: ignore[arg-type]
    worst = deletion(Spot(), crop, 0, 1 - right).area  # type: ignore[arg-type]
    random = [deletion(Spot(), crop, 0, random_map(64, 6, rng)).area for _ in range(10)]  # type: ignore[arg-type]
    assert best < min(random) <= max(random) < worst


def test_the_curve_begins_with_the_answer_and_ends_with_nothing(bundle: Bundle, crops: list[CellCrop]) -> None:
    explainer = Explainer(bundle)
    (cell,) = explain(explainer, crops[:1], bundle.card.classes)
    answer = bundle.card.classes.index(cell.answer)
    curve = deletion(explainer, cell.crop, answer, cell.found).curve
    assert curve[0] == pytest.approx(cell.sure, abs=1e-5)
    blurred = cv2.GaussianBlur(cell.crop, (0, 0), 12)
    assert curve[-1] == pytest.approx(explainer.chances(blurred[None])[0, answer], abs=1e-4)


def test_faithfulness_is_what_the_cells_say(bundle: Bundle, crops: list[CellCrop]) -> None:
    cells = explain_known(Explainer(bundle), crops, bundle.card.classes, ["Neutrophil"] * len(crops))
    got = faithfulness(cells, [str(i) for i in range(len(cells))], rounds=50)
    assert got["sooner by"].value == pytest.approx(np.mean([c.random - c.area for c in cells]))
    assert got["area along the maps"].value == pytest.approx(np.mean([c.area for c in cells]))
    page = sheet(cells, 2)
    assert page.shape[2] == 3
    assert page.shape[0] > 300


def test_a_map_is_drawn_over_its_crop() -> None:
    crop = np.full((32, 32, 3), 128, np.uint8)
    found = np.zeros((32, 32), np.float32)
    found[8:16, 8:16] = 1
    got = over(crop, found)
    assert (got[20:, 20:] == 128).all()
    assert np.abs(got[10, 10].astype(int) - 128).max() > 30


def test_the_command_draws_cells_it_finds_or_is_given(tmp_path: Path) -> None:
    pixels, truth = sample.field(31, ["Neutrophil"])
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    answer = inside("explain", "wbc-types", path, "--out", tmp_path / "a.png")
    assert answer.code == 0, answer.err
    assert cv2.imread(str(tmp_path / "a.png")) is not None
    assert "may be" in answer.out
    given = inside("explain", "wbc-types", path, "--mpp", 0.08, "--error-rate", 0.3, "--out", tmp_path / "c.png")
    assert given.code == 0, given.err
    assert "error rate of 0.3" in given.out
    box = ",".join(str(round(v)) for v in next(t for t in truth if t.name == "Neutrophil").box)
    answer = inside("explain", "wbc-types", path, "--box", box, "--method", "score-cam", "--out", tmp_path / "b.png")
    assert answer.code == 0, answer.err
    assert (tmp_path / "b.png").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--box", "1,2,3"), "expected x0,y0,x1,y1"),
        (("--box", "50,50,10,60"), "not a box within the picture"),
        (("--box", "9000,0,9100,50"), "not a box within the picture"),
        (("--method", "attention"), "no attention to show"),
        (("--mpp", "-1"), "no size of a pixel"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    pixels, _ = sample.field(31, ["Neutrophil"])
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    answer = inside("explain", "wbc-types", path, "--out", tmp_path / "a.png", *given)
    assert answer.code == 2
    assert said in " ".join(answer.err.split())


@pytest.mark.long
def test_explanations_are_measured_by_the_real_command(tmp_path: Path, shared_data: Path) -> None:
    assert (shared_data / "wbc-masks").is_dir()
    given = ("--data", "wbc-masks", "--split-file", "wbc-masks-release", "--split", "dev", "--bootstrap", "10")
    answer = inside("evaluate", "explanations", "wbc-types", *given, "--out", tmp_path)
    assert answer.code == 0, answer.err
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert told["n_cells"] > 30
    assert told["figures"]["sooner by"]["value"] > 0
    assert (tmp_path / "right.png").is_file()
    assert (tmp_path / "deletion.png").read_bytes().startswith(b"\x89PNG")
