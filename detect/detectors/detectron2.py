"""Mask R-CNN and Faster R-CNN of detectron2, from its own configurations. The only file that imports it.

detectron2 is in no registry: whoever wants it builds it. `model` names a file below its `model_zoo/configs`, such as
`COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x`. Bundles of it are not exported; they run with `--runtime torch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detect.detectors import loop
from detect.detectors.base import Architecture, DetectorSettings, TrainingJob, Traits
from detect.detectors.bundled import Graph
from detect.detectors.devices import device_of
from detect.detectors.inputs import Target
from detect.errors import BundleError, ConfigError

try:
    import detectron2
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage
    from safetensors.torch import load_file
except ImportError as error:
    raise ConfigError(
        f"the family detectron2 needs detectron2 ({error})",
        remedy="build it from its source, as its INSTALL.md says: it is in no registry",
    ) from error

_LEAST = 0.01  # score that the network lists a cell from


def _configs() -> Path:
    spec = find_spec("detectron2")
    homes = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(homes[0]) / "model_zoo" / "configs"


def _file(model: str) -> Path:
    path = _configs() / f"{model}.yaml"
    if not path.is_file():
        known = sorted(p.relative_to(_configs()).with_suffix("").as_posix() for p in _configs().rglob("*rcnn*.yaml"))
        raise ConfigError(f"detectron2: no model '{model}'", remedy=f"such as {', '.join(known[:6])}")
    return path


def _settings_of(settings: DetectorSettings, classes: int) -> dict[str, Any]:
    """The library's whole configuration as text, so that a bundle can be rebuilt by another version of it."""
    cfg = get_cfg()
    cfg.merge_from_file(str(_file(settings.model)))
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        raise ConfigError(
            f"detectron2: {settings.model} is a {cfg.MODEL.META_ARCHITECTURE}",
            remedy="take a Mask R-CNN or a Faster R-CNN",
        )
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = settings.rois
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = _LEAST
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = settings.nms_iou
    cfg.TEST.DETECTIONS_PER_IMAGE = settings.max_detections + 1  # one more tells that the cap was reached
    levels = len(cfg.MODEL.RPN.IN_FEATURES)
    if levels > 1:
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[settings.smallest_anchor * 2**i] for i in range(levels)]
    if not settings.pretrained:  # frozen norms and stages are for weights that have learnt
        cfg.MODEL.RESNETS.NORM = "BN"
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return {
        "classes": classes,
        "masks": bool(cfg.MODEL.MASK_ON),
        "image_size": settings.image_size,
        "cfg": str(cfg.dump()),
    }


def _build(config: Mapping[str, Any], device: torch.device) -> Any:
    from yacs.config import CfgNode  # what the library's own configuration is made of

    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(config["cfg"]))
    cfg.MODEL.DEVICE = str(device)
    return build_model(cfg)


def traits(architecture: Architecture) -> Traits:
    """See `Family.traits`."""
    return Traits(stride=32, masks=bool(architecture.config["masks"]), exportable=False)


def architecture(settings: DetectorSettings, classes: int) -> Architecture:
    """The untrained model of the settings, with its size and cost for one field of `image_size` a side."""
    if settings.image_size % 32:
        raise ConfigError(f"image_size: {settings.image_size} is no multiple of 32", remedy="take one")
    config = _settings_of(settings, classes)
    model = _build(config, torch.device("cpu")).eval()
    run = _runner(model, masks=bool(config["masks"]))
    blank = np.zeros((1, settings.image_size, settings.image_size, 3), np.uint8)
    parameters = sum(p.numel() for p in model.parameters())
    gflops = loop.flops(model, lambda: run(blank))
    return Architecture(settings.family, settings.model.rsplit("/", 1)[-1], config, parameters, gflops)


def train(job: TrainingJob) -> dict[str, Any]:
    """See `Family.train`."""
    settings = job.settings
    built = architecture(settings, len(job.train.classes))
    if job.unlabelled:
        raise ConfigError(
            "the detectron2 family learns from sets that draw every cell only",
            where=job.config,
            remedy="leave out the set that labels in part, or take a torchvision model",
        )
    bare = [f.field.id for f in job.train.fields if any(m is None for m in f.annotations.masks)]
    if built.config["masks"] and bare:
        raise ConfigError(
            f"{settings.model} needs a mask for every cell; {len(bare)} fields have cells without, first '{bare[0]}'",
            where=job.config,
            remedy="take torchvision's Mask R-CNN, which learns boxes from such cells, or a Faster R-CNN",
        )
    torch.manual_seed(settings.seed)
    model = _build(built.config, torch.device("cpu") if "," in job.device else device_of(job.device))
    if settings.pretrained is True:
        raise ConfigError(
            "pretrained: detectron2 publishes its weights as pickles, which can run code when they are read",
            where=job.config,
            remedy="download the file, give its path, and pass --trust-pickle if you trust who made it",
        )
    if isinstance(settings.pretrained, str):
        _start_from(model, Path(settings.pretrained), job)
    record = loop.train(job, _Learner(model, bool(built.config["masks"])), built, traits(built))
    return record | {"versions": {"torch": str(torch.__version__), "detectron2": str(detectron2.__version__)}}


def _start_from(model: Any, path: Path, job: TrainingJob) -> None:
    if path.suffix == ".safetensors":
        loop.start_from(model, path, job)
        return
    if not path.is_file():
        raise ConfigError(f"pretrained: no file '{path}'", where=job.config, remedy="give a path, or false")
    if not job.trust_pickle:
        raise ConfigError(
            f"pretrained: '{path}' is a pickle, which can run code when it is read",
            where=job.config,
            remedy="pass --trust-pickle if you trust who made it",
        )
    DetectionCheckpointer(model).load(str(path))


class _Learner:
    """The library's model and its losses."""

    def __init__(self, model: Any, masks: bool) -> None:
        self.model = self.called = model
        self._masks = masks

    def losses(self, images: list[torch.Tensor], targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        """See `loop.Learner`."""
        batch = []
        for image, target in zip(images, targets, strict=True):
            cells = Instances(tuple(image.shape[-2:]))
            cells.gt_boxes = Boxes(torch.from_numpy(target.boxes))
            cells.gt_classes = torch.from_numpy(target.labels)
            if self._masks:
                masks = target.masks if target.masks is not None else np.zeros((0, *image.shape[-2:]), bool)
                cells.gt_masks = BitMasks(torch.from_numpy(masks))
            batch.append({"image": _bgr(image * 255), "instances": cells})
        with EventStorage(0):  # the library's losses write their statistics somewhere
            losses: dict[str, torch.Tensor] = self.called(batch)
        return losses

    def graph(self, model: torch.nn.Module) -> Graph:
        """See `loop.Learner`."""
        return _runner(model, masks=self._masks)


def _bgr(image: torch.Tensor) -> torch.Tensor:
    return image.flip(0)


def _runner(model: Any, *, masks: bool) -> Graph:
    classes = int(model.roi_heads.num_classes)

    def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        batch = [{"image": _bgr(torch.from_numpy(i).to(model.device).permute(2, 0, 1).float())} for i in images]
        with torch.inference_mode():
            found = model.inference(batch, do_postprocess=False)
        most = max(len(f) for f in found)
        boxes = np.zeros((len(found), most, 4), np.float32)
        scores = np.zeros((len(found), most, classes), np.float32)
        side = found[0].pred_masks.shape[-1] if masks else 0
        small = np.zeros((len(found), most, side, side), np.float32)
        for i, cells in enumerate(found):
            n = len(cells)
            boxes[i, :n] = cells.pred_boxes.tensor.float().cpu().numpy()
            scores[i, np.arange(n), cells.pred_classes.cpu().numpy()] = cells.scores.float().cpu().numpy()
            if masks:
                small[i, :n] = cells.pred_masks[:, 0].float().cpu().numpy()
        return (boxes, scores, small) if masks else (boxes, scores)

    return run


def export_onnx(architecture: Architecture, weights: Path, image_size: int, path: Path) -> None:
    """See `Family.export_onnx`."""
    raise BundleError(f"{architecture.name} of detectron2 is not exported", remedy="run it with --runtime torch")


def reference(architecture: Architecture, weights: Path, device: str = "cpu", precision: str = "fp32") -> Graph:
    """See `Family.reference`."""
    where = device_of(device)
    model = _build(architecture.config, where)
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise BundleError(f"the weights do not fit the architecture: {error}", where=str(weights)) from error
    run = _runner(model.eval(), masks=bool(architecture.config["masks"]))
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)

    def under(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        with torch.autocast(where.type, dtype=kind, enabled=precision != "fp32"):
            return run(images)

    return under
