"""The loop in which a network learns to type cells. Pure torch.

RUN/
  log.csv           one row an epoch: loss, and of dev log-loss, macro F1 and accuracy
  checkpoint.pt     everything that is needed to go on, the best weights so far with it; tensors and numbers only
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn import functional

from detect.classify.cells import Cells
from detect.classify.losses import loss_of
from detect.classify.networks import NETWORKS, Classifier, build
from detect.classify.settings import ClassifierSettings
from detect.data import augment
from detect.detectors.devices import device_of, precision_of
from detect.errors import ConfigError, StoreError
from detect.evaluate.decide import log_loss, macro_f1
from detect.runtime.base import cores

Progress = Callable[[int, int, float], None]  # epoch, epochs, mean loss
LOG, CHECKPOINT = "log.csv", "checkpoint.pt"
_OFTEN = 120.0  # seconds after which a checkpoint is written at the next epoch
_HEADS = ("epoch", "loss", "dev log-loss", "dev macro F1", "dev accuracy")
_EVERY = 10  # epochs between checkpoints
_BATCH = 64  # crops of a batch that is only looked at


@dataclass(frozen=True, eq=False)
class Learnt:
    """A trained network.

    Attributes:
        epochs: that were run. best_epoch: whose weights these are.
        curve: macro F1 of dev after each epoch, none without dev; None where it had come to rest before the end.
        seconds: of training, those before a resumption included.
    """

    model: Classifier
    epochs: int
    best_epoch: int
    curve: tuple[float, ...] | None
    seconds: float
    precision: str
    device: str


def learn(
    settings: ClassifierSettings,
    where: str,
    cells: Cells,
    dev: Cells | None,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Learnt:
    """Train one network.

    Args:
        where: the configuration, for errors. dev: to measure on after each epoch.
        progress: called with epoch, epochs and mean loss after each epoch.
    """
    run = _Run(settings, where, cells, dev, out, device)
    first = run.restore() if resume else 0
    for epoch in range(first, settings.epochs):
        if run.stopped(epoch):
            break
        mean = run.epoch(epoch)
        if progress is not None:
            progress(epoch + 1, settings.epochs, mean)
    return run.finish()


def precision_for(settings: ClassifierSettings, device: torch.device) -> str:
    """The arithmetic of a training; auto takes bf16 on a processor where that is faster only."""
    slow = device.type == "cpu" and NETWORKS[settings.network].slow_bf16
    return precision_of("fp32" if slow and settings.precision == "auto" else settings.precision, device)


class _Run:
    """The state of one training."""

    def __init__(
        self, settings: ClassifierSettings, where: str, cells: Cells, dev: Cells | None, out: Path, device: str
    ) -> None:
        if settings.patience and dev is None:
            raise ConfigError("patience needs a part dev to wait for", where=where, remedy="draw one, or take 0")
        self.settings, self.cells, self.out, self.where = settings, cells, out, where
        self.dev = dev
        self.device = device_of(device)
        if self.device.type == "cpu":
            torch.set_num_threads(cores())
        torch.manual_seed(settings.seed)
        self.model = build(
            settings.network, len(cells.types), settings.image_size, head=settings.head, first=settings.first,
            dropout=settings.dropout, turns=settings.turns, pretrained=settings.pretrained, where=where,
        ).to(self.device)  # fmt: skip
        self.precision = precision_for(settings, self.device)
        self.pixels = A.Compose(augment.build(settings.augment, where), seed=settings.seed)
        self.steps = -(-len(cells) // settings.batch)
        learning = self._learning()
        self.optimizer = torch.optim.AdamW(
            learning,
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,  # a third to an eighth of the time on processors; a step of a small network is mostly this
        )
        self.schedule = self._schedule()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.criterion = loss_of(settings, cells.labels, len(cells.types))
        self.chance = chances(cells.labels, len(cells.types), settings.sampling)
        self.seen = None if dev is None else torch.from_numpy(dev.crops(settings.image_size, settings.margin))
        self.rows: list[dict[str, float]] = []
        self.best, self.best_epoch = (-1.0, -np.inf), 0
        self.kept: Mapping[str, torch.Tensor] = {}  # the weights of the best epoch, on the CPU
        self.saved = time.monotonic()
        self.before, self.started = 0.0, time.monotonic()

    def _learning(self) -> list[torch.nn.Parameter]:
        if self.settings.features == "frozen":
            self.model.body.requires_grad_(False)
            if self.model.first is not None:
                self.model.first.requires_grad_(False)
        return [p for p in self.model.parameters() if p.requires_grad]

    def _schedule(self) -> Any:
        total = self.settings.epochs * self.steps
        if self.settings.schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, total)
        rate = self.settings.learning_rate
        rise = 0.2 if total == 10 else 0.1  # a rise that ends with the first step is divided by nothing
        return torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=total, pct_start=rise)

    def epoch(self, number: int) -> float:
        """Draw as many cells as there are, learn from them, measure dev; returns the mean loss."""
        settings, seed = self.settings, self.settings.seed
        rng = np.random.default_rng([seed, number])
        self.pixels.set_random_seed(seed * 100_003 + number)
        torch.manual_seed(seed * 100_003 + number)
        self.model.train()
        if settings.features == "frozen":
            self.model.body.eval()
        drawn = rng.choice(len(self.cells), len(self.cells), p=self.chance)
        batches = [drawn[start : start + settings.batch] for start in range(0, len(drawn), settings.batch)]
        losses = []
        with ThreadPoolExecutor(1) as hands:  # one, so that cells are drawn in the same order each time
            ahead = hands.submit(self._batch, batches[0], rng)
            for following in (*batches[1:], None):
                batch, target = ahead.result()
                if following is not None:
                    ahead = hands.submit(self._batch, following, rng)
                losses.append(self._step(batch, target))
        row = {"epoch": number + 1, "loss": float(np.mean(losses))}
        if not np.isfinite(row["loss"]):
            what = f"the loss is not finite in epoch {number + 1}"
            raise ConfigError(what, where=self.where, remedy="lower learning_rate, or set precision: fp32")
        if self.dev is not None:
            row |= self._measure(number)
        self._log(row)
        late = time.monotonic() - self.saved > _OFTEN
        if late or (number + 1) % _EVERY == 0 or number + 1 == settings.epochs:
            self._checkpoint(number + 1)
        return row["loss"]

    def _batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.uint8], torch.Tensor]:
        """Some cells as they are learnt from, while the network learns from those before: pictures and targets."""
        settings, types = self.settings, len(self.cells.types)
        batch = np.stack([self._sample(int(i), rng) for i in rows])
        target = functional.one_hot(torch.from_numpy(self.cells.labels[rows]), types).float()
        if settings.mixup:
            share = float(rng.beta(settings.mixup, settings.mixup))
            other = rng.permutation(len(rows))
            batch = np.rint(share * batch + (1 - share) * batch[other]).astype(np.uint8)
            target = share * target + (1 - share) * target[torch.from_numpy(other)]
        if len(rows) == 1:  # batch norm cannot learn from one
            batch, target = np.repeat(batch, 2, axis=0), target.repeat(2, 1)
        return batch, target

    def _step(self, batch: NDArray[np.uint8], target: torch.Tensor) -> float:
        with self._autocast():
            scores = self.model(torch.from_numpy(batch).to(self.device))
        loss = self.criterion(scores, target.to(self.device))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return float(loss.detach())

    def _sample(self, i: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        settings = self.settings
        small = self.cells.drawn(i, settings.image_size, settings.margin, settings.jitter, rng)
        return np.asarray(self.pixels(image=small)["image"], np.uint8)

    def _autocast(self) -> torch.autocast:
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.float32)
        return torch.autocast(self.device.type, dtype=kind, enabled=self.precision != "fp32")

    def _measure(self, number: int) -> dict[str, float]:
        assert self.dev is not None
        assert self.seen is not None
        with self._autocast():
            scores = scores_of(self.model, self.seen, self.device)
        told = scores.softmax(dim=1).numpy()
        answer, truth = told.argmax(axis=1), self.dev.labels
        f1 = macro_f1(truth, answer, len(self.cells.types))
        off = log_loss(truth, told)
        if self.settings.patience and (f1, -off) > self.best:
            self.best, self.best_epoch = (f1, -off), number + 1
            self.kept = {k: v.clone() for k, v in state_of(self.model).items()}
        return {"dev log-loss": off, "dev macro F1": f1, "dev accuracy": float((answer == truth).mean())}

    def _log(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        with (self.out / LOG).open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, [h for h in _HEADS if h in row], lineterminator="\n")
            out.writeheader()
            out.writerows({k: round(v, 5) for k, v in r.items()} for r in self.rows)

    def _checkpoint(self, epochs: int) -> None:
        state = {
            "epochs": epochs,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rows": self.rows,
            "seconds": self._seconds(),
            "best": list(self.best),
            "best_epoch": self.best_epoch,
            "kept": dict(self.kept),
        }
        partial = self.out / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.out / CHECKPOINT)
        self.saved = time.monotonic()

    def restore(self) -> int:
        """Take up the last checkpoint; returns the epochs that are done."""
        path = self.out / CHECKPOINT
        if not path.is_file():
            raise StoreError("nothing to resume: no checkpoint", where=str(path), remedy="train without --resume")
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.rows, self.before = state["rows"], state["seconds"]
        self.best, self.best_epoch = (state["best"][0], state["best"][1]), state["best_epoch"]
        self.kept = state["kept"]
        return int(state["epochs"])

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def stopped(self, epochs: int) -> bool:
        """Whether dev has not got better for as long as the configuration waits."""
        patience = self.settings.patience
        return patience > 0 and epochs > 0 and epochs - self.best_epoch >= patience

    def finish(self) -> Learnt:
        """The network with the weights that are kept."""
        epochs = len(self.rows)
        if self.settings.patience and self.best_epoch:
            self.model.load_state_dict(self.kept)
        best = self.best_epoch if self.settings.patience else epochs
        stopped = self.stopped(epochs)
        curve = tuple(r["dev macro F1"] for r in self.rows if "dev macro F1" in r)
        model = self.model.cpu().eval()
        told = None if stopped else curve
        return Learnt(model, epochs, best, told, self._seconds(), self.precision, str(self.device))


def chances(labels: NDArray[np.int64], types: int, sampling: str) -> NDArray[np.float64]:
    """How likely each cell is drawn, float64 (n,) summing to 1."""
    counts = np.maximum(np.bincount(labels, minlength=types), 1).astype(float)
    power = {"natural": 0.0, "square_root": 0.5, "balanced": 1.0}[sampling]
    weight = counts[labels] ** -power
    return np.asarray(weight / weight.sum())


def scores_of(model: torch.nn.Module, crops: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """Scores before the softmax of crops, uint8 (n, s, s, 3), in batches; float32 (n, types) on the processor."""
    model.eval()
    with torch.inference_mode():
        found = [model(crops[i : i + _BATCH].to(device)).float().cpu() for i in range(0, len(crops), _BATCH)]
    return torch.cat(found) if found else torch.zeros((0, 1))


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors as safetensors takes them."""
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}


def write_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """A file of tensors that those may read who may read what lies beside it: the library leaves it to its owner."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    save_file(dict(tensors), path)
    path.chmod(mode)
