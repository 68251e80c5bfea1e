"""The torchvision family: what is not labelled teaches nothing, and every model goes from training to results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from torch.optim.swa_utils import AveragedModel, update_bn

from detect.detectors import loop
from detect.detectors import torchvision as adapter
from detect.detectors import torchvision_losses as losses
from detect.detectors.base import DetectorSettings, TrainingJob
from detect.detectors.bundled import BundleDetector
from detect.detectors.inputs import Fields, Target
from detect.detectors.train import train
from detect.errors import ConfigError
from detect.formats import masks
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests import drawn as sample
from tests.cli.command import Answer, inside
from tests.data import encode
from tests.detectors.tiny import Tiny, write_outlined

CLASSES = ClassMap(("WBC", "RBC", "Platelet"))


def target(boxes: list[list[float]], labels: list[int], unlabelled: set[int] | None = None) -> Target:
    n = len(boxes)
    return Target(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), None, np.zeros(n, bool),
        frozenset(unlabelled or set()),
    )  # fmt: skip


def test_a_background_place_may_be_any_class_that_is_not_all_drawn() -> None:
    theirs = lambda *_: (None, torch.tensor(0.0))  # noqa: E731
    logits = torch.randn(5, 4, requires_grad=True)
    labels = [torch.tensor([0, 0, 2]), torch.tensor([0, 1])]
    plain, _ = losses._box_loss(theirs, [target([], []), target([], [])], logits, logits, labels, [])
    assert float(plain) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, torch.cat(labels))))
    loss, _ = losses._box_loss(theirs, [target([], [], {1}), target([], [])], logits, logits, labels, [])
    share = torch.softmax(logits, 1)
    expected = -torch.log(torch.stack([
        share[0, 0] + share[0, 2], share[1, 0] + share[1, 2], share[2, 2], share[3, 0], share[4, 1],
    ])).mean()  # fmt: skip
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    (slope,) = torch.autograd.grad(loss, logits)
    assert (slope[:2, 2] < 0).all()  # the class that is not all drawn is not pushed down there
    assert (slope[:2, 1] > 0).all()  # a class that is all drawn is


@pytest.mark.parametrize("stacked", [False, True], ids=["a field at a time", "the batch at once"])
def test_a_sigmoid_head_is_not_judged_for_a_class_that_is_not_all_drawn(stacked: bool) -> None:
    targets = [target([], [], {1}), target([], [])]
    logits = torch.randn(2, 6, 4, requires_grad=True)
    truth = torch.zeros(2, 6, 4)
    truth[0, 3, 2] = 1  # a drawn cell of that class is learnt all the same
    if stacked:
        loss = losses._focal(targets, logits, truth, reduction="sum")
    else:
        loss = sum(losses._focal([t], x, y, reduction="sum") for t, x, y in zip(targets, logits, truth, strict=True))
    (slope,) = torch.autograd.grad(loss, logits)
    drawn = torch.zeros(6, dtype=torch.bool)
    drawn[3] = True
    assert (slope[0, ~drawn, 2] == 0).all()
    assert slope[0, 3, 2] != 0
    assert (slope[0][:, [0, 1, 3]] != 0).all()
    assert (slope[1] != 0).all()


def test_objectness_of_background_is_not_judged_where_cells_may_be_missing() -> None:
    def assign(anchors: object, given: object) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return [torch.tensor([0.0, 1.0, -1.0, 0.0])] * 2, []

    labels, _ = losses._anchors(assign, [target([], [], {0}), target([], [])], None, None)
    assert labels[0].tolist() == [-1, 1, -1, -1]
    assert labels[1].tolist() == [0, 1, -1, 0]


def test_cells_without_a_mask_give_no_mask_loss() -> None:
    from torchvision.models.detection.roi_heads import maskrcnn_loss

    whole = np.zeros((2, 32, 32), bool)
    whole[0, 4:12, 4:12] = whole[1, 16:28, 16:28] = True
    boxes = np.array([[4, 4, 12, 12], [16, 16, 28, 28]], np.float32)
    some = Target(boxes, np.array([0, 1]), whole, np.array([True, False]), frozenset())
    logits = torch.randn(3, 3, 28, 28, requires_grad=True)
    proposals, matched = [torch.from_numpy(boxes)[[0, 1, 0]]], [torch.tensor([0, 1, 0])]
    given = [torch.from_numpy(whole.astype(np.uint8))], [torch.tensor([1, 2])]
    loss = losses._mask_loss(maskrcnn_loss, [some], logits, proposals, *given, matched)
    (slope,) = torch.autograd.grad(loss, logits)
    assert (slope[1] == 0).all()
    assert (slope[0, 1] != 0).any()
    none = Target(boxes, np.array([0, 1]), None, np.zeros(2, bool), frozenset())
    assert float(losses._mask_loss(maskrcnn_loss, [none], logits, proposals, *given, matched).detach()) == 0


def test_an_untrained_model_of_each_name_obeys_the_contract() -> None:
    for name in ("fasterrcnn_mobilenet_v3_fpn", "maskrcnn_mobilenet_v3_fpn", "ssd300_vgg16"):
        size = 300 if name == "ssd300_vgg16" else 96
        settings = DetectorSettings(family="torchvision", model=name, image_size=size, max_detections=20)
        model = adapter._build(name, adapter._config(settings, 3)).eval()
        has_masks = adapter.MODELS[name].traits.masks
        run = adapter._runner(adapter._Graph(model, has_masks))
        out = run(np.random.default_rng(1).integers(0, 255, (2, size, size, 3), dtype=np.uint8))
        assert out[0].shape[0] == out[1].shape[0] == 2
        assert out[0].shape[1:] == (out[1].shape[1], 4)
        assert out[1].shape[2] == 3
        assert ((out[1] > 0).sum(axis=2) <= 1).all()
        assert len(out) == (3 if has_masks else 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "maskrcnn_resnet9"}, "no model 'maskrcnn_resnet9'"),
        ({"model": "fcos_resnet50_fpn", "image_size": 300}, "no multiple of 32"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    settings = DetectorSettings(family="torchvision", **({"model": "ssd300_vgg16"} | changes))
    with pytest.raises(ConfigError, match=said):
        adapter._config(settings, 3)


def job(tmp_path: Path, *, drawn: bool, **settings: object) -> TrainingJob:
    """Two drawn fields of two cells each."""
    fields = []
    for i in range(2):
        path = tmp_path / f"{i}.png"
        pixels = np.full((64, 96, 3), 200, np.uint8)
        pixels[10:30, 10:40] = 90
        path.write_bytes(encode(pixels, "PNG"))
        inside = np.zeros((64, 96), bool)
        inside[10:30, 10:40] = True
        cells = Annotations.of(
            [[10, 10, 40, 30], [50, 40, 90, 60]], [0, 1], masks=[masks.encode(inside) if drawn else None, None]
        )
        fields.append(LabelledField(Field(path.name, "s", path, 96, 64), cells))
    data = Dataset("two", tmp_path, CLASSES, tuple(fields), frozenset(CLASSES.names))
    told = DetectorSettings(family="torchvision", model="maskrcnn_mobilenet_v3_fpn", image_size=192, **settings)  # type: ignore[arg-type]
    return TrainingJob(told, "x.yaml", data, data, tmp_path, False, "cpu", False, {"1.png": frozenset({2})})


def test_fields_come_as_evaluation_places_them(tmp_path: Path) -> None:
    still = {"flip_lr": 0, "flip_ud": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "scale": 0, "translate": 0}
    fields = Fields(job(tmp_path, drawn=True, hyperparameters=still), adapter._MASKED)
    pixels, found = fields[0]
    assert pixels.shape == (128, 192, 3)
    np.testing.assert_allclose(found.boxes, [[20, 20, 80, 60], [100, 80, 180, 120]])
    assert found.labels.tolist() == [0, 1]
    assert found.drawn.tolist() == [True, False]
    assert found.masks is not None
    np.testing.assert_array_equal(np.argwhere(found.masks[0]).min(axis=0), [20, 20])
    np.testing.assert_array_equal(np.argwhere(found.masks[0]).max(axis=0), [59, 79])
    assert not found.masks[1].any()
    assert (fields[0][1].unlabelled, fields[1][1].unlabelled) == (frozenset(), frozenset({2}))


def test_masks_and_boxes_move_together_and_an_epoch_is_drawn_the_same_twice(tmp_path: Path) -> None:
    moved = {"flip_lr": 0.5, "flip_ud": 0.5, "scale": 0.3, "translate": 0.2, "degrees": 20.0}
    fields = Fields(job(tmp_path, drawn=True, hyperparameters=moved), adapter._MASKED)
    for epoch in range(12):
        fields.start(epoch)
        pixels, found = fields[0]
        fields.start(epoch)
        again, same = fields[0]
        np.testing.assert_array_equal(pixels, again)
        np.testing.assert_array_equal(found.boxes, same.boxes)
        if 0 in found.labels and found.masks is not None:
            rows, columns = np.nonzero(found.masks[found.labels.tolist().index(0)])
            x0, y0, x1, y1 = found.boxes[found.labels.tolist().index(0)]
            assert columns.min() >= x0 - 2
            assert rows.min() >= y0 - 2
            assert columns.max() <= x1 + 2
            assert rows.max() <= y1 + 2


def test_averaged_weights_follow_closely_at_first_and_slowly_later() -> None:
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = AveragedModel(model, multi_avg_fn=loop._average, use_buffers=True)
    average.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(20):
        average.update_parameters(model)
    assert float(average.module.weight.detach()) > 0.95  # a fixed decay of 0.998 would be at 0.04
    for _ in range(20_000):
        average.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average.update_parameters(model)
    assert float(average.module.weight.detach()) == pytest.approx(0.998, abs=1e-5)


class _Plain:
    """A convolution with a batch norm, as a family's learner."""

    def __init__(self) -> None:
        self.model: torch.nn.Module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.called = self.model

    def losses(self, images: list[torch.Tensor], targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        return {"plain": self.called(torch.stack(images)).square().mean()}

    def graph(self, model: torch.nn.Module) -> Any:
        return model


def test_averaged_weights_get_batch_statistics_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = {"flip_lr": 0, "flip_ud": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "scale": 0, "translate": 0}
    asked = job(tmp_path, drawn=False, hyperparameters=still, batch=1, precision="fp32")
    torch.manual_seed(3)
    learner = _Plain()
    run = loop._Run(
        asked, learner, adapter.architecture(asked.settings, 3), adapter._MASKED, torch.device("cpu"), "fp32"
    )
    model = run.average.module
    with torch.no_grad():
        model[0].weight += 0.5  # weights that no batch was seen with
    reference = deepcopy(model)
    batches = [torch.from_numpy(run.fields[i][0]).permute(2, 0, 1)[None].float() / 255 for i in range(2)]
    update_bn(batches, reference)
    measured: list[Any] = []
    monkeypatch.setattr(loop, "on_dev", lambda *given: (measured.append(deepcopy(given[-1])), (0.5, 0.4))[1])
    assert run._measure(np.array([0, 1])) == (0.5, 0.4)
    assert not measured[0].training
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(measured[0][1], name), getattr(reference[1], name))
    assert model[1].momentum == 0.1
    assert learner.called is learner.model


def test_masks_are_asked_for_where_none_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cell of part train has one"):
        adapter.train(job(tmp_path, drawn=False))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The set."""
    return write_outlined(tmp_path_factory.mktemp("outlined"))


def config(tiny: Tiny, name: str, **changes: object) -> Path:
    told = {"family": "torchvision", "model": "maskrcnn_mobilenet_v3_fpn", "image_size": 96, "epochs": 3, "batch": 4}
    told |= {"smallest_anchor": 8, "max_detections": 40, "precision": "fp32"}
    # A dozen steps at a usual rate leave all scores alike to the seventh decimal, and parity nothing to go by.
    told["hyperparameters"] = {"optimizer": "AdamW", "lr0": 0.00001}
    path = tiny.home.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told | changes), "utf-8")
    return path


def run(tiny: Tiny, path: Path, out: Path, *more: object) -> Answer:
    return inside("train", "detector", path, "--data", tiny.card, "--root", tiny.home, "--out", out, *more)


@pytest.mark.long
def test_mask_rcnn_goes_the_whole_way(tiny: Tiny, tmp_path: Path) -> None:
    path = config(tiny, "whole")
    answer = run(tiny, path, tmp_path / "run")
    assert answer.code == 0, answer.err[-2000:]
    answer = inside("bundle", "export", tmp_path / "run", "--out", tmp_path / "bundle", "--root", tiny.home)
    assert answer.code == 0, answer.err[-2000:]
    answer = inside("bundle", "verify", tmp_path / "bundle")
    assert answer.code == 0, answer.out + answer.err[-2000:]
    from detect.bundles.folder import open_bundle

    opened = open_bundle(tmp_path / "bundle")
    pixels, _ = next(iter(sample.fields(1, 5, sample.SLIDES["slide-a"])))
    found = BundleDetector(opened, thresholds=dict.fromkeys(CLASSES.names, 0.001)).predict([pixels])[0]
    assert found.masks is not None
    assert len(found.masks) == len(found)
    if len(found):
        assert found.masks[0]["size"] == list(pixels.shape[:2])


@pytest.mark.long
def test_a_stopped_training_resumes_to_the_same_weights(tiny: Tiny, tmp_path: Path) -> None:
    path = config(tiny, "resumed", model="fasterrcnn_mobilenet_v3_fpn")
    assert run(tiny, path, tmp_path / "whole").code == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    # As a kill in the third epoch leaves it: the checkpoint of the second, and a row too many in the log.
    with mock.patch.object(loop._Run, "_checkpoint", _stop_after(2)), pytest.raises(KeyboardInterrupt):
        train(str(path), [str(tiny.card)], tmp_path / "killed", root=tiny.home)
    answer = run(tiny, path, tmp_path / "killed", "--resume")
    assert answer.code == 0, answer.err[-2000:]
    one, two = ((tmp_path / n / "train" / "results.csv").read_text().splitlines() for n in ("whole", "killed"))
    assert [line.split(",")[:-1] for line in one] == [line.split(",")[:-1] for line in two]  # all but the seconds
    assert (tmp_path / "whole" / "weights.safetensors").read_bytes() == (
        tmp_path / "killed" / "weights.safetensors"
    ).read_bytes()


def _stop_after(epochs: int):  # type: ignore[no-untyped-def]
    whole = loop._Run._checkpoint

    def stop(self: loop._Run, done: int) -> None:
        if done > epochs:
            raise KeyboardInterrupt
        whole(self, done)

    return stop
