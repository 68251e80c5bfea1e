"""Fields as a model learns from them: in its input, with their cells, augmented anew each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.data import augment
from detect.detectors.base import TrainingJob, Traits
from detect.detectors.measure import PAD
from detect.errors import MissingExtraError
from detect.images import decode, preprocess
from detect.images.letterbox import place, plan
from detect.types import Image, LabelledField

try:
    import albumentations as A
except ImportError as error:
    raise MissingExtraError("training a detector", "train") from error

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

    def start(self, epoch: int, rank: int = 0) -> None:
        """Begin an epoch: what it draws depends on the seed, its number and that of the process only, so that a resumed
        run draws the same."""
        self._change.set_random_seed(self._job.settings.seed * 100_003 + epoch + rank * 50_021)

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
