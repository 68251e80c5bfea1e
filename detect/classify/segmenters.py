"""Segmenters of a white cell's parts: U-Net and DeepLabV3+ of segmentation-models-pytorch, learnt from drawn parts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import yaml
from numpy.typing import NDArray
from pycocotools import mask as rle
from pydantic import Field as Key
from torch import nn
from torch.nn import functional

from detect import __version__, assets
from detect.bundles.card import WEIGHTS
from detect.bundles.draft import trained_on
from detect.classify.crops import crop
from detect.classify.learn import state_of, write_weights
from detect.classify.parts import CYTOPLASM, GROUND, NUCLEUS
from detect.classify.train import fingerprint
from detect.config import Settings, load
from detect.data import augment
from detect.data.augment import Transform
from detect.data.splits import cells_of, read_split
from detect.data.typed import TypedCell, load_typed
from detect.detectors.devices import device_of
from detect.detectors.train import keep_data, keep_settings, sources
from detect.errors import DataError, StoreError
from detect.formats.tally import Tally
from detect.images import decode
from detect.runtime.base import cores
from detect.types import Image

CHECKPOINT = "checkpoint.pt"
PARTS = ("cytoplasm", "nucleus")
Progress = Callable[[int, int, float], None]
_BUILT = {"unet": smp.Unet, "deeplabv3plus": smp.DeepLabV3Plus}


class SegmenterSettings(Settings):
    """How a segmenter learns, as YAML of `configs/segmenters/`.

    Attributes:
        architecture, encoder: by the names of segmentation-models-pytorch. decoder: channels of the U-Net's steps up.
        pretrained: true for the encoder's published weights (downloaded).
        image_size: pixels a side of the input. margin: context around the box, part of its longer side.
        shares: of the cells that are drawn in an epoch, how many are of each set; by default as many as it has.
        cells_per_epoch: 0 for as many as there are.
        jitter: boxes are moved and scaled by up to this part of their side, as a detector's boxes are.
    """

    architecture: Literal["unet", "deeplabv3plus"] = "unet"
    encoder: str = "timm-mobilenetv3_small_100"
    decoder: tuple[int, int, int, int, int] = (128, 64, 32, 24, 16)
    pretrained: bool = False
    image_size: int = Key(96, ge=32, multiple_of=32)
    margin: float = Key(0.2, ge=0, le=1)
    shares: dict[str, float] = {}
    cells_per_epoch: int = Key(0, ge=0)
    epochs: int = Key(40, ge=1)
    batch: int = Key(32, ge=2)
    learning_rate: float = Key(0.003, gt=0)
    weight_decay: float = Key(0.01, ge=0)
    jitter: float = Key(0.08, ge=0, lt=0.5)
    seed: int = Key(1, ge=0)
    augment: tuple[Transform, ...] = ()


class PartsNet(nn.Module):
    """Pixels to shares of ground, cytoplasm and nucleus. Input uint8 RGB (n, s, s, 3); output float32 (n, 3, s, s)."""

    def __init__(self, settings: SegmenterSettings) -> None:
        super().__init__()
        given: dict[str, Any] = {"encoder_weights": "imagenet" if settings.pretrained else None, "classes": 3}
        if settings.architecture == "unet":
            given["decoder_channels"] = settings.decoder
        self.net = _BUILT[settings.architecture](settings.encoder, **given)

    def scores(self, crops: torch.Tensor) -> torch.Tensor:
        """Before the softmax."""
        return self.net((crops.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Shares."""
        return functional.softmax(self.scores(crops).float(), dim=1)


@dataclass(frozen=True, eq=False)
class Outlined:
    """Cells with their parts drawn, in memory.

    Attributes:
        pictures: uint8 RGB around each cell; labels: uint8 of the same places; boxes: xyxy there. sets: of each.
    """

    pictures: tuple[Image, ...]
    labels: tuple[NDArray[np.uint8], ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    sets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)


def outlined(cells: Sequence[TypedCell]) -> Outlined:
    """Read the cells that have masks of cell and nucleus; DataError where none has."""

    @lru_cache(maxsize=4)
    def read(path: Path) -> Image:
        return decode.read(path)

    pictures, labels, boxes, sets = [], [], [], []
    for cell in cells:
        if cell.outline is None or cell.nucleus is None:
            continue
        field = read(cell.path)
        drawn = drawn_parts(cell)
        x0, y0, x1, y1 = cell.box
        reach = max(x1 - x0, y1 - y0)
        left, top = max(0, int(x0 - reach)), max(0, int(y0 - reach))
        where = np.s_[top : int(y1 + reach) + 1, left : int(x1 + reach) + 1]
        pictures.append(np.ascontiguousarray(field[where]))
        labels.append(np.ascontiguousarray(drawn[where]))
        boxes.append((x0 - left, y0 - top, x1 - left, y1 - top))
        sets.append(cell.source.split("/")[0])
    if not pictures:
        raise DataError("no cell has masks of cell and nucleus", remedy="name a set with such masks, as wbc-masks")
    return Outlined(tuple(pictures), tuple(labels), tuple(boxes), tuple(sets))


def drawn_parts(cell: TypedCell) -> NDArray[np.uint8]:
    """The parts of a cell as they were drawn, uint8 (h, w) of its field."""
    body, core = (rle.decode(dict(m)).astype(bool) for m in (cell.outline or {}, cell.nucleus or {}))
    return np.where(core, np.uint8(NUCLEUS), np.where(body, np.uint8(CYTOPLASM), np.uint8(GROUND)))


def train(
    config: str,
    data: Sequence[str],
    splits: Sequence[str],
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Learn from the cells with masks of part `train` of each set; the last epoch's weights are kept.

    Args:
        data, splits: cards, and a split for each. progress: called with epoch, epochs and mean loss.

    Returns:
        The run record, as written to `run.yaml`.
    """
    path = assets.find(config, "configs/segmenters", ".yaml")
    settings = load(SegmenterSettings, path)
    sets = sources(data, splits)
    if out.exists() and any(out.iterdir()) and not resume:
        raise StoreError("the run folder is not empty", where=str(out), remedy="name another, or go on with --resume")
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(settings, out, str(path))
    keep_data([s.card for s in sets], [s.split for s in sets], out)
    tally = tally or Tally()
    cells = [cell for s in sets for cell in cells_of(read_split(s.split), load_typed([s.card], tally), "train")]
    started = time.monotonic()
    kept = outlined(cells)
    learn(settings, str(path), kept, out, device=device, resume=resume, progress=progress)
    record: dict[str, Any] = {
        "task": "segmenter",
        "smear_detect": __version__,
        "config": path.name,
        "data": [s.card.name for s in sets],
        "split": [Path(s.split).stem for s in sets],
        "trained_on": trained_on([s.card for s in sets]),
        "cells": {"train": dict(Counter(kept.sets))},
        "groups": {"train": len({c.group for c in cells})},
        "fields": {"train": len({c.path for c in cells})},
        "fingerprint": {"train": fingerprint(cells)},
        "label_problems": tally.counts(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "versions": {"torch": str(torch.__version__), "segmentation_models_pytorch": str(smp.__version__)},
    }
    (out / "run.yaml").write_text(yaml.safe_dump(record, sort_keys=False), "utf-8")
    return record


def learn(
    settings: SegmenterSettings,
    where: str,
    data: Outlined,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
) -> None:
    """The loop: `weights.safetensors`, and a checkpoint after every epoch."""
    chances = _chances(settings, data, where)
    place = device_of(device)
    if place.type == "cpu":
        torch.set_num_threads(cores())
    torch.manual_seed(settings.seed)
    model = PartsNet(settings).to(place)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    size = settings.cells_per_epoch or len(data)
    total = settings.epochs * -(-size // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total, pct_start=0.1)
    pixels = A.Compose(augment.build(settings.augment, where), seed=settings.seed)
    first = _restore(out, model, optimizer, schedule) if resume and (out / CHECKPOINT).is_file() else 0
    for epoch in range(first, settings.epochs):
        rng = np.random.default_rng([settings.seed, epoch])
        pixels.set_random_seed(settings.seed * 100_003 + epoch)
        torch.manual_seed(settings.seed * 100_003 + epoch)
        model.train()
        losses = []
        drawn = rng.choice(len(data), size, p=chances)
        for start in range(0, size, settings.batch):
            batch = [_sample(data, int(i), settings, pixels, rng) for i in drawn[start : start + settings.batch]]
            losses.append(_step(model, optimizer, batch, place))
            schedule.step()
        _checkpoint(out, model, optimizer, schedule, epoch + 1)
        if progress is not None:
            progress(epoch + 1, settings.epochs, float(np.mean(losses)))
    write_weights(state_of(model), out / WEIGHTS)


def _chances(settings: SegmenterSettings, data: Outlined, where: str) -> NDArray[np.float64]:
    counts = Counter(data.sets)
    strange = sorted(set(settings.shares) - set(counts))
    if strange:
        what = f"shares: no cell of '{strange[0]}' has masks of its parts"
        raise DataError(what, where=where, remedy=f"the sets are: {', '.join(sorted(counts))}")
    weight = np.array([settings.shares.get(s, 1.0) / counts[s] if settings.shares else 1.0 for s in data.sets])
    return np.asarray(weight / weight.sum())


def _sample(
    data: Outlined, i: int, settings: SegmenterSettings, pixels: A.Compose, rng: np.random.Generator
) -> tuple[Image, NDArray[np.uint8]]:
    """A cell by a box that is moved a little, mirrored, turned, its colours changed."""
    x0, y0, x1, y1 = data.boxes[i]
    side = max(x1 - x0, y1 - y0)
    dx, dy, grow = rng.uniform(-settings.jitter, settings.jitter, 3) * side
    box = (x0 + dx - grow / 2, y0 + dy - grow / 2, x1 + dx + grow / 2, y1 + dy + grow / 2)
    cut = crop(data.pictures[i], box, settings.margin)
    drawn = crop(np.repeat(data.labels[i][..., None], 3, axis=2), box, settings.margin).pixels[..., 0]
    size = (settings.image_size, settings.image_size)
    how = cv2.INTER_AREA if cut.pixels.shape[0] > size[0] else cv2.INTER_LINEAR
    small = cv2.resize(cut.pixels, size, interpolation=how)
    labels = cv2.resize(np.ascontiguousarray(drawn), size, interpolation=cv2.INTER_NEAREST)
    turns = int(rng.integers(4))
    small, labels = np.rot90(small, turns), np.rot90(labels, turns)
    if rng.random() < 0.5:
        small, labels = small[:, ::-1], labels[:, ::-1]
    small = np.asarray(pixels(image=np.ascontiguousarray(small))["image"], np.uint8)
    return small, np.ascontiguousarray(labels)


def _step(
    model: PartsNet,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[tuple[Image, NDArray[np.uint8]]],
    place: torch.device,
) -> float:
    if len(batch) == 1:  # batch norm cannot learn from one
        batch = [*batch, *batch]
    crops = torch.from_numpy(np.stack([b[0] for b in batch])).to(place)
    labels = torch.from_numpy(np.stack([b[1] for b in batch]).astype(np.int64)).to(place)
    scores = model.scores(crops).float()
    loss = functional.cross_entropy(scores, labels) + smp.losses.DiceLoss("multiclass")(scores, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _checkpoint(out: Path, model: nn.Module, optimizer: Any, schedule: Any, epochs: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epochs": epochs,
    }
    partial = out / f"{CHECKPOINT}.partial"
    torch.save(state, partial)
    partial.replace(out / CHECKPOINT)


def _restore(out: Path, model: nn.Module, optimizer: Any, schedule: Any) -> int:
    state = torch.load(out / CHECKPOINT, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["epochs"])
