"""Training of a classifier on typed cells: a configuration, cards and a split in; a run folder out."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from detect.errors import ConfigError, MissingExtraError

try:
    import torch
    from safetensors.torch import load_file, save_file
except ImportError:
    raise MissingExtraError("training a classifier", "train") from None

from detect import __version__, assets
from detect.bundles.card import WEIGHTS
from detect.classify.crops import crop, resize
from detect.classify.network import NETWORKS
from detect.classify.settings import ClassifierSettings
from detect.config import load
from detect.data import augment
from detect.data.cards import load_card
from detect.data.fingerprint import file_hash
from detect.data.splits import cells_of, read_split
from detect.data.typed import TypedCell, load_typed
from detect.detectors.train import keep_data, keep_settings
from detect.errors import StoreError
from detect.formats.tally import Tally
from detect.images import decode, preprocess
from detect.types import Image


def train(
    config: str,
    data: Sequence[str],
    split: str,
    out: Path,
    *,
    resume: bool = False,
    allow_leak: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Train on part `train` of the split; the last epoch is kept, dev is left for thresholds.

    Args:
        progress: called with epoch, epochs and mean loss after each epoch.

    Returns:
        The run record, as written to `run.yaml`.
    """
    path = assets.find(config, "configs/classifiers", ".yaml")
    settings = load(ClassifierSettings, path)
    if settings.network not in NETWORKS:
        raise ConfigError(f"no network '{settings.network}'", where=str(path), remedy=f"one of: {', '.join(NETWORKS)}")
    if out.exists() and any(out.iterdir()) and not resume:
        raise StoreError("the run folder is not empty", where=str(out), remedy="name another, or go on with --resume")
    if (out / "run.yaml").exists():
        raise StoreError(
            "the training is finished: nothing to resume", where=str(out), remedy="export it, or name another"
        )
    settings = settings.model_copy(update={"preprocess": preprocess.fit(settings.preprocess, str(path))})
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(settings, out, str(path))
    cards = [load_card(d) for d in data]
    keep_data(cards, [split], out)
    tally = tally or Tally()
    everything = load_typed(cards, tally)
    chosen = read_split(split, allow_leak=allow_leak)
    parts = {part: cells_of(chosen, everything, part) for part in ("train", "dev")}
    counts = {part: Counter(c.type for c in cells) for part, cells in parts.items()}
    types = sorted(counts["train"], key=lambda t: (-counts["train"][t], t))
    started = time.monotonic()
    _fit(settings, str(path), parts["train"], types, out, resume, progress)
    not_known = _not_known(everything, types)
    record: dict[str, Any] = {
        "task": "classifier",
        "smear_detect": __version__,
        "config": path.name,
        "data": [card.name for card in cards],
        "split": Path(split).stem,
        "leaking_groups": len(chosen.leaks),
        "types": types,
        "not_known": not_known,
        "fields": {part: len({c.path for c in cells}) for part, cells in parts.items()},
        "groups": {part: len({c.group for c in cells}) for part, cells in parts.items()},
        "cells": {part: dict(counted) for part, counted in counts.items()},
        "fingerprint": {part: _fingerprint(cells) for part, cells in parts.items()},
        "label_problems": tally.counts(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "precision": "fp32",
        "hardware": platform.machine(),
        "versions": {"torch": str(torch.__version__)},
    }
    (out / "run.yaml").write_text(yaml.safe_dump(record, sort_keys=False), "utf-8")
    return record


def _not_known(everything: Sequence[TypedCell], types: Sequence[str]) -> dict[str, int]:
    rare = sorted({c.type for c in everything} - set(types))
    return {t: len({c.group for c in everything if c.type == t}) for t in rare}


def _fingerprint(cells: Sequence[TypedCell]) -> str:
    import hashlib

    total = hashlib.sha256()
    for c in cells:
        total.update(f"{c.id}\0{file_hash(c.path)}\0{c.box}\0{c.type}\n".encode())
    return total.hexdigest()


def _fit(
    settings: ClassifierSettings,
    where: str,
    cells: Sequence[TypedCell],
    types: Sequence[str],
    out: Path,
    resume: bool,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    import albumentations as A

    pixels = A.Compose(augment.build(settings.augment, where), seed=settings.seed)
    fields = [preprocess.apply(decode.read(c.path), settings.preprocess) for c in cells]
    labels = np.array([types.index(c.type) for c in cells])
    model = NETWORKS[settings.network](len(types), dropout=settings.dropout)
    steps = settings.epochs * -(-len(cells) // settings.batch)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps, pct_start=0.1)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    first = _restore(out, model, optimizer, schedule) if resume else 0
    # A type's cells are drawn as often as any other type's, softened by the square root: rare ones repeat less.
    weight = 1 / np.sqrt(np.bincount(labels, minlength=len(types)).astype(float))
    chance = weight[labels] / weight[labels].sum()
    log = (out / "log.csv").open("a" if first else "w", encoding="utf-8")
    with log:
        for epoch in range(first, settings.epochs):
            rng = np.random.default_rng([settings.seed, epoch])
            pixels.set_random_seed(settings.seed * 100_003 + epoch)
            torch.manual_seed(settings.seed * 100_003 + epoch)
            model.train()
            drawn = rng.choice(len(cells), len(cells), p=chance)
            losses = []
            for start in range(0, len(drawn), settings.batch):
                rows = drawn[start : start + settings.batch]
                batch = np.stack([_sample(fields[i], cells[i], settings, rng, pixels) for i in rows])
                loss = criterion(model(torch.from_numpy(batch)), torch.from_numpy(labels[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
            log.write(f"{epoch + 1},{np.mean(losses):.5f}\n")
            log.flush()
            if (epoch + 1) % 10 == 0 or epoch + 1 == settings.epochs:
                _checkpoint(out, model, optimizer, schedule, epoch + 1)
            if progress is not None:
                progress(epoch + 1, settings.epochs, float(np.mean(losses)))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / WEIGHTS)


def _sample(
    field: Image, cell: TypedCell, settings: ClassifierSettings, rng: np.random.Generator, pixels: Any
) -> NDArray[np.uint8]:
    x0, y0, x1, y1 = cell.box
    side = max(x1 - x0, y1 - y0)
    dx, dy, grow = rng.uniform(-settings.jitter, settings.jitter, 3) * side
    box = (x0 + dx - grow / 2, y0 + dy - grow / 2, x1 + dx + grow / 2, y1 + dy + grow / 2)
    small = resize(crop(field, box, settings.margin).pixels, settings.image_size)
    return np.asarray(pixels(image=small)["image"], dtype=np.uint8)


def _checkpoint(out: Path, model: Any, optimizer: Any, schedule: Any, epoch: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    torch.save(state | {"epoch": epoch}, out / "checkpoint.partial")
    (out / "checkpoint.partial").replace(out / "checkpoint.pt")


def _restore(out: Path, model: Any, optimizer: Any, schedule: Any) -> int:
    path = out / "checkpoint.pt"
    if not path.is_file():
        raise StoreError("nothing to resume: no checkpoint", where=str(path), remedy="train without --resume")
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["epoch"])


def build(architecture: dict[str, Any], weights: Path) -> Any:
    """A network of an architecture section with its weights, ready to answer."""
    model = NETWORKS[architecture["name"]](int(architecture["types"]), dropout=0.0)
    model.load_state_dict(load_file(weights))
    return model.eval()


def reference(
    architecture: dict[str, Any], weights: Path, device: str = "cpu", precision: str = "fp32"
) -> Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], ...]]:
    """The graph of a classifier bundle, run by torch itself: uint8 (n, h, w, 3) to scores (n, types)."""
    model = build(architecture, weights).to(device)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)

    def run(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        with torch.inference_mode(), torch.autocast(torch.device(device).type, dtype=kind, enabled=precision != "fp32"):
            return (model(torch.from_numpy(batch).to(device)).float().cpu().numpy(),)

    return run
