"""Mask R-CNN, Faster R-CNN, RetinaNet, FCOS and SSD, through torchvision.

It and `torchvision_losses` alone import the library's detectors. Fields come resized by our letterbox, so the library's
own resizing is left out, and its masks are left as small as the network gives them: `masks.paste` puts them into the
field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.detectors import loop
from detect.detectors.base import Architecture, DetectorSettings, TrainingJob, Traits
from detect.detectors.bundled import Graph
from detect.detectors.devices import device_of
from detect.detectors.inputs import Target
from detect.errors import BundleError, ConfigError, MissingExtraError

try:
    import torch
    import torchvision
    from safetensors.torch import load_file
    from torchvision.models import mobilenet_v3_large
    from torchvision.models.detection import (
        FasterRCNN,
        MaskRCNN,
        fasterrcnn_resnet50_fpn_v2,
        fcos_resnet50_fpn,
        maskrcnn_resnet50_fpn_v2,
        retinanet_resnet50_fpn_v2,
        ssd300_vgg16,
    )
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    from detect.detectors.torchvision_losses import partial_losses
except ImportError as error:
    raise MissingExtraError("the torchvision family", "train") from error

_LEAST = 0.01  # score that a network lists a cell from
_MASK = 28  # places a side of a mask


def _fpn_anchors(smallest: int, maps: int, *, octaves: bool = False, shared: bool = False) -> AnchorGenerator:
    """Anchors that double from map to map; with `octaves` three sizes a map, with `shared` all sizes on each map."""
    sides = [smallest * 2**i for i in range(5)]
    sizes: tuple[tuple[int, ...], ...] = tuple((s,) for s in sides[:maps])
    if octaves:
        sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides)
    if shared:
        sizes = (tuple(sides),) * maps
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


def _mobile_backbone() -> BackboneWithFPN:
    """MobileNetV3-Large with a pyramid of 128 channels on strides 8, 16, 32 and 64: light enough for a CPU.

    The library's own begins at stride 32, where a platelet is less than one place wide.
    """
    features = mobilenet_v3_large(weights=None).features
    levels = {"6": "0", "12": "1", "16": "2"}
    channels = [40, 112, 960]
    return BackboneWithFPN(features, levels, channels, 128)


def _mobile(kind: type[FasterRCNN], num_classes: int, smallest: int, **limits: Any) -> FasterRCNN:
    backbone = _mobile_backbone()
    extra: dict[str, Any] = {}
    if kind is MaskRCNN:
        extra["mask_head"] = MaskRCNNHeads(128, (128, 128, 128, 128), 1)
        extra["mask_predictor"] = MaskRCNNPredictor(128, 128, num_classes)
    return kind(
        backbone,
        box_head=TwoMLPHead(128 * 7 * 7, 512),
        box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(512, num_classes),
        rpn_anchor_generator=_fpn_anchors(smallest, 4, shared=False),
        **extra,
        **limits,
    )


def _resnet(builder: Callable[..., Any], num_classes: int, smallest: int, **limits: Any) -> Any:
    model = builder(weights=None, weights_backbone=None, num_classes=num_classes, **limits)
    model.rpn.anchor_generator = _fpn_anchors(smallest, 5)
    return model


def _retina(num_classes: int, smallest: int, **limits: Any) -> Any:
    model = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=num_classes, **limits)
    model.anchor_generator = _fpn_anchors(smallest, 5, octaves=True)
    return model


def _plain(builder: Callable[..., Any], num_classes: int, smallest: int, **limits: Any) -> Any:
    del smallest  # no anchors, or such as are shares of the field
    return builder(weights=None, weights_backbone=None, num_classes=num_classes, **limits)


@dataclass(frozen=True)
class _Model:
    """One architecture: how it is built, the library's limits for it, and its traits.

    Attributes:
        published: name of the library's published weights, None where there are none.
    """

    build: Callable[..., Any]
    two_stage: bool
    traits: Traits
    published: str | None


_ONE = Traits(one_by_one=True)
_MASKED = Traits(one_by_one=True, masks=True)
MODELS: Mapping[str, _Model] = {
    "maskrcnn_resnet50_fpn_v2": _Model(
        partial(_resnet, maskrcnn_resnet50_fpn_v2), True, _MASKED, "MaskRCNN_ResNet50_FPN_V2_Weights"
    ),
    "maskrcnn_mobilenet_v3_fpn": _Model(partial(_mobile, MaskRCNN), True, _MASKED, None),
    "fasterrcnn_resnet50_fpn_v2": _Model(
        partial(_resnet, fasterrcnn_resnet50_fpn_v2), True, _ONE, "FasterRCNN_ResNet50_FPN_V2_Weights"
    ),
    "fasterrcnn_mobilenet_v3_fpn": _Model(partial(_mobile, FasterRCNN), True, _ONE, None),
    "retinanet_resnet50_fpn_v2": _Model(_retina, False, _ONE, "RetinaNet_ResNet50_FPN_V2_Weights"),
    "fcos_resnet50_fpn": _Model(partial(_plain, fcos_resnet50_fpn), False, _ONE, "FCOS_ResNet50_FPN_Weights"),
    "ssd300_vgg16": _Model(
        partial(_plain, ssd300_vgg16), False, Traits(stride=1, square=True, one_by_one=True), "SSD300_VGG16_Weights"
    ),
}


class _NoResize(GeneralizedRCNNTransform):  # type: ignore[misc]
    """The library's normalisation and batching, without resizing, and without pasting masks."""

    def resize(self, image: Any, target: Any = None) -> tuple[Any, Any]:
        """As it is: the letterbox has resized it."""
        return image, target

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """As it is, masks small."""
        return result


def _config(settings: DetectorSettings, classes: int) -> dict[str, Any]:
    if settings.model not in MODELS:
        raise ConfigError(
            f"torchvision: no model '{settings.model}'", remedy=f"the models are: {', '.join(sorted(MODELS))}"
        )
    stride = MODELS[settings.model].traits.stride
    if settings.image_size % stride:
        raise ConfigError(
            f"image_size: {settings.image_size} is no multiple of {stride}",
            remedy=f"take {-(-settings.image_size // stride) * stride}",
        )
    return {
        "classes": classes,
        "smallest_anchor": settings.smallest_anchor,
        "nms_iou": settings.nms_iou,
        "max_detections": settings.max_detections,
        "image_size": settings.image_size,
    }


def _build(name: str, config: Mapping[str, Any]) -> Any:
    """An untrained model; class 0 is the library's background."""
    model = MODELS[name]
    if model.two_stage:
        limits = {"box_score_thresh": _LEAST, "box_nms_thresh": config["nms_iou"]}
        limits["box_detections_per_img"] = config["max_detections"] + 1  # one more tells that the cap was reached
    else:
        limits = {"score_thresh": _LEAST, "nms_thresh": config["nms_iou"]}
        limits["detections_per_img"] = config["max_detections"] + 1
    built = model.build(num_classes=config["classes"] + 1, smallest=config["smallest_anchor"], **limits)
    old = built.transform
    divisible = 1 if model.traits.square else model.traits.stride
    built.transform = _NoResize(1, 1, old.image_mean, old.image_std, size_divisible=divisible)
    return built


def traits(architecture: Architecture) -> Traits:
    """See `Family.traits`."""
    return MODELS[architecture.name].traits


def architecture(settings: DetectorSettings, classes: int) -> Architecture:
    """An untrained model of the settings, with its size and cost for one field of `image_size` a side."""
    config = _config(settings, classes)
    model = _build(settings.model, config).eval()
    blank = [torch.zeros(3, settings.image_size, settings.image_size)]
    gflops = loop.flops(model, lambda: model(blank))
    parameters = sum(p.numel() for p in model.parameters())
    return Architecture(settings.family, settings.model, config, parameters, gflops)


def train(job: TrainingJob) -> dict[str, Any]:
    """See `Family.train`."""
    settings = job.settings
    built = architecture(settings, len(job.train.classes))
    if job.unlabelled and settings.model == "ssd300_vgg16":
        raise ConfigError(
            "ssd300_vgg16 learns from sets that draw every cell only",
            where=job.config,
            remedy="leave out the set that labels in part, or take another model",
        )
    if MODELS[settings.model].traits.masks and not _any_mask(job):
        raise ConfigError(
            f"{settings.model} draws masks, and no cell of part train has one",
            where=job.config,
            remedy="add a set with masks by a second --data, or take the fasterrcnn of that backbone",
        )
    torch.manual_seed(settings.seed)
    model = _build(settings.model, built.config)
    if MODELS[settings.model].two_stage:
        model.roi_heads.fg_bg_sampler.batch_size_per_image = settings.rois
    if settings.pretrained is True:
        loop.take_fitting(model, _published(settings.model, job.config), job.config)
    elif isinstance(settings.pretrained, str):
        loop.start_from(model, Path(settings.pretrained), job)
    record = loop.train(job, _Learner(model, settings), built, traits(built))
    return record | {"versions": {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}}


def _any_mask(job: TrainingJob) -> bool:
    return any(m is not None for f in job.train.fields for m in f.annotations.masks)


def _published(name: str, where: str) -> Mapping[str, Any]:
    published = MODELS[name].published
    if published is None:
        raise ConfigError(
            f"pretrained: nobody published weights of {name}", where=where, remedy="give a path, or false"
        )
    weights = getattr(torchvision.models.detection, published).DEFAULT
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise ConfigError(
            f"pretrained: {weights.url} cannot be downloaded: {error}",
            where=where,
            remedy="download it elsewhere and give its path",
        ) from error


class _Learner:
    """The library's model with its losses, made to respect what is not labelled."""

    def __init__(self, model: Any, settings: DetectorSettings) -> None:
        self.model = self.called = model
        self._settings = settings

    def losses(self, images: list[torch.Tensor], targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        """See `loop.Learner`."""
        device = images[0].device
        given = []
        for image, target in zip(images, targets, strict=True):
            row = {
                "boxes": torch.from_numpy(target.boxes).to(device),
                "labels": torch.from_numpy(target.labels + 1).to(device),
            }
            if MODELS[self._settings.model].traits.masks:
                masks = target.masks
                if masks is None:
                    masks = np.zeros((len(target.boxes), *image.shape[-2:]), bool)
                row["masks"] = torch.from_numpy(masks.astype(np.uint8)).to(device)
            given.append(row)
        with partial_losses(self.model, targets):
            losses: dict[str, torch.Tensor] = self.called(images, given)
        return losses

    def graph(self, model: torch.nn.Module) -> Graph:
        """See `loop.Learner`."""
        return _runner(_Graph(model, MODELS[self._settings.model].traits.masks))


class _Graph(torch.nn.Module):  # type: ignore[misc]
    """Pixels in, boxes, scores and small masks out: the contract of `Family.export_onnx`, one field a call."""

    def __init__(self, model: Any, masks: bool) -> None:
        super().__init__()
        self.model, self.masks = model, masks

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model([images[0].permute(2, 0, 1).float() / 255.0])
        found = found[1] if isinstance(found, tuple) else found  # scripted models give their losses too
        cells = found[0]
        classes = torch.arange(1, self._classes() + 1, device=images.device)
        scores = (cells["labels"][:, None] == classes[None, :]).float() * cells["scores"].float()[:, None]
        out = (cells["boxes"].float()[None], scores[None])
        return (*out, cells["masks"].float()[:, 0][None]) if self.masks else out

    def _classes(self) -> int:
        if hasattr(self.model, "roi_heads"):
            return int(self.model.roi_heads.box_predictor.cls_score.out_features) - 1
        head = self.model.head.classification_head
        return int(head.num_columns if hasattr(head, "num_columns") else head.num_classes) - 1


def _runner(graph: _Graph) -> Graph:
    """A graph as numpy in, numpy out; fields of a batch run one after another and are padded with cells of score 0."""

    def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        device = next(graph.parameters()).device
        with torch.inference_mode():
            found = [[o[0].cpu() for o in graph(torch.from_numpy(i[None]).to(device))] for i in images]
        most = max(len(f[0]) for f in found)
        return tuple(np.stack([_padded(f[k].float().numpy(), most) for f in found]) for k in range(len(found[0])))

    return run


def _padded(rows: NDArray[Any], n: int) -> NDArray[np.float32]:
    out = np.zeros((n, *rows.shape[1:]), np.float32)
    out[: len(rows)] = rows
    return out


def _load(architecture: Architecture, weights: Path) -> Any:
    model = _build(architecture.name, architecture.config)
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise BundleError(f"the weights do not fit the architecture: {error}", where=str(weights)) from error
    return model.eval()


def export_onnx(architecture: Architecture, weights: Path, image_size: int, path: Path) -> None:
    """See `Family.export_onnx`. Traced with drawn cells, for a trace of a field without any would leave out a part."""
    import onnx

    masks = traits(architecture).masks
    graph = _Graph(_load(architecture, weights), masks).eval()
    sample = torch.from_numpy(_drawn(image_size)[None])
    names = ["boxes", "scores", *(["masks"] if masks else [])]
    free = {"images": {1: "height", 2: "width"}} | {name: {1: "cells"} for name in names}
    with torch.inference_mode():
        torch.onnx.export(
            graph, (sample,), str(path), input_names=["images"], output_names=names,
            dynamic_axes=free, opset_version=17, dynamo=False,
        )  # fmt: skip
    onnx.checker.check_model(str(path))


def _drawn(side: int) -> NDArray[np.uint8]:
    """A field that looks like one enough."""
    from detect.data.smear.field import one_of_each
    from detect.data.smear.settings import load_smear

    return next(one_of_each(load_smear("train"), 1, 1, side)).pixels


def reference(architecture: Architecture, weights: Path, device: str = "cpu", precision: str = "fp32") -> Graph:
    """See `Family.reference`."""
    where = device_of(device)
    graph = _Graph(_load(architecture, weights), traits(architecture).masks).eval().to(where)
    run = _runner(graph)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)

    def under(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        with torch.autocast(where.type, dtype=kind, enabled=precision != "fp32"):
            return run(images)

    return under
