"""YOLO and RT-DETR as ultralytics builds them: by name, from our weights, as a graph. Training is in `ultralytics`.

A model is named as the library names it (yolov8n, yolo11s, rtdetr-l), by a file of `configs/models/` in the same way
(yolov5n-ghost, yolov4u, rtdetr-small), or by the path of a user's own YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from detect import assets
from detect.config import load_yaml
from detect.detectors.base import Architecture, DetectorSettings, Traits
from detect.errors import BundleError, ConfigError, MissingExtraError

# Set before the import: a checkpoint of ours is read with torch's restricted unpickler, and nothing installs itself.
os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

_open = PilImage.open
try:
    import torch
    import ultralytics
    from safetensors.torch import load_file
    from ultralytics.nn.modules import Detect, RTDETRDecoder
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel, guess_model_scale
    from ultralytics.utils.events import events

    from detect.detectors import loop
    from detect.detectors.devices import device_of
    from detect.detectors.ultralytics_losses import as_float
except ImportError as error:
    raise MissingExtraError("the ultralytics family", "train") from error


PilImage.open = _open  # the library puts its own in place, which would look for codecs in our decoder too
events.enabled = False  # no usage statistics leave this machine

_OURS = "configs/models"
_THEIRS = Path(ultralytics.__file__).parent / "cfg" / "models"
_TRANSFORMER = "RTDETRDecoder"
_HEADS = ("Detect", "v10Detect", _TRANSFORMER)
STRIDE = 32


def traits(architecture: Architecture) -> Traits:
    """See `Family.traits`. RT-DETR is trained on squares, and its boxes are fractions of the picture's sides."""
    return Traits(stride=STRIDE, square=is_transformer(architecture.config))


def config_of(settings: DetectorSettings, where: str | None = None) -> dict[str, Any]:
    """The model as the library's parser takes it, with its scale."""
    name = settings.model
    if name.endswith((".yaml", ".yml")):
        stem, paths = Path(name).stem, [Path(name)]
    else:
        stem = re.sub(r"^(yolov5[nsmlx])u$", r"\1", name)  # the library's name for the weights of its yolov5
        unscaled = re.sub(r"(\d+)[nsmlx]", r"\1", stem, count=1)
        ours = [assets.ROOT / _OURS / f"{s}.yaml" for s in (stem, unscaled)]
        theirs = {path.stem: path for path in _THEIRS.rglob("*.yaml")}
        paths = [*ours, *(theirs[s] for s in (stem, unscaled) if s in theirs)]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        known = ", ".join(sorted(path.stem for path in (assets.ROOT / _OURS).glob("*.yaml")))
        raise ConfigError(
            f"model: no '{name}'", where=where, remedy=f"name one of the library's, one of ours ({known}), or a YAML"
        )
    config = load_yaml(found)
    scales = config.get("scales")
    if scales:
        config["scale"] = guess_model_scale(stem) or config.get("scale") or next(iter(scales))
        if config["scale"] not in scales:
            raise ConfigError(
                f"model: '{name}' asks for size {config['scale']}", where=where, remedy=f"sizes: {', '.join(scales)}"
            )
    head = config["head"][-1][2]
    if head not in _HEADS:
        raise ConfigError(f"model: '{name}' ends in {head}", where=where, remedy=f"take one with {', '.join(_HEADS)}")
    return config


def is_transformer(config: Mapping[str, Any]) -> bool:
    return bool(config["head"][-1][2] == _TRANSFORMER)


def describe(model: DetectionModel, settings: DetectorSettings, classes: int) -> Architecture:
    """Parameters and GFLOPs are those of what runs: without the head that YOLO26 and YOLOv10 have for training only."""
    config = {k: v for k, v in model.yaml.items() if k not in ("yaml_file", "channels")} | {"nc": classes}
    runs = deepcopy(model).eval()
    one_head(runs)
    blank = torch.zeros((1, 3, settings.image_size, settings.image_size))
    gflops = loop.flops(runs, lambda: runs(blank))
    parameters = sum(p.numel() for p in runs.parameters())
    return Architecture(settings.family, Path(settings.model).stem, config, parameters, gflops)


def new(config: Mapping[str, Any], classes: int) -> DetectionModel:
    kind = RTDETRDetectionModel if is_transformer(config) else DetectionModel
    return kind(deepcopy(dict(config) | {"nc": classes}), ch=3, verbose=False)


def one_head(model: DetectionModel) -> None:
    """Of a model with two heads keep the one-to-many head, whose boxes our suppression sorts out.

    YOLO26 and YOLOv10 also have a one-to-one head that needs no suppression. Its boxes are a little worse (0.5 mAP on
    COCO, says the library's guide), training measures dev and chooses the best epoch by the other head, and
    suppression is ours to run anyway.
    """
    head = model.model[-1]
    if isinstance(head, Detect):
        head.end2end = False
        head.fuse()


def build(architecture: Architecture, weights: Path) -> DetectionModel:
    model = new(architecture.config, int(architecture.config["nc"]))
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise BundleError(f"the weights do not fit the architecture: {error}", where=str(weights)) from error
    one_head(model)
    return model.float().eval().fuse(verbose=False)


class Graph(torch.nn.Module):
    """Pixels in, boxes and scores out: the contract of `Family.export_onnx`.

    Boxes are worked out in full precision under autocast too: bf16 holds a corner to two pixels only. RT-DETR gives
    the boxes of its queries, hardly any of which suppression will find to be doubles.
    """

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model
        self.head = model.model[-1]
        self.head.dynamic = True  # of any size
        if isinstance(self.head, RTDETRDecoder):
            self.head.forward = partial(_in_fp32, self.head.forward)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raw = self.model(images.permute(0, 3, 1, 2).float() / 255.0)[1]
        if isinstance(self.head, RTDETRDecoder):
            height, width = images.shape[1:3]
            boxes = raw[0][0] * torch.tensor([width, height, width, height], device=images.device)
            scores = raw[1][0].sigmoid()
        else:
            with torch.autocast(images.device.type, enabled=False):
                out = self.head._inference(as_float(raw)).transpose(1, 2)
            boxes, scores = out[..., :4], out[..., 4:]
        center, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat((center - half, center + half), dim=-1), scores


def _in_fp32(forward: Callable[..., Any], x: Any, batch: Any = None) -> Any:
    with torch.autocast(x[0].device.type, enabled=False):
        return forward(as_float(x), batch)


def export_onnx(architecture: Architecture, weights: Path, image_size: int, path: Path) -> None:
    """See `Family.export_onnx`."""
    import onnx

    graph = Graph(build(architecture, weights))
    sample = torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8)
    fixed = traits(architecture).square
    free = {0: "batch"} if fixed else {0: "batch", 1: "cells"}
    torch.onnx.export(
        graph,
        (sample,),
        str(path),
        input_names=["images"],
        output_names=["boxes", "scores"],
        dynamic_axes={
            "images": {0: "batch"} if fixed else {0: "batch", 1: "height", 2: "width"},
            "boxes": free,
            "scores": free,
        },
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(str(path))


def reference(
    architecture: Architecture, weights: Path, device: str = "cpu", precision: str = "fp32"
) -> Callable[[Any], tuple[Any, Any]]:
    """See `Family.reference`."""
    place = device_of(device)
    graph = Graph(build(architecture, weights)).to(place)
    low = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def run(images: Any) -> tuple[Any, Any]:
        lowered = nullcontext() if low is None else torch.autocast(place.type, dtype=low)
        with torch.inference_mode(), lowered:
            boxes, scores = graph(torch.from_numpy(images).to(place))
        return boxes.float().cpu().numpy(), scores.float().cpu().numpy()

    return run
