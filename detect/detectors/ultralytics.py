"""YOLO and RT-DETR, trained by ultralytics. This file and `ultralytics_models` are the only ones that import it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from detect.config import load_yaml
from detect.data import augment
from detect.detectors.base import Architecture, DetectorSettings, TrainingJob
from detect.detectors.prepared import prepared
from detect.errors import ConfigError, DataError, MissingExtraError
from detect.formats import yolo
from detect.formats.labels import stem_of
from detect.runtime.base import cores

try:
    # first of all: what it says of the library must be said before the library is read
    from detect.detectors.ultralytics_models import (  # isort: skip
        STRIDE,
        config_of,
        describe,
        export_onnx,
        is_transformer,
        new,
        reference,
        traits,
    )
    import torch
    import ultralytics
    from safetensors.torch import load_file, save_file
    from ultralytics.data import build_yolo_dataset
    from ultralytics.engine import trainer, validator
    from ultralytics.models.rtdetr import train as rtdetr
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.modules import Detect
    from ultralytics.nn.tasks import DetectionModel, load_checkpoint
    from ultralytics.utils.downloads import GITHUB_ASSETS_STEMS
    from ultralytics.utils.torch_utils import intersect_dicts, unwrap_model

    import detect.data.transforms  # known by name where the library makes them again in its processes  # noqa: F401
    from detect.detectors.devices import first_of, named, precision_of
    from detect.detectors.ultralytics_losses import Loss, as_float, judge_the_rest
except ImportError as error:
    raise MissingExtraError("the ultralytics family", "train") from error

__all__ = ["architecture", "export_onnx", "reference", "train", "traits"]

trainer.check_amp = lambda _: True  # the library would download a model to try fp16 out on


def architecture(settings: DetectorSettings, classes: int) -> Architecture:
    """See `Family.architecture`."""
    config = config_of(settings)
    _check_size(settings, settings.model)
    return describe(new(config, classes), settings, classes)


def train(job: TrainingJob) -> dict[str, Any]:
    """See `Family.train`. The library's own files (curves, checkpoints, log) go to `train/` of the run folder."""
    settings = job.settings
    config = config_of(settings, job.config)
    _check(job, config)
    folder = job.out / "train"
    last = folder / "weights" / "last.pt"
    if job.resume and not last.is_file():
        raise DataError("nothing to resume: no checkpoint", where=str(last), remedy="train without --resume")
    devices, device = _devices(job.device, settings.batch)
    precision = _precision(settings.precision, device, config)
    run = _ready(job, config, folder, devices, precision)
    if device.type == "cpu":
        torch.set_num_threads(cores())  # the library's run has just left one core idle, half of a machine with two
    with _bf16_on_cpu() if precision == "bf16" and device.type == "cpu" else nullcontext():
        if not (job.resume and _is_over(last)):
            run.train()
    best = folder / "weights" / "best.pt"
    model, _ = load_checkpoint(best if best.is_file() else last)
    _save(model, settings, job)
    return {
        "device": f"cuda:{devices}" if "," in devices else str(device),
        "precision": precision,
        **load_yaml(folder / _OUTCOME),
        **({"mosaic": "off, some fields are labelled in part"} if any(job.unlabelled.values()) else {}),
        "versions": {"torch": str(torch.__version__), "ultralytics": str(ultralytics.__version__)},
    }


def _ready(job: TrainingJob, config: dict[str, Any], folder: Path, devices: str, precision: str) -> Any:
    """The library's training, with all of ours in it."""
    settings = job.settings
    steps, place = settings.preprocess, job.out / "preprocessed"
    fields = {"train": job.train.fields, "val": job.dev.fields}
    data = yolo.write(job.train, job.out / "data", {k: prepared(v, steps, place / k) for k, v in fields.items()})
    overrides = _overrides(settings, data, folder, devices, precision)
    overrides["augmentations"] = augment.build(settings.augment, job.config, bgr=True)  # as the library reads pictures
    unlabelled = {stem_of(field): classes for field, classes in job.unlabelled.items() if classes}
    if unlabelled:
        overrides |= {"mosaic": 0.0, "mixup": 0.0}  # a picture of several fields could not tell what is drawn on it
    if job.resume:
        # A checkpoint names the folder that it was written in: a run that was moved or copied goes on where it is now.
        overrides |= {"resume": str(folder / "weights" / "last.pt"), "save_dir": str(folder.resolve())}
    run = (_TransformerRun if is_transformer(config) else _Run)(overrides=overrides)
    if not job.resume and settings.pretrained is not True:
        run.model = run.get_model(cfg=config)
        _start_from(run.model, settings)
    names = job.dev.classes.names
    unjudged = frozenset(k for k, name in enumerate(names) if name not in job.dev.exhaustive_for)
    if len(unjudged) == len(names):
        unjudged = frozenset()  # a poor measure chooses an epoch better than none
    prepare = partial(_prepare, precision=precision, unlabelled=unlabelled, unjudged=unjudged)
    run.callbacks["on_pretrain_routine_end"].append(prepare)
    run.callbacks["on_model_save"].append(_keep_outcome)
    return run


def _check_size(settings: DetectorSettings, where: str) -> None:
    if settings.image_size % STRIDE:
        raise ConfigError(
            f"image_size: expected a multiple of {STRIDE}, got {settings.image_size}",
            where=where,
            remedy=f"take {-(-settings.image_size // STRIDE) * STRIDE}",
        )


def _check(job: TrainingJob, config: Mapping[str, Any]) -> None:
    settings = job.settings
    _check_size(settings, job.config)
    weights = settings.pretrained
    if weights is True and _published(settings.model) not in GITHUB_ASSETS_STEMS:
        raise ConfigError(
            f"pretrained: nobody published weights of {settings.model}",
            where=job.config,
            remedy="give a path, or false",
        )
    if isinstance(weights, str):
        if not Path(weights).is_file():
            raise ConfigError(f"pretrained: no file '{weights}'", where=job.config, remedy="give a path, true or false")
        if not weights.endswith(".safetensors") and not job.trust_pickle:
            raise ConfigError(
                f"pretrained: '{weights}' is a pickle, which can run code when it is read",
                where=job.config,
                remedy="use a .safetensors file, or pass --trust-pickle if you trust who made it",
            )
    if not is_transformer(config):
        return
    # Its loss matches queries to cells one to one, and has no place for a class that is drawn in part, nor weights.
    if any(job.unlabelled.values()):
        raise ConfigError(
            f"{settings.model} learns from sets that draw every cell only",
            where=job.config,
            remedy="leave out the set that labels in part, or take a YOLO",
        )
    if settings.class_weights != "none":
        raise ConfigError(f"class_weights: {settings.model} has none", where=job.config, remedy="take none, or a YOLO")


def _published(name: str) -> str:
    return f"{name}u" if re.fullmatch(r"yolov5[nsmlx]", name) else name


def _overrides(settings: DetectorSettings, data: Path, folder: Path, devices: str, precision: str) -> dict[str, Any]:
    h = settings.hyperparameters
    known = h.model_dump(exclude={"flip_lr", "flip_ud", "nominal_batch", "cosine"})
    known |= {"fliplr": h.flip_lr, "flipud": h.flip_ud, "nbs": h.nominal_batch, "cos_lr": h.cosine}
    published = settings.pretrained is True
    return known | {
        "model": f"{_published(settings.model)}.pt" if published else f"{Path(settings.model).stem}.yaml",
        "data": str(data),
        "project": str(folder.parent.resolve()),
        "name": folder.name,
        "exist_ok": True,
        "epochs": settings.epochs,
        "batch": settings.batch,
        "imgsz": settings.image_size,
        "seed": settings.seed,
        "device": devices,
        "amp": False if devices == "cpu" else {"bf16": "bf16", "fp16": True, "fp32": False}[precision],
        "pretrained": published,
        "cls_pw": 0.5 if settings.class_weights == "balanced" else 0.0,  # inverse square root of frequency, mean 1
        "cache": True,
        "workers": 8,
        "max_det": settings.max_detections,
        "iou": settings.nms_iou,
        "plots": True,
        "verbose": True,
    }


# With several GPUs the library pickles the class of the run, its model and its callbacks, and begins anew in a process
# for each GPU. So both classes stand at the top of this module, hold nothing of their own, and whatever changes a
# training is a model that is built before it starts or a callback. Their names have no "Trainer" in them, so that no
# tracking service is called.
class _Run(DetectionTrainer):
    """The library's training of YOLO."""


class _TransformerRun(rtdetr.RTDETRTrainer):
    """The library's training of RT-DETR, on letterboxed fields.

    The library would stretch them to squares, and cells would be of another shape in training than in evaluation.
    """

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        return build_yolo_dataset(self.args, img_path, batch, self.data, mode=mode, rect=False, stride=STRIDE)


def _start_from(model: DetectionModel, settings: DetectorSettings) -> None:
    if not isinstance(settings.pretrained, str):
        return
    path = Path(settings.pretrained)
    # A pickle was asked for with --trust-pickle, and is still read with the restricted unpickler.
    safe = path.suffix == ".safetensors"
    given = dict(load_file(path)) if safe else load_checkpoint(path)[0].float().state_dict()
    fitting = intersect_dicts(given, model.state_dict())
    if not fitting:
        raise ConfigError("no tensor of the pretrained weights fits this model", remedy="use its own weights")
    model.load_state_dict(fitting, strict=False)


_OUTCOME = "outcome.yaml"


def _is_over(last: Path) -> bool:
    """Whether the library had nothing more to learn when it was killed: it takes what is for going on out then."""
    return int(load_checkpoint(last)[1].get("epoch", -1)) < 0


def _keep_outcome(run: Any) -> None:
    """What only the process that trains knows, after every epoch: it may be killed before the end."""
    told = {
        "optimizer": str(run.args.optimizer),
        "lr0": float(run.args.lr0),
        "best_epoch": int(run.stopper.best_epoch),
    }
    (run.save_dir / _OUTCOME).write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")


def _prepare(run: Any, precision: str, unlabelled: Mapping[str, frozenset[int]], unjudged: frozenset[int]) -> None:
    """Put our loss and our measuring in the place of the library's, where they differ."""
    model = unwrap_model(run.model)
    if precision != "fp32" or unlabelled:
        # A resumed YOLO26 has its criterion already, with the balance of its two heads.
        model.criterion = Loss(getattr(model, "criterion", None) or model.init_criterion(), unlabelled)
    if unjudged:
        run.validator.update_metrics = partial(judge_the_rest, run.validator.update_metrics, unjudged)


@contextmanager
def _bf16_on_cpu() -> Iterator[None]:
    """Let the library train and measure dev in bf16 on a processor that has it: 2.5 times as fast as fp32 on AVX-512.

    Its own `autocast` refuses bf16 without CUDA, and offers no other place to turn it on. Boxes are worked out in full
    precision, as in `Graph`.
    """
    theirs, boxes = trainer.autocast, Detect._inference

    def lowered(*_: Any, **__: Any) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def exact(head: Any, raw: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return boxes(head, as_float(raw))

    trainer.autocast = validator.autocast = lowered
    Detect._inference = exact
    try:
        yield
    finally:
        trainer.autocast = validator.autocast = theirs
        Detect._inference = boxes


def _devices(asked: str, batch: int) -> tuple[str, torch.device]:
    """Devices as the library names them, and the first of them."""
    device = first_of(asked)
    if "," not in asked:
        return str(device), device
    names = [name.removeprefix("cuda:") for name in named(asked)]
    if device.type == "cpu":
        raise ConfigError(f"--device {asked}: this family shares its work among GPUs only", remedy="use --device cpu")
    if batch % len(names):
        raise ConfigError(f"batch: {batch} fields cannot be shared by {len(names)} GPUs", remedy="take a multiple")
    if find_spec("cloudpickle") is None:
        raise ConfigError(f"--device {asked}: several GPUs need cloudpickle", remedy="pip install cloudpickle")
    return ",".join(names), device


def _precision(asked: str, device: torch.device, config: Mapping[str, Any]) -> str:
    if not is_transformer(config):
        return precision_of(asked, device)
    if asked not in ("auto", "fp32"):  # the library: "AMP training can lead to NaN outputs"
        raise ConfigError(f"precision: RT-DETR is trained in fp32, not in {asked}", remedy="use fp32 or auto")
    return "fp32"


def _save(model: DetectionModel, settings: DetectorSettings, job: TrainingJob) -> None:
    model = model.float().eval()
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, job.out / "weights.safetensors")
    told = vars(describe(model, settings, len(job.train.classes)))
    (job.out / "architecture.yaml").write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")
