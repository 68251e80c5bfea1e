"""The YOLO family, through ultralytics. The only file that imports it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from PIL import Image as PilImage

from detect.data import augment
from detect.detectors.base import Architecture, DetectorSettings, TrainingJob
from detect.errors import BundleError, ConfigError, DataError, MissingExtraError
from detect.formats import yolo
from detect.runtime.base import cores

# Set before the import: a checkpoint of ours is read with torch's restricted unpickler, and nothing installs itself.
os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

_open = PilImage.open
try:
    import torch
    import ultralytics
    from safetensors.torch import load_file, save_file
    from ultralytics.engine import trainer
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel, load_checkpoint
    from ultralytics.utils.events import events
    from ultralytics.utils.torch_utils import get_flops, intersect_dicts
except ImportError as error:
    raise MissingExtraError("the ultralytics family", "train") from error


PilImage.open = _open  # the library puts its own in place, which would look for codecs in our decoder too
events.enabled = False  # no usage statistics leave this machine


def train(job: TrainingJob) -> dict[str, Any]:
    """See `Family.train`. The library's own files (curves, checkpoints, log) go to `train/` of the run folder."""
    settings = job.settings
    _check(settings, job)
    folder = job.out / "train"
    last = folder / "weights" / "last.pt"
    if job.resume and not last.is_file():
        raise DataError("nothing to resume: no checkpoint", where=str(last), remedy="train without --resume")
    data = yolo.write(job.train, job.out / "data", {"train": job.train.fields, "val": job.dev.fields})
    device = _device(job.device)
    precision = _precision(settings.precision, device)
    overrides = _overrides(settings, data, folder, device, precision)
    overrides["augmentations"] = augment.build(settings.augment, job.config)
    if job.resume:
        overrides["resume"] = str(last)
    run = _Run(overrides=overrides)
    run.start_weights = _start_weights(settings)
    run.callbacks["on_pretrain_routine_end"].append(partial(_loss_in_fp32, precision=precision))
    if device.type == "cpu":
        torch.set_num_threads(cores())  # the library leaves one core idle, half of a machine with two
    with _bf16_on_cpu() if precision == "bf16" and device.type == "cpu" else nullcontext():
        run.train()
    best = folder / "weights" / "best.pt"
    model, _ = load_checkpoint(best if best.is_file() else last)
    _save(model, settings, job)
    return {
        "device": str(device),
        "precision": precision,
        "optimizer": run.args.optimizer,
        "lr0": run.args.lr0,
        "best_epoch": int(run.stopper.best_epoch),
        "versions": {"torch": str(torch.__version__), "ultralytics": str(ultralytics.__version__)},
    }


def _check(settings: DetectorSettings, job: TrainingJob) -> None:
    weights = settings.pretrained
    if isinstance(weights, str):
        if not Path(weights).is_file():
            raise ConfigError(f"pretrained: no file '{weights}'", where=job.config, remedy="give a path, true or false")
        if not weights.endswith(".safetensors") and not job.trust_pickle:
            raise ConfigError(
                f"pretrained: '{weights}' is a pickle, which can run code when it is read",
                where=job.config,
                remedy="use a .safetensors file, or pass --trust-pickle if you trust who made it",
            )


def _overrides(
    settings: DetectorSettings, data: Path, folder: Path, device: torch.device, precision: str
) -> dict[str, Any]:
    h = settings.hyperparameters
    known = h.model_dump(exclude={"flip_lr", "flip_ud", "nominal_batch", "cosine"})
    known |= {"fliplr": h.flip_lr, "flipud": h.flip_ud, "nbs": h.nominal_batch, "cos_lr": h.cosine}
    source = f"{settings.model}.pt" if settings.pretrained is True else settings.model
    if settings.pretrained is not True and not source.endswith((".yaml", ".yml")):
        source += ".yaml"
    return known | {
        "model": source,
        "data": str(data),
        "project": str(folder.parent.resolve()),
        "name": folder.name,
        "exist_ok": True,
        "epochs": settings.epochs,
        "batch": settings.batch,
        "imgsz": settings.image_size,
        "seed": settings.seed,
        "device": str(device),
        "amp": False if device.type == "cpu" else {"bf16": "bf16", "fp16": True, "fp32": False}[precision],
        "pretrained": settings.pretrained is True,
        "cache": True,
        "workers": 8,
        "max_det": settings.max_detections,
        "iou": settings.nms_iou,
        "plots": True,
        "verbose": True,
    }


class _Run(DetectionTrainer):  # its name has no "Trainer" in it, so that no tracking service is called
    """The library's trainer, starting from weights that may be a safetensors file."""

    start_weights: dict[str, torch.Tensor] | None = None

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> DetectionModel:
        model = super().get_model(cfg, weights, verbose)
        if self.start_weights is not None:
            fitting = intersect_dicts(self.start_weights, model.state_dict())
            if not fitting:
                raise ConfigError("no tensor of the pretrained weights fits this model", remedy="use its own weights")
            model.load_state_dict(fitting, strict=False)
        return model


def _start_weights(settings: DetectorSettings) -> dict[str, torch.Tensor] | None:
    if not isinstance(settings.pretrained, str):
        return None
    path = Path(settings.pretrained)
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    model, _ = load_checkpoint(path)  # asked for with --trust-pickle, and still read with the restricted unpickler
    return dict(model.float().state_dict())


class _Fp32Loss:
    """A criterion fed in full precision under autocast: bf16 holds a box corner to two pixels only."""

    def __init__(self, criterion: Any) -> None:
        self._criterion = criterion

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_criterion":  # while being copied it has no criterion yet
            raise AttributeError(name)
        return getattr(self._criterion, name)

    def __call__(self, preds: Any, batch: Any) -> Any:
        with torch.autocast(batch["img"].device.type, enabled=False):
            return self._criterion(_float(preds), batch)


def _float(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: _float(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_float(v) for v in value)
    return value


def _loss_in_fp32(run: Any, precision: str) -> None:
    if precision != "fp32":
        run.model.criterion = _Fp32Loss(run.model.init_criterion())


@contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    """Let the library's training loop use bf16 on a processor that has it: 2.5 times as fast as fp32 on AVX-512.

    Its own `autocast` refuses bf16 without CUDA, and offers no other place to turn it on.
    """
    theirs = trainer.autocast
    trainer.autocast = lambda *_, **__: torch.autocast("cpu", dtype=torch.bfloat16)
    try:
        yield
    finally:
        trainer.autocast = theirs


def _device(asked: str) -> torch.device:
    if asked == "auto":
        asked = "cuda:0" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: torch sees no GPU", remedy="use --device cpu, or run 'smear doctor'")
    return torch.device(asked)


def _precision(asked: str, device: torch.device) -> str:
    if asked != "auto":
        if asked == "fp16" and device.type == "cpu":
            raise ConfigError("precision: fp16 trains on a GPU only", remedy="use bf16, fp32 or auto")
        return asked
    if device.type == "cuda":
        return "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def _save(model: DetectionModel, settings: DetectorSettings, job: TrainingJob) -> None:
    model = model.float().eval()
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    config = {k: v for k, v in model.yaml.items() if k not in ("yaml_file", "channels")}
    config["nc"] = len(job.train.classes)
    architecture = {
        "family": settings.family,
        "name": Path(settings.model).stem,
        "config": config,
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflops": round(float(get_flops(model, settings.image_size)), 3),
    }
    save_file(state, job.out / "weights.safetensors")
    (job.out / "architecture.yaml").write_text(yaml.safe_dump(architecture, sort_keys=False), "utf-8")


def _build(architecture: Architecture, weights: Path) -> DetectionModel:
    config = dict(architecture.config)
    model = DetectionModel(config, ch=3, nc=int(config["nc"]), verbose=False)
    try:
        model.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise BundleError(f"the weights do not fit the architecture: {error}", where=str(weights)) from error
    return model.float().eval().fuse(verbose=False)


class _Graph(torch.nn.Module):
    """Pixels in, boxes and scores out: the contract of `Family.export_onnx`."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model
        head = model.model[-1]
        head.export, head.dynamic, head.format = True, True, "onnx"

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.model(images.permute(0, 3, 1, 2).float() / 255.0)
        out = (out[0] if isinstance(out, list | tuple) else out).transpose(1, 2)
        center, half = out[..., :2], out[..., 2:4] / 2
        return torch.cat((center - half, center + half), dim=-1), out[..., 4:]


def export_onnx(architecture: Architecture, weights: Path, image_size: int, path: Path) -> None:
    """See `Family.export_onnx`."""
    import onnx

    graph = _Graph(_build(architecture, weights))
    sample = torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8)
    free = {0: "batch", 1: "cells"}
    torch.onnx.export(
        graph,
        (sample,),
        str(path),
        input_names=["images"],
        output_names=["boxes", "scores"],
        dynamic_axes={"images": {0: "batch", 1: "height", 2: "width"}, "boxes": free, "scores": free},
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(str(path))


def reference(architecture: Architecture, weights: Path) -> Callable[[Any], tuple[Any, Any]]:
    """See `Family.reference`."""
    graph = _Graph(_build(architecture, weights))

    def run(images: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            boxes, scores = graph(torch.from_numpy(images))
        return boxes.numpy(), scores.numpy()

    return run
