"""The training loop of the families whose library has none: torchvision and detectron2. Pure torch.

A family gives a model, its losses and its graph; the rest is here: fields in the model's input with their cells,
augmentation, mixed precision, averaged weights (EMA), the best epoch on dev, checkpoints, resuming, early stopping.

RUN/train/
  results.csv        one row an epoch: losses, AP on dev, seconds
  weights/last.pt    everything that is needed to go on; tensors and numbers only, read without unpickling code
  weights/best.pt    the averaged weights of the epoch that was best on dev
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.data import augment
from detect.detectors.base import Architecture, DetectorSettings, TrainingJob, Traits
from detect.detectors.bundled import Graph
from detect.detectors.measure import PAD, on_dev
from detect.errors import ConfigError, DataError, MissingExtraError, StoreError
from detect.images import decode, preprocess
from detect.images.letterbox import place, plan
from detect.runtime.base import cores
from detect.types import Image, LabelledField

try:
    import albumentations as A
    import torch
    from safetensors.torch import load_file, save_file
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
except ImportError as error:
    raise MissingExtraError("training a detector", "train") from error

_DECAY = 0.998  # of the averaged weights a step, once there were some thousand steps
_MIN_VISIBLE = 0.25  # of a cell that augmentation moved over the border


@dataclass(frozen=True, eq=False)
class Target:
    """The cells of one field in the model's input.

    Attributes:
        boxes: float32 (n, 4), xyxy, input pixels. labels: int64 (n,).
        masks: bool (n, h, w), or None where no cell has one. drawn: bool (n,), cells whose mask is known.
        unlabelled: classes of which not every cell is drawn here.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    drawn: NDArray[np.bool_]
    unlabelled: frozenset[int]


class Learner(Protocol):
    """What a family gives to the loop."""

    model: torch.nn.Module

    def losses(self, images: list[torch.Tensor], targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        """Losses of a batch; images are float32 (3, h, w) from 0 to 1 on the model's device."""

    def graph(self, model: torch.nn.Module) -> Graph:
        """The contract of `Family.export_onnx`, run by torch."""


def train(job: TrainingJob, learner: Learner, architecture: Architecture, traits: Traits) -> dict[str, Any]:
    """Train, choose the best epoch on dev, write the weights; returns what the run record should say."""
    settings = job.settings
    device = device_of(job.device)
    precision = precision_of(settings.precision, device)
    if device.type == "cpu":
        torch.set_num_threads(cores())
    run = _Run(job, learner, architecture, traits, device, precision)
    first = run.restore() if job.resume else 0
    for epoch in range(first, settings.epochs):
        if run.stopped(epoch):
            break
        run.epoch(epoch)
    return run.finish()


class _Run:
    """The state of one training."""

    def __init__(
        self,
        job: TrainingJob,
        learner: Learner,
        architecture: Architecture,
        traits: Traits,
        device: torch.device,
        precision: str,
    ) -> None:
        self.job, self.learner, self.architecture, self.traits = job, learner, architecture, traits
        self.settings, self.device, self.precision = job.settings, device, precision
        h = self.settings.hyperparameters
        self.folder = job.out / "train"
        (self.folder / "weights").mkdir(parents=True, exist_ok=True)
        self.fields = Fields(job, traits)
        self.per_epoch = -(-len(job.train) // self.settings.batch)
        self.every = max(1, round(h.nominal_batch / self.settings.batch))  # batches a step
        model = learner.model.to(device)
        self.average = AveragedModel(model, multi_avg_fn=_average, use_buffers=True)
        self.optimizer = _optimizer(model, self.settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.steps = 0
        self.best, self.best_epoch = -1.0, 0

    def epoch(self, number: int) -> None:
        """Learn from every field once, measure on dev, keep what is needed to go on."""
        started = time.monotonic()
        torch.manual_seed(self.settings.seed * 100_003 + number)
        self.fields.start(number)
        order = np.random.default_rng([self.settings.seed, number]).permutation(len(self.fields))
        model = self.learner.model.train()
        sums: dict[str, float] = {}
        for batch, start in enumerate(range(0, len(order), self.settings.batch)):
            self._rate(number + batch / self.per_epoch)
            found = [self.fields[int(i)] for i in order[start : start + self.settings.batch]]
            images = [torch.from_numpy(p).to(self.device).permute(2, 0, 1).float() / 255 for p, _ in found]
            with self._autocast():
                losses = self.learner.losses(images, [t for _, t in found])
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(total):
                told = ", ".join(f"{k} {float(v.detach()):.3g}" for k, v in losses.items())
                raise ConfigError(
                    f"the loss is not finite in epoch {number + 1} ({told})",
                    where=self.job.config,
                    remedy="lower lr0, or set precision: fp32",
                )
            self.scaler.scale(total / self.every).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if (batch + 1) % self.every == 0 or start + self.settings.batch >= len(order):
                self._step(model)
        ap50, ap = self._measure()
        if ap > self.best:
            self.best, self.best_epoch = ap, number + 1
            _write({"model": self._averaged(), "epoch": number + 1}, self.folder / "weights" / "best.pt")
        self._log(number, {k: v / self.per_epoch for k, v in sums.items()}, ap50, ap, time.monotonic() - started)
        self._checkpoint(number + 1)

    def _step(self, model: torch.nn.Module) -> None:
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update_parameters(model)
        self.steps += 1

    def _rate(self, at: float) -> None:
        """Set the learning rate for a moment, in epochs: linear warm-up, then down to lr0 * lrf."""
        h = self.settings.hyperparameters
        warm = min(h.warmup_epochs, self.settings.epochs / 4)
        done = at / self.settings.epochs
        down = (1 + math.cos(math.pi * done)) / 2 if h.cosine else 1 - done
        factor = (h.lrf + (1 - h.lrf) * down) * min(1.0, (at + 1 / self.per_epoch) / warm if warm else 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["start"] * factor

    def _autocast(self) -> torch.autocast:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.float32)
        return torch.autocast(self.device.type, dtype=kind, enabled=self.precision != "fp32")

    def _averaged(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().cpu().contiguous() for k, v in self.average.module.state_dict().items()}

    def _measure(self) -> tuple[float, float]:
        """mAP50 and mAP50-95 of the averaged weights on dev."""
        self.average.module.eval()
        with self._autocast():
            return on_dev(self.job, self.architecture, self.traits, self.learner.graph(self.average.module))

    def _log(self, number: int, losses: Mapping[str, float], ap50: float, ap: float, seconds: float) -> None:
        path = self.folder / "results.csv"
        row = {"epoch": number + 1, **{f"loss {k}": round(v, 5) for k, v in losses.items()}}
        row |= {"mAP50": round(ap50, 5), "mAP50-95": round(ap, 5), "seconds": round(seconds, 1)}
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(row), lineterminator="\n", extrasaction="ignore")
            if fresh:
                out.writeheader()
            out.writerow(row)

    def _checkpoint(self, epochs: int) -> None:
        state = {
            "epochs": epochs,
            "steps": self.steps,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "model": self.learner.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        _write(state, self.folder / "weights" / "last.pt")

    def restore(self) -> int:
        """Take up the last checkpoint; returns the epochs that are done."""
        path = self.folder / "weights" / "last.pt"
        if not path.is_file():
            raise DataError("nothing to resume: no checkpoint", where=str(path), remedy="train without --resume")
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.learner.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps, self.best, self.best_epoch = state["steps"], state["best"], state["best_epoch"]
        self._forget_after(int(state["epochs"]))
        return int(state["epochs"])

    def _forget_after(self, epochs: int) -> None:
        """Drop the row of an epoch that was logged and then killed before its checkpoint: it is done again."""
        path = self.folder / "results.csv"
        if path.is_file():
            lines = path.read_text("utf-8").splitlines(keepends=True)
            path.write_text("".join(lines[: epochs + 1]), "utf-8")

    def stopped(self, epochs: int) -> bool:
        """Whether dev has not got better for `patience` epochs."""
        patience = self.settings.hyperparameters.patience
        return patience > 0 and epochs - self.best_epoch >= patience and epochs > 0

    def finish(self) -> dict[str, Any]:
        """Write the weights and the architecture of the best epoch."""
        best = torch.load(self.folder / "weights" / "best.pt", weights_only=True)
        save_file(best["model"], self.job.out / "weights.safetensors")
        about = {
            "family": self.architecture.family,
            "name": self.architecture.name,
            "config": dict(self.architecture.config),
            "parameters": self.architecture.parameters,
            "gflops": self.architecture.gflops,
        }
        (self.job.out / "architecture.yaml").write_text(yaml.safe_dump(about, sort_keys=False), "utf-8")
        return {
            "device": str(self.device),
            "precision": self.precision,
            "optimizer": type(self.optimizer).__name__,
            "lr0": self.optimizer.param_groups[0]["start"],
            "steps": self.steps,
            "best_epoch": self.best_epoch,
        }


def _write(state: Mapping[str, Any], path: Path) -> None:
    """Whole or not at all, so that a kill leaves the checkpoint before."""
    partial = path.with_suffix(".partial")
    try:
        torch.save(dict(state), partial)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where a disk is full
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"the checkpoint cannot be written: {error}",
            where=str(path),
            remedy="free some space and go on with --resume; the checkpoint before is whole",
        ) from error
    partial.replace(path)


def _average(averaged: Any, current: Any, steps: Any) -> None:
    """Averaged weights follow closely at first: a fixed decay would keep the untrained ones for hundreds of steps."""
    done = int(steps)
    get_ema_multi_avg_fn(min(_DECAY, (1 + done) / (10 + done)))(averaged, current, steps)


def _optimizer(model: torch.nn.Module, settings: DetectorSettings) -> torch.optim.Optimizer:
    """Weights of layers decay, biases and norms do not. `auto` is AdamW, at a tenth of the rate from pretrained."""
    h = settings.hyperparameters
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    rate = h.lr0
    if h.optimizer == "auto":
        rate = 1e-4 if settings.pretrained else 1e-3
    groups = [
        {"params": decayed, "weight_decay": h.weight_decay, "start": rate},
        {"params": others, "weight_decay": 0.0, "start": rate},
    ]
    if h.optimizer == "SGD":
        return torch.optim.SGD(groups, lr=rate, momentum=h.momentum, nesterov=True)
    if h.optimizer == "Adam":
        return torch.optim.Adam(groups, lr=rate)
    if h.optimizer in ("auto", "AdamW"):
        return torch.optim.AdamW(groups, lr=rate)
    raise ConfigError(f"optimizer {h.optimizer} is of ultralytics only", remedy="use auto, AdamW, Adam or SGD")


class Fields:
    """Fields to learn from, in the model's input, augmented anew each time; the resized pixels are kept in memory."""

    def __init__(self, job: TrainingJob, traits: Traits) -> None:
        self._job, self._traits = job, traits
        self._kept: dict[int, Image] = {}
        h = job.settings.hyperparameters
        moves: list[Any] = [
            A.HorizontalFlip(p=h.flip_lr),
            A.VerticalFlip(p=h.flip_ud),
            A.HueSaturationValue(
                hue_shift_limit=h.hsv_h * 180,
                sat_shift_limit=h.hsv_s * 100,
                val_shift_limit=h.hsv_v * 100,
                p=1.0 if h.hsv_h or h.hsv_s or h.hsv_v else 0.0,
            ),
            A.Affine(
                scale=(1 - h.scale, 1 + h.scale),
                translate_percent=(-h.translate, h.translate),
                rotate=(-h.degrees, h.degrees),
                shear=(-h.shear, h.shear),
                fill=PAD,
                p=1.0 if h.scale or h.translate or h.degrees or h.shear else 0.0,
            ),
        ]
        self._change = A.Compose(
            [*augment.build(job.settings.augment, job.config), *moves],
            bbox_params=A.BboxParams(
                format="pascal_voc", label_fields=["rows"], min_visibility=_MIN_VISIBLE, clip=True
            ),
            seed=job.settings.seed,
        )

    def __len__(self) -> int:
        return len(self._job.train)

    def start(self, epoch: int) -> None:
        """Begin an epoch: what it draws depends on the seed and its number only, so a resumed run draws the same."""
        self._change.set_random_seed(self._job.settings.seed * 100_003 + epoch)

    def __getitem__(self, index: int) -> tuple[Image, Target]:
        labelled = self._job.train.fields[index]
        pixels, boxes, masks = self._input(index, labelled)
        cells = labelled.annotations
        real = ~cells.crowd
        boxes, labels = boxes[real], cells.labels[real]
        drawn = np.array([cells.masks[i] is not None for i in np.flatnonzero(real)], bool)
        given: dict[str, Any] = {"image": pixels, "bboxes": boxes, "rows": np.arange(len(boxes))}
        if masks is not None and real.any():  # albumentations takes no empty stack
            given["masks"] = masks[real].astype(np.uint8)
        out = self._change(**given)
        rows = np.asarray(out["rows"], np.int64)
        moved = np.asarray(out["bboxes"], np.float32).reshape(-1, 4)
        wide = ((moved[:, 2:] - moved[:, :2]) >= 1).all(axis=1)
        rows, moved = rows[wide], moved[wide]
        kept = np.stack([*out["masks"]])[rows].astype(bool) if "masks" in given else None
        unlabelled = self._job.unlabelled.get(labelled.field.id, frozenset())
        return out["image"], Target(moved, labels[rows], kept, drawn[rows], unlabelled)

    def _input(
        self, index: int, labelled: LabelledField
    ) -> tuple[Image, NDArray[np.float32], NDArray[np.bool_] | None]:
        """Pixels, boxes and masks of a field in the model's input, as evaluation places it."""
        if index not in self._kept:
            pixels = preprocess.apply(decode.read(labelled.field.path), self._job.settings.preprocess)
            self._kept[index] = self._place(pixels)
        pixels = self._kept[index]
        width, height = labelled.field.width, labelled.field.height
        box = plan(width, height, self._job.settings.image_size, self._traits.stride, square=self._traits.square)
        cells = labelled.annotations
        scale = np.array([box.scale_x, box.scale_y, box.scale_x, box.scale_y], np.float32)
        offset = np.array([box.left, box.top, box.left, box.top], np.float32)
        boxes = cells.boxes * scale + offset
        if not self._traits.masks or not any(m is not None for m in cells.masks):
            return pixels, boxes, None
        masks = np.zeros((len(cells), *pixels.shape[:2]), bool)
        for i, mask in enumerate(cells.masks):
            if mask is not None:
                placed = np.zeros((*pixels.shape[:2], 3), np.uint8)
                place(np.repeat(rle.decode(mask)[:, :, None] * 255, 3, axis=2), box, 0, placed)
                masks[i] = placed[:, :, 0] >= 128
        return pixels, boxes, masks

    def _place(self, pixels: Image) -> Image:
        height, width = pixels.shape[:2]
        box = plan(width, height, self._job.settings.image_size, self._traits.stride, square=self._traits.square)
        out = np.empty((box.height, box.width, 3), np.uint8)
        place(pixels, box, PAD, out)
        return out


def device_of(asked: str) -> torch.device:
    """The device of a training."""
    if asked == "auto":
        asked = "cuda:0" if torch.cuda.is_available() else "cpu"
    if "," in asked:
        raise ConfigError(
            f"--device {asked}: this family trains on one GPU", remedy="name one, or use a family of ultralytics"
        )
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: torch sees no GPU", remedy="use --device cpu, or run 'smear doctor'")
    return torch.device(asked)


def precision_of(asked: str, device: torch.device) -> str:
    """The arithmetic of a training."""
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 trains on a GPU only", remedy="use bf16, fp32 or auto")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def start_from(model: torch.nn.Module, path: Path, job: TrainingJob) -> None:
    """Take over the tensors of a weights file that fit the model; ConfigError where none does, or it is not trusted."""
    if not path.is_file():
        raise ConfigError(f"pretrained: no file '{path}'", where=job.config, remedy="give a path, true or false")
    if path.suffix == ".safetensors":
        given = load_file(path)
    elif job.trust_pickle:
        given = torch.load(path, weights_only=True, map_location="cpu")
    else:
        raise ConfigError(
            f"pretrained: '{path}' is a pickle, which can run code when it is read",
            where=job.config,
            remedy="use a .safetensors file, or pass --trust-pickle if you trust who made it",
        )
    take_fitting(model, given, job.config)


def take_fitting(model: torch.nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Load the tensors whose name and shape fit."""
    own = model.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and getattr(v, "shape", None) == own[k].shape}
    if not fitting:
        raise ConfigError(
            "no tensor of the pretrained weights fits this model", where=where, remedy="use its own weights"
        )
    model.load_state_dict(fitting, strict=False)


def flops(model: torch.nn.Module, run: Callable[[], object]) -> float:
    """GFLOPs of a call, two for each multiplication with addition."""
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return round(float(counter.get_total_flops()) / 1e9, 3)
