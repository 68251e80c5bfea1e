"""Box algebra on arrays. Boxes are float32 (n, 4), xyxy, absolute pixels of the full field, half-open."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def area(boxes: Boxes) -> Floats:
    """Area of each box in square pixels, (n,); a box turned inside out has area 0."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)


def intersection(a: Boxes, b: Boxes) -> Floats:
    """Pairwise overlap in square pixels, (len(a), len(b))."""
    # Side by side, not as pairs (x, y): numpy is ten times slower over a last axis of two.
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(width, 0, out=width)
    shared *= np.maximum(height, 0, out=height)
    return np.asarray(shared, dtype=np.float32)


def iou(a: Boxes, b: Boxes) -> Floats:
    """Pairwise intersection over union, (len(a), len(b)); 0 where both boxes are empty."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), dtype=np.float32)


def clip(boxes: Boxes, width: int, height: int) -> Boxes:
    """Boxes cut to a field of `width` x `height` pixels."""
    limit = np.array([width, height, width, height], dtype=np.float32)
    return np.asarray(np.clip(boxes, 0, limit), dtype=np.float32)


def from_xywh(boxes: NDArray[np.floating]) -> Boxes:
    """(x, y, width, height), the corner form of COCO, to xyxy."""
    out = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).copy()
    out[:, 2:] += out[:, :2]
    return out.astype(np.float32)


def to_xywh(boxes: Boxes) -> NDArray[np.float64]:
    """xyxy to (x, y, width, height), in float64 so that a round trip stays exact to a hundredth of a pixel."""
    out = boxes.astype(np.float64)
    out[:, 2:] -= out[:, :2]
    return out


def from_centers(boxes: NDArray[np.floating], width: int, height: int) -> Boxes:
    """(cx, cy, w, h) as fractions of the field, the form of YOLO, to xyxy in pixels."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    half = b[:, 2:] / 2
    scale = np.array([width, height, width, height], dtype=np.float64)
    return (np.concatenate([b[:, :2] - half, b[:, :2] + half], axis=1) * scale).astype(np.float32)


def to_centers(boxes: Boxes, width: int, height: int) -> NDArray[np.float64]:
    """xyxy in pixels to (cx, cy, w, h) as fractions of the field."""
    b = boxes.astype(np.float64) / np.array([width, height, width, height], dtype=np.float64)
    return np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)


def nms(boxes: Boxes, scores: Floats, labels: Ints, threshold: float) -> Ints:
    """Greedy non-maximum suppression within each class.

    Args:
        boxes: (n, 4). scores: (n,). labels: (n,).
        threshold: a box whose IoU with a better one of its class is above this is dropped.

    Returns:
        Indices of the kept boxes, best score first; equal scores keep their order, so the result is
        the same on every machine.
    """
    order = np.argsort(-scores, kind="stable").astype(np.int64)
    ranked, names = to_xywh(boxes[order]), labels[order]
    ranks = np.arange(len(order), 0, -1, dtype=np.float32)  # in place of the scores, of which several may be equal
    real = area(boxes[order]) > 0
    keep = ~real  # an empty box overlaps nothing
    greedy: Any = cv2.dnn.NMSBoxes  # typed as if it took no arrays
    for name in np.unique(names[real]):
        mine = np.flatnonzero((names == name) & real)
        keep[mine[np.asarray(greedy(ranked[mine], ranks[mine], 0.0, threshold), np.int64)]] = True
    return np.asarray(order[keep])
