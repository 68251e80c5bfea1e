"""Several devices: a process each, one training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from detect.detectors import devices, torchvision
from detect.detectors.base import DetectorSettings, Hyperparameters, TrainingJob
from detect.errors import ConfigError
from detect.types import Annotations, ClassMap, Dataset, Field, LabelledField
from tests import drawn as sample
from tests.data import encode

STILL = {"flip_lr": 0, "flip_ud": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "scale": 0, "translate": 0}


def job(folder: Path, device: str, fields: tuple[int, ...] = (0, 1)) -> TrainingJob:
    """A field, and the same mirrored: as many cells for either process. SSD300 has no batch norm: shares are alike."""
    classes = ClassMap(("WBC", "RBC"))
    pixels, cells = next(iter(sample.fields(1, 5, sample.SLIDES["slide-a"])))
    side = min(pixels.shape[:2])
    pixels = pixels[:side, :side]
    here = [cell for cell in cells if cell.box[2] <= side and cell.box[3] <= side]
    boxes, labels = np.array([cell.box for cell in here], np.float32), [int(cell.name == "RBC") for cell in here]
    mirrored = np.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], axis=1)
    folder.mkdir()
    out = []
    for i, (picture, found) in enumerate(((pixels, boxes), (pixels[:, ::-1], mirrored))):
        path = folder / f"{i}.png"
        path.write_bytes(encode(np.ascontiguousarray(picture), "PNG"))
        told = Annotations.of(found.tolist(), labels)
        out.append(LabelledField(Field(path.name, "s", path, side, side), told))
    data = Dataset("two", folder, classes, tuple(out[i] for i in fields), frozenset(classes.names))
    how = {"optimizer": "SGD", "lr0": 0.01, "nominal_batch": 2, "warmup_epochs": 0, **STILL}
    settings = DetectorSettings(
        family="torchvision", model="ssd300_vgg16", image_size=300, epochs=1, batch=2, precision="fp32",
        hyperparameters=Hyperparameters.model_validate(how),
    )  # fmt: skip
    return TrainingJob(settings, "x.yaml", data, data, folder / "run", False, device, False)


@pytest.mark.long
def test_two_processes_learn_what_one_would(tmp_path: Path) -> None:
    found = {}
    for name, device, fields in (("one", "cpu", (0, 1)), ("two", "cpu,cpu", (0, 1)), ("half", "cpu", (0,))):
        asked = job(tmp_path / name, device, fields)
        record = torchvision.train(asked)
        assert record["device"] == device
        assert record["steps"] == 1
        found[name] = load_file(asked.out / "weights.safetensors")
        log = (asked.out / "train" / "results.csv").read_text("utf-8").splitlines()
        assert len(log) == 2
        found[name]["losses"] = np.array([[float(v) for v in line.split(",")[1:3]] for line in log[1:]])
    near = {"rtol": 1e-3, "atol": 1e-5}
    for key, value in found["one"].items():
        np.testing.assert_allclose(found["two"][key], value, err_msg=key, **near)
    # A process which learnt from its own share alone would be seen.
    weights = [key for key in found["one"] if key != "losses"]
    assert not all(np.allclose(found["half"][key], found["one"][key], **near) for key in weights)


@pytest.mark.long
def test_what_a_process_objects_to_is_said_as_by_one(tmp_path: Path) -> None:
    asked = job(tmp_path / "low", "cpu,cpu")
    low = replace(asked, settings=asked.settings.model_copy(update={"precision": "fp16"}))
    with pytest.raises(ConfigError, match="fp16 trains on a GPU only") as told:
        torchvision.train(low)
    assert told.value.remedy == "use bf16, fp32 or auto"


def test_devices_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices.named("cuda:0,1") == devices.named("0,1") == devices.named("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    assert devices.named("cpu,cpu") == ["cpu", "cpu"]
    assert devices.named("auto") == devices.named("cuda") == devices.named("0") == ["cuda:0"]
    assert devices.named("cuda,1") == ["cuda:0", "cuda:1"]
    assert devices.named("mps") == ["mps"]
    assert devices.first_of("1,0") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="this works on one device"):
        devices.device_of("cuda:0,1")
    for asked in ("cuda:2", "cuda:0,2", "cuda:0,0", "cuda,cuda:0", "gpu", "cpu,cuda:0", "", "mps,mps", "cuda:0,"):
        with pytest.raises(ConfigError, match="--device"):
            devices.named(asked)
    three = job(tmp_path / "three", "cpu,cpu")
    odd = replace(three, settings=three.settings.model_copy(update={"batch": 3}))
    with pytest.raises(ConfigError, match="3 fields cannot be shared by 2"):
        devices.each(odd)
