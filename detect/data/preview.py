"""A contact sheet of what preprocessing and augmentation do to a picture, so that settings are chosen by eye."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detect import geometry
from detect.data.augment import Transform, TransformSet, build
from detect.errors import ConfigError
from detect.formats import yolo
from detect.formats.tally import Tally
from detect.images import decode, preprocess
from detect.types import ClassMap, Field, Image

DRAWS = 4
NEIGHBOURS = 3  # other fields that Mosaic and MixUp take from
_SIDE = 320  # pixels of a picture's longer side on the sheet
_GAP = 8
_LINE = 20
_LETTERS = 140  # of a title that fit in a line
_MIN_VISIBLE = 0.25  # of a cell that was moved over the border, as in training
_CLASSES = 1000  # more than any label file numbers
_COLOURS = ((200, 0, 0), (0, 100, 220), (0, 140, 60), (210, 120, 0), (140, 0, 170))


@dataclass(frozen=True, eq=False)
class Picture:
    """A field, and its cells where they are known.

    Attributes:
        pixels: uint8 RGB (h, w, 3). boxes: float32 (n, 4), xyxy, pixels. labels: int64 (n,), as the label file numbers.
    """

    pixels: Image
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Row:
    title: str
    pictures: list[Picture]


def read(path: Path, labels: Path | None = None) -> Picture:
    """A field with the boxes of its YOLO label file.

    Args:
        labels: the label file; by default it is looked for beside the image, or in `labels` beside its `images`, and a
            field without one has no boxes.
    """
    if labels is not None and (labels.suffix != ".txt" or not labels.is_file()):
        raise ConfigError("no such label file", where=str(labels), remedy="give a YOLO label file, *.txt")
    pixels = decode.read(path)
    height, width = pixels.shape[:2]
    names = {i: str(i) for i in range(_CLASSES)}
    classes = ClassMap(tuple(names.values()))
    # A label file goes by the stem of its image.
    field = Field(path.name, "", labels.with_suffix(path.suffix) if labels else path, width, height)
    folder = labels.parent if labels else None
    found = yolo.read([field], folder, names, {name: name for name in classes}, classes, Tally())
    if not found:
        return Picture(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    cells = found[0].annotations
    return Picture(pixels, cells.boxes, cells.labels)


def neighbours(path: Path) -> list[Picture]:
    """Fields that follow an image in its folder by name, from the first again after the last."""
    files = sorted(p for p in path.parent.iterdir() if p.suffix.lower() in decode.SUFFIXES and p.is_file())
    at = files.index(path) if path in files else 0
    return [read(p) for p in (files[at + 1 :] + files[:at])[:NEIGHBOURS]]


def sheet(picture: Picture, others: Sequence[Picture], chosen: TransformSet, where: str, seed: int = 1) -> Image:
    """The contact sheet, uint8 RGB: the original; a row for each step and transform by itself; all of them composed.

    A step shows the field and its middle in full size. A transform shows up to four draws, made every time whatever its
    `p`; the last row draws as training does. Where cells may have moved, whole fields are drawn with their boxes;
    elsewhere the middle in full size.

    Args:
        others: fields that Mosaic and MixUp take from.
        where: the configuration file, for errors.
    """
    steps = preprocess.fit(chosen.preprocess, where)
    kinds = build(chosen.augment, where, metadata=True) if chosen.augment else []
    if not steps and not kinds:
        raise ConfigError("names no step and no transform", where=where, remedy="give preprocess: or augment:")
    rows = [_Row("original", _shown(_marked(picture), picture.pixels))]
    for step, asked in zip(steps, chosen.preprocess, strict=True):
        done = preprocess.apply(picture.pixels, [step])
        rows.append(_Row(_title(asked), _shown(_bare(done), done)))
    for kind, transform in zip(kinds, chosen.augment, strict=True):
        kind.p = 1.0
        drawn = _draws([kind], [transform], picture, others, where, seed)
        rows.append(_Row(_title(transform), _different(drawn)))
    if len(steps) + len(kinds) > 1:
        done = preprocess.apply(picture.pixels, steps)
        before = Picture(done, picture.boxes, picture.labels)
        if kinds:
            ready = [Picture(preprocess.apply(o.pixels, steps), o.boxes, o.labels) for o in others]
            anew = build(chosen.augment, where, metadata=True)
            drawn = _draws(anew, chosen.augment, before, ready, where, seed)
            rows.append(_Row("all of them, as often as each is set to be", drawn))
        else:
            rows.append(_Row("all of them", _shown(_bare(done), done)))
    return _page([(row.title, [_thumbnail(p) for p in row.pictures]) for row in rows])


def _draws(
    kinds: Sequence[Any],
    transforms: Sequence[Transform],
    picture: Picture,
    others: Sequence[Picture],
    where: str,
    seed: int,
) -> list[Picture]:
    """The picture after the transforms, drawn anew each time; with boxes where cells may have moved."""
    import albumentations as A

    moves = any(isinstance(kind, A.DualTransform) for kind in kinds)
    handed: dict[str, Any] = {}
    for kind in kinds:
        if hasattr(kind, "metadata_key"):
            plain = isinstance(kind, A.ImageOnlyTransform)  # those of albumentations that take colours from a picture
            handed[kind.metadata_key] = [o.pixels if plain else _given(o) for o in others]
    boxes = A.BboxParams(format="pascal_voc", label_fields=["labels"], min_visibility=_MIN_VISIBLE, clip=True)
    out = []
    for draw in range(DRAWS):
        chain = A.Compose(list(kinds), bbox_params=boxes if moves else None, seed=seed * 1009 + draw)
        try:
            done = chain(**(_given(picture) if moves else {"image": picture.pixels}), **handed)
        except Exception as error:  # a transform may ask anything of a picture, and raises what it likes
            names = ", ".join(t.name for t in transforms)
            raise ConfigError(f"{names}: {error}", where=where, remedy="see its documentation") from error
        pixels = np.ascontiguousarray(done["image"])
        if moves:
            left = np.asarray(done["bboxes"], np.float32).reshape(-1, 4)
            out.append(_marked(Picture(pixels, left, np.asarray(done["labels"], np.int64))))
        else:
            out.append(_bare(_middle(pixels)))
    return out


def _different(drawn: list[Picture]) -> list[Picture]:
    """Each picture once: a flip has one outcome."""
    out: list[Picture] = []
    for picture in drawn:
        if not any(np.array_equal(picture.pixels, known.pixels) for known in out):
            out.append(picture)
    return out


def _given(picture: Picture) -> dict[str, Any]:
    return {"image": picture.pixels, "bboxes": picture.boxes, "labels": picture.labels}


def _title(asked: Transform | preprocess.Step) -> str:
    return f"{asked.name}  " + ", ".join(f"{key} {value}" for key, value in asked.args.items())


def _bare(pixels: Image) -> Picture:
    return Picture(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


def _marked(picture: Picture) -> Picture:
    """The picture with its boxes drawn, thick enough to be seen on the sheet."""
    pixels = picture.pixels.copy()
    thick = max(1, round(max(pixels.shape[:2]) / _SIDE * 1.5))
    height, width = pixels.shape[:2]
    for box, label in zip(geometry.clip(picture.boxes, width, height), picture.labels, strict=True):
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(pixels, (x0, y0), (x1 - 1, y1 - 1), _COLOURS[int(label) % len(_COLOURS)], thick)
    return Picture(pixels, picture.boxes, picture.labels)


def _shown(whole: Picture, pixels: Image) -> list[Picture]:
    """The field and its middle in full size."""
    return [whole, _bare(_middle(pixels))]


def _middle(pixels: Image) -> Image:
    """The middle of a field, as many pixels as the sheet shows: noise and sharpness are seen in full size only."""
    height, width = pixels.shape[:2]
    side = min(height, width, _SIDE)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _thumbnail(picture: Picture) -> Image:
    height, width = picture.pixels.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture.pixels, size, interpolation=method), np.uint8)


def _page(rows: list[tuple[str, list[Image]]]) -> Image:
    """Rows of pictures under their titles."""
    width = _GAP + DRAWS * (_SIDE + _GAP)
    strips = []
    for title, pictures in rows:
        lines = textwrap.wrap(title, _LETTERS) or [""]
        head = _GAP + _LINE * len(lines)
        strip = np.full((head + max(p.shape[0] for p in pictures) + _GAP, width, 3), 255, np.uint8)
        for i, line in enumerate(lines):
            at = (_GAP, _GAP + _LINE * i + 12)
            cv2.putText(strip, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        for i, pixels in enumerate(pictures):
            left = _GAP + i * (_SIDE + _GAP)
            strip[head : head + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        strips.append(strip)
    return np.ascontiguousarray(np.concatenate(strips))
