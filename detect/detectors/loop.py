"""The training loop of the families whose library has none: torchvision and detectron2. Pure torch.

A family gives a model, its losses and its graph; the rest is here: mixed precision, averaged weights (EMA), the best
epoch on dev, checkpoints, resuming, early stopping, several GPUs. Fields and their augmentation are in `inputs`.

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
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from detect.detectors.base import Architecture, DetectorSettings, TrainingJob, Traits
from detect.detectors.bundled import Graph
from detect.detectors.devices import device_of, each, precision_of, share
from detect.detectors.inputs import Fields, Target
from detect.detectors.measure import on_dev
from detect.errors import ConfigError, DataError, MissingExtraError, StoreError
from detect.runtime.base import cores

try:
    import torch
    from safetensors.torch import load_file, save_file
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
except ImportError as error:
    raise MissingExtraError("training a detector", "train") from error

_SETTLING = 256  # fields
_DECAY = 0.998  # of the averaged weights a step, once there were some thousand steps


class Learner(Protocol):
    """What a family gives to the loop.

    Attributes:
        called: what `losses` calls: the model, or the model as one of several processes has it.
    """

    model: torch.nn.Module
    called: torch.nn.Module

    def losses(self, images: list[torch.Tensor], targets: Sequence[Target]) -> dict[str, torch.Tensor]:
        """Losses of a batch; images are float32 (3, h, w) from 0 to 1 on the model's device."""

    def graph(self, model: torch.nn.Module) -> Graph:
        """The contract of `Family.export_onnx`, run by torch."""


def train(job: TrainingJob, learner: Learner, architecture: Architecture, traits: Traits) -> dict[str, Any]:
    """Train, choose the best epoch on dev, write the weights; returns what the run record should say."""
    if "," in job.device:
        return each(job)
    settings = job.settings
    device = device_of(job.device)
    precision = precision_of(settings.precision, device)
    if device.type == "cpu":
        torch.set_num_threads(max(1, cores() // share()[1]))
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
        self.rank, self.shares = share()
        self.fields = Fields(job, traits)
        self.per_epoch = -(-len(job.train) // self.settings.batch)
        self.every = max(1, round(h.nominal_batch / self.settings.batch))  # batches a step
        model = learner.model.to(device)
        self.average = AveragedModel(model, multi_avg_fn=_average, use_buffers=True)
        if self.shares > 1:
            learner.called = DistributedDataParallel(model, find_unused_parameters=True)
            if any(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules()):
                raise ConfigError(
                    "batch norms that are shared by processes (SyncBN) train on one device only",
                    where=job.config,
                    remedy="take BN or GN, or one --device",
                )
        self.optimizer = _optimizer(model, self.settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.steps = 0
        self.best, self.best_epoch = -1.0, 0

    def epoch(self, number: int) -> None:
        """Learn from every field once, measure on dev, keep what is needed to go on."""
        started = time.monotonic()
        torch.manual_seed(self.settings.seed * 100_003 + number)
        self.fields.start(number, self.rank)
        order = np.random.default_rng([self.settings.seed, number]).permutation(len(self.fields))
        model = self.learner.model.train()
        sums: dict[str, float] = {}
        for batch, start in enumerate(range(0, len(order), self.settings.batch)):
            self._rate(number + batch / self.per_epoch)
            losses = self._losses(self._share(order[start : start + self.settings.batch]))
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(self._mean(total.detach())):
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
        means = {k: float(self._mean(torch.tensor(v, device=self.device))) / self.per_epoch for k, v in sums.items()}
        ap50, ap = self._measure(order)
        better = ap > self.best
        if better:
            self.best, self.best_epoch = ap, number + 1
        if self.rank:
            return
        if better:
            _write({"model": self._averaged(), "epoch": number + 1}, self.folder / "weights" / "best.pt")
        self._log(number, means, ap50, ap, time.monotonic() - started)
        self._checkpoint(number + 1)

    def _share(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """The fields of a batch that this process learns from; a last, small batch gives some twice, none nothing."""
        return np.resize(batch, max(len(batch), self.shares))[self.rank :: self.shares]

    def _mean(self, value: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        if self.shares > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value / self.shares

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

    def _losses(self, fields: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        found = [self.fields[int(i)] for i in fields]
        images = [torch.from_numpy(p).to(self.device).permute(2, 0, 1).float() / 255 for p, _ in found]
        with self._autocast():
            return self.learner.losses(images, [t for _, t in found])

    def _settle(self, order: NDArray[np.int64]) -> None:
        """Take the statistics of batch norms anew for the averaged weights, over some fields to learn from.

        Those gathered on the way belong to other weights (Izmailov et al., 2018, "Averaging weights leads to wider
        optima", 3.3): with them a network trained from scratch may find nothing of what it has just learnt.
        """
        model = self.average.module
        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
        size = self.settings.batch
        seen = order[: max(_SETTLING, size)]
        whole = seen[: max(len(seen) // size * size, size)]  # a small last batch would count as much as the others
        called, self.learner.called = self.learner.called, model.train()
        try:
            with torch.no_grad():
                for start in range(0, len(whole) if norms else 0, size):
                    self._losses(whole[start : start + size])
        finally:
            self.learner.called = called
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def _measure(self, order: NDArray[np.int64]) -> tuple[float, float]:
        """mAP50 and mAP50-95 of the averaged weights on dev. Of several processes the first measures and tells."""
        found = [(0.0, 0.0)]
        if self.rank == 0:
            self._settle(order)
            self.average.module.eval()
            with self._autocast():
                graph = self.learner.graph(self.average.module)
                found = [on_dev(self.job, self.architecture, self.traits, graph)]
        if self.shares > 1:
            distributed.broadcast_object_list(found, device=self.device)
        return found[0]

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
        if self.rank == 0:
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
        if self.rank == 0:
            best = torch.load(self.folder / "weights" / "best.pt", weights_only=True)
            save_file(best["model"], self.job.out / "weights.safetensors")
            about = {**asdict(self.architecture), "config": dict(self.architecture.config)}
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
