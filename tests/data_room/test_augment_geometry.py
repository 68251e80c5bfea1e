"""Boxes and masks follow the pixels through every transform of the packaged sets that moves them.

Cells are drawn each in a grey level of its own and moved by the nearest pixel, so that they can be found again.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detect import assets
from detect.config import load
from detect.data.augment import Transform, TransformSet, build
from detect.types import Image

A = pytest.importorskip("albumentations")

GROUND = 225
EXAMPLES = settings(max_examples=40)
EXACT = {"HorizontalFlip", "VerticalFlip", "RandomRotate90", "D4", "Transpose"}
WITH_OTHERS = {"Mosaic", "MixUp"}
SETS = sorted((assets.ROOT / "configs" / "transforms").glob("*.yaml"))


def _moving() -> list[Any]:
    """Every transform of the packaged sets that may move cells, and their group D4, which classifiers name."""
    named = [(path.stem, t) for path in SETS for t in load(TransformSet, path).augment]
    named.append(("more", Transform(name="D4")))
    found = []
    for home, transform in named:
        kind = build([transform], home, metadata=True)[0]
        if isinstance(kind, A.DualTransform):
            told = "-".join(k for k in transform.args if k not in ("p", "fill"))
            found.append(pytest.param(transform, id=f"{home}-{transform.name}-{told}".rstrip("-")))
    return found


MOVING = _moving()


@dataclass(frozen=True, eq=False, repr=False)
class Drawn:
    """A field of cells that do not touch.

    Attributes:
        pixels: uint8 (h, w, 3). levels: grey of each cell. boxes: (n, 4). masks: bool (n, h, w).
    """

    pixels: Image
    levels: list[int]
    boxes: NDArray[np.float32]
    masks: NDArray[np.uint8]

    @property
    def rectangles(self) -> NDArray[np.uint8]:
        """The boxes as masks."""
        out = np.zeros_like(self.masks)
        for mask, (x0, y0, x1, y1) in zip(out, self.boxes.astype(int), strict=True):
            mask[y0:y1, x0:x1] = 1
        return out

    @property
    def numbered(self) -> NDArray[np.uint8]:
        """One mask with the grey level of each cell."""
        out = np.zeros(self.pixels.shape[:2], np.uint8)
        for mask, level in zip(self.masks, self.levels, strict=True):
            out[mask > 0] = level
        return out


@st.composite
def fields(draw: st.DrawFn, first: int = 10, size: tuple[int, int] | None = None) -> Drawn:
    """A field of up to six cells, upright ellipses; the first has the grey level `first`."""
    columns, rows = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    width, height = size or (draw(st.integers(45 * columns, 50 * columns)), draw(st.integers(45 * rows, 50 * rows)))
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    masks, boxes, levels = [], [], []
    for i in range(columns * rows):
        a, b = draw(st.integers(5, 16)), draw(st.integers(5, 16))
        x = width * (2 * (i % columns) + 1) // (2 * columns) + draw(st.integers(-4, 4))
        y = height * (2 * (i // columns) + 1) // (2 * rows) + draw(st.integers(-4, 4))
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, (x, y), (a, b), 0, 0, 360, 1, -1)
        level = first + 3 * i
        pixels[mask > 0] = level
        masks.append(mask)
        boxes.append(bounds(mask > 0))
        levels.append(level)
    return Drawn(pixels, levels, np.array(boxes, np.float32), np.stack(masks))


def bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def made(transform: Transform) -> Any:
    """The transform as it is set, but always, and by the nearest pixel where pixels are resampled."""
    kind = build([transform], "a.yaml", metadata=True)[0]
    sharp = {"interpolation": cv2.INTER_NEAREST} if "interpolation" in inspect.signature(type(kind)).parameters else {}
    if transform.name == "Mosaic":  # as set, on small fields
        sharp |= {"target_size": [120, 130], "cell_shape": [90, 90]}
    return build([Transform(name=transform.name, args=transform.args | sharp | {"p": 1.0})], "a.yaml", metadata=True)[0]


def compose(kind: Any, seed: int) -> Any:
    """As training composes it; each box carries the grey level of its cell."""
    params = A.BboxParams(format="pascal_voc", label_fields=["levels"], min_visibility=0.25, clip=True)
    return A.Compose([kind], bbox_params=params, seed=seed)


def given_as(field: Drawn) -> dict[str, Any]:
    return {"image": field.pixels, "bboxes": field.boxes, "levels": np.array(field.levels)}


def inside(mask: NDArray[np.bool_]) -> bool:
    """Whether a cell lies wholly in the picture."""
    return bool(mask.any()) and not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def check_box(box: NDArray[np.float32], seen: NDArray[np.bool_], loosest: NDArray[np.bool_], slack: float) -> None:
    """The box contains the cell's pixels, and reaches no further than its old box, moved."""
    x0, y0, x1, y1 = bounds(seen)
    assert box[0] <= x0 + slack
    assert box[1] <= y0 + slack
    assert box[2] >= x1 - slack
    assert box[3] >= y1 - slack
    if inside(loosest):
        x0, y0, x1, y1 = bounds(loosest)
        assert box[0] >= x0 - slack
        assert box[1] >= y0 - slack
        assert box[2] <= x1 + slack
        assert box[3] <= y1 + slack


@EXAMPLES
@pytest.mark.parametrize("transform", [t for t in MOVING if t.values[0].name not in WITH_OTHERS | {"CoarseDropout"}])
@given(field=fields(), seed=st.integers(0, 10_000))
def test_boxes_and_masks_follow_the_pixels(transform: Transform, field: Drawn, seed: int) -> None:
    both = [*field.masks, *field.rectangles]
    done = compose(made(transform), seed)(**given_as(field), masks=both)
    picture, levels = done["image"][:, :, 0], [int(v) for v in done["levels"]]
    boxes = np.asarray(done["bboxes"], np.float32).reshape(-1, 4)
    masks = np.stack(done["masks"]).astype(bool)
    assert len(set(levels)) == len(levels)
    for i, level in enumerate(field.levels):
        seen, mask, rectangle = picture == level, masks[i], masks[len(field.levels) + i]
        np.testing.assert_array_equal(mask, seen)  # masks are moved by the nearest pixel too
        if inside(seen):
            assert level in levels
        if level not in levels or not seen.any():
            continue
        box = boxes[levels.index(level)]
        if transform.name in EXACT:
            np.testing.assert_allclose(box, bounds(seen), atol=1e-3)
        else:
            check_box(box, seen, rectangle, slack=1.5)


@EXAMPLES
@pytest.mark.parametrize("transform", [t for t in MOVING if t.values[0].name == "CoarseDropout"])
@given(field=fields(), seed=st.integers(0, 10_000))
def test_masks_and_boxes_end_where_a_hole_begins(transform: Transform, field: Drawn, seed: int) -> None:
    done = compose(made(transform), seed)(**given_as(field), masks=[*field.masks])
    picture = done["image"][:, :, 0]
    for mask, level in zip(done["masks"], field.levels, strict=True):
        np.testing.assert_array_equal(mask > 0, picture == level)
    for box, level in zip(done["bboxes"], done["levels"], strict=True):
        whole = field.boxes[field.levels.index(int(level))]
        assert (box[:2] >= whole[:2] - 1.01).all()  # albumentations cuts fractions off, and may take 17.99 for 17
        assert (box[2:] <= whole[2:] + 1.01).all()
        ys, xs = np.nonzero(picture == level)
        held = (xs >= box[0] - 1) & (xs < box[2] + 1) & (ys >= box[1] - 1) & (ys < box[3] + 1)
        assert held.mean() > 0.85  # and so loses a sliver beyond a hole


def whole(seen: NDArray[np.bool_], level: int, sources: tuple[Drawn, ...]) -> bool:
    """Whether a cell of a mosaic is not cut: as many pixels are seen as its field has at the size of a tile."""
    source = next(s for s in sources if level in s.levels)
    scale = 90 / min(source.pixels.shape[:2])
    return bool(seen.sum() > 0.93 * scale**2 * source.masks[source.levels.index(level)].sum())


@EXAMPLES
@pytest.mark.parametrize("transform", [t for t in MOVING if t.values[0].name == "Mosaic"])
@given(field=fields(), others=st.tuples(fields(60), fields(110), fields(160)), seed=st.integers(0, 10_000))
def test_a_mosaic_keeps_the_cells_of_all_fields(
    transform: Transform, field: Drawn, others: tuple[Drawn, ...], seed: int
) -> None:
    handed = [given_as(o) | {"mask": o.numbered} for o in others]
    chain = compose(made(transform), seed)
    done = chain(**given_as(field), mask=field.numbered, mosaic_metadata=handed)
    picture = done["image"][:, :, 0]
    assert picture.shape == (120, 130)
    np.testing.assert_array_equal(done["mask"], np.where(picture == GROUND, 0, picture))
    assert len(done["bboxes"]) == len(done["levels"])
    for box, level in zip(done["bboxes"], done["levels"], strict=True):
        seen = picture == int(level)
        if seen.any():  # of the box of an ellipse that is cut, the corner that is left may be ground
            check_box(box, seen, seen if whole(seen, int(level), (field, *others)) else ~seen, slack=1.5)
    boxed = {int(v) for v in done["levels"]}
    shown = [int(level) for level in np.unique(done["mask"]) if level]
    assert {level for level in shown if whole(picture == level, level, (field, *others))} <= boxed


@EXAMPLES
@pytest.mark.parametrize("transform", [t for t in MOVING if t.values[0].name == "MixUp"])
@given(data=st.data(), seed=st.integers(0, 10_000), same=st.booleans())
def test_mixup_keeps_the_cells_of_both(transform: Transform, data: st.DataObject, seed: int, same: bool) -> None:
    field = data.draw(fields())
    height, width = field.pixels.shape[:2]
    other = data.draw(fields(110, (width, height) if same else None))
    kind = made(transform)
    handed = [given_as(other) | {"mask": other.numbered, "masks": other.masks}]
    done = compose(kind, seed)(**given_as(field), mask=field.numbered, masks=field.masks, mixup_metadata=handed)
    n, m = len(field.levels), len(other.levels)
    assert [int(v) for v in done["levels"]] == field.levels + other.levels
    boxes, masks = np.asarray(done["bboxes"]), np.asarray(done["masks"])
    np.testing.assert_allclose(boxes[:n], field.boxes, atol=1e-3)
    np.testing.assert_array_equal(masks[:n], field.masks)
    assert len(masks) == n + m
    for box, mask in zip(boxes[n:], masks[n:], strict=True):
        np.testing.assert_allclose(box, bounds(mask > 0), atol=1e-3 if same else 2.5)
    if not same:  # the other is resized, and its edges are blurred
        return
    np.testing.assert_array_equal(masks[n:], other.masks)
    np.testing.assert_array_equal(done["mask"], np.where(field.numbered > 0, field.numbered, other.numbered))
    # The pixels are those of both: where a cell lies over the other's ground, and where both are ground.
    share, over = kind.params["share"], done["image"][:, :, 0].astype(float)
    expected = share * field.pixels[:, :, 0] + (1 - share) * other.pixels[:, :, 0].astype(float)
    assert np.abs(over - expected).max() <= 0.51


def test_a_fault_is_seen() -> None:
    """The checks above do see boxes that stay behind, by as little as two pixels."""

    class Stays(A.HorizontalFlip):  # type: ignore[misc,name-defined]
        def apply_to_bboxes(self, bboxes: Any, **params: Any) -> Any:
            return bboxes

    pixels = np.full((40, 60, 3), GROUND, np.uint8)
    pixels[10:20, 6:26] = 0
    done = compose(Stays(p=1.0), 1)(image=pixels, bboxes=np.array([[6, 10, 26, 20]], np.float32), levels=[0])
    seen = done["image"][:, :, 0] == 0
    with pytest.raises(AssertionError):
        check_box(np.asarray(done["bboxes"][0], np.float32), seen, seen, slack=1.5)
    moved = np.array(bounds(seen), np.float32)
    check_box(moved, seen, seen, slack=1.5)
    for fault in ([2, 0, 2, 0], [0, -2, 0, -2], [-2, -2, 2, 2], [2, 2, -2, -2]):
        with pytest.raises(AssertionError):
            check_box(moved + fault, seen, seen, slack=1.5)
