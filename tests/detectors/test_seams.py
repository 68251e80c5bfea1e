"""A large field found tile by tile: every cell once, wherever a seam runs. The graph sees drawn discs exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as rle

from detect.bundles.card import Card, DetectorGraph
from detect.bundles.folder import Bundle
from detect.detectors import seams
from detect.detectors.bundled import BundleDetector
from detect.formats.masks import encode_at
from detect.images.magnification import Scale
from detect.images.tiles import Tile, plan
from detect.types import ClassMap, Detections, Image

NAMES = ("WBC", "RBC")
SCALE = Scale(20, 20, how="given")  # as in the card below: nothing is resized
RED, BLUE = (255, 0, 0), (0, 0, 255)
TILE, OVERLAP = 128, 60  # three red cells, see `bundled`


def discs(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
    """A graph that finds each blue and each red region of its input exactly."""
    rows = []
    for picture in batch:
        found = []
        for label, colour in enumerate((BLUE, RED)):
            inside = (picture == colour).all(axis=2).astype(np.uint8)
            n, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
            found += [(label, *stats[k, :4], stats[k, 4]) for k in range(1, n)]
        rows.append(found)
    most = max(1, *(len(r) for r in rows))
    boxes = np.zeros((len(batch), most, 4), np.float32)
    scores = np.zeros((len(batch), most, len(NAMES)), np.float32)
    for i, found in enumerate(rows):
        for j, (label, x, y, w, h, area) in enumerate(found):
            boxes[i, j] = x, y, x + w, y + h
            scores[i, j, label] = 0.5 + 0.5 * area / (area + 1000)  # a piece scores less than its cell
    return boxes, scores


def detector(
    graph: Callable[..., tuple[NDArray[np.float32], ...]] = discs, overlap: float | None = None, **more: object
) -> BundleDetector:
    section = DetectorGraph(
        image_size=TILE,
        red_cell_px=20,
        thresholds=dict.fromkeys(NAMES, 0.1),
        threshold_choice="",
        nms_iou=0.7,
        max_detections=1000,
        **more,
    )
    card = Card(
        name="discs", task="detector", title="", licence="", intended_use="", classes=NAMES, architecture={},
        detector=section,
    )  # fmt: skip
    return BundleDetector(Bundle(card, Path(), ""), tile=TILE, overlap=overlap, graph=graph)


def draw(width: int, height: int, cells: list[tuple[int, int, int, tuple[int, int, int]]]) -> Image:
    """A white field with discs (x, y, radius, colour); one that would touch another is left out."""
    out = np.full((height, width, 3), 255, np.uint8)
    taken = np.zeros((height, width), np.uint8)
    for x, y, radius, colour in cells:
        here = np.zeros_like(taken)
        cv2.circle(here, (x, y), radius + 2, 1, -1)
        if not (here & taken).any():
            taken |= here
            cv2.circle(out, (x, y), radius, colour, -1)
    return out


def truth(pixels: Image) -> set[tuple[int, ...]]:
    boxes, scores = discs(pixels[None])
    real = scores[0].max(1) > 0
    labels = scores[0][real].argmax(1)
    return {(int(k), *map(int, b)) for k, b in zip(labels, boxes[0][real], strict=True)}


def told(found: Detections) -> list[tuple[int, ...]]:
    return [(int(k), *map(round, map(float, b))) for k, b in zip(found.labels, found.boxes, strict=True)]


def seam_lines(size: int) -> list[int]:
    tiles = plan(size, 1, (TILE, TILE), (OVERLAP, OVERLAP))
    return sorted({t.x0 for t in tiles} | {t.x1 for t in tiles})


@pytest.mark.parametrize("radius", [6, 10, 20, 28])
def test_a_cell_on_every_seam_is_there_once(radius: int) -> None:
    width, height = 400, 330
    model = detector()
    across, down = seam_lines(width), seam_lines(height)
    assert len(across) >= 8
    for off in (-radius, -radius + 1, -2, -1, 0, 1, 2, radius - 1, radius):
        spots = [(x + off, y + off) for x in across for y in down]
        # One at a time would take long: every third, so that none touch.
        for start in range(9):
            pixels = draw(width, height, [(x, y, radius, BLUE if k % 2 else RED) for k, (x, y) in enumerate(spots)
                                          if k % 9 == start])  # fmt: skip
            got = told(model.predict([pixels], [SCALE])[0])
            assert sorted(got) == sorted(truth(pixels))


@pytest.mark.parametrize("overlap", [None, 24.0])
def test_tiles_share_as_much_as_is_asked(overlap: float | None) -> None:
    seen: list[int] = []

    def counted(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        seen.append(len(batch))
        return discs(batch)

    shared = overlap or OVERLAP
    pixels = draw(400, 330, [(60, 70, 10, BLUE), (105, 100, 10, RED), (260, 215, 10, RED)])  # the second lies on a seam
    got = told(detector(counted, overlap).predict([pixels], [SCALE])[0])
    assert sum(seen) == len(plan(400, 330, (TILE, TILE), (shared, shared)))
    assert sorted(got) == sorted(truth(pixels))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(130, 420), st.integers(100, 420))
def test_random_fields_are_as_if_never_cut(seed: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    cells = [
        (
            int(rng.integers(width)),
            int(rng.integers(height)),
            int(rng.integers(3, 29)),
            (RED, BLUE)[int(rng.integers(2))],
        )
        for _ in range(60)
    ]
    pixels = draw(width, height, cells)
    got = told(detector().predict([pixels], [SCALE])[0])
    assert sorted(got) == sorted(truth(pixels))


@pytest.mark.parametrize("radius", [35, 50, 70])
def test_a_cell_larger_than_the_overlap_is_put_together(radius: int) -> None:
    for x, y in ((200, 160), (190, 150), (128, 128), (165, 199)):
        pixels = draw(400, 330, [(x, y, radius, BLUE)])
        assert told(detector().predict([pixels], [SCALE])[0]) == list(truth(pixels))


def test_results_do_not_depend_on_company_or_order() -> None:
    rng = np.random.default_rng(5)
    fields = [
        draw(w, h, [(int(rng.integers(w)), int(rng.integers(h)), 10, RED) for _ in range(40)])
        for w, h in ((400, 300), (90, 70), (400, 300), (128, 128), (200, 500))
    ]
    model = detector()
    alone = [told(model.predict([f], [SCALE])[0]) for f in fields]
    together = model.predict(fields[::-1], [SCALE] * len(fields))[::-1]
    assert [told(f) for f in together] == alone
    one_by_one = detector(one_by_one=True).predict(fields, [SCALE] * len(fields))
    assert [told(f) for f in one_by_one] == alone


def test_scale_and_squeeze_are_undone() -> None:
    cells = [(60 + 70 * i, 60 + 70 * j, 20, RED) for i in range(5) for j in range(4)]
    pixels = draw(400, 330, cells)
    wide = cv2.resize(pixels, (800, 330), interpolation=cv2.INTER_NEAREST)
    found = detector().predict([wide], [Scale(40, 20, how="given")])[0]
    squeezed = found.boxes / np.array([2, 1, 2, 1])
    assert len(found) == 20
    want = np.array(sorted(b for _, *b in truth(pixels)))
    assert np.abs(np.array(sorted(squeezed.tolist())) - want).max() <= 1.5


def test_masks_of_pieces_become_one() -> None:
    whole = np.zeros((100, 200), bool)
    whole[20:60, 10:190] = True
    tiles = (Tile(0, 0, 110, 100, (False, False, True, False)), Tile(90, 0, 200, 100, (True, False, False, False)))
    pieces = []
    for t in tiles:
        inside = whole[:, t.x0 : t.x1]
        ys, xs = np.nonzero(inside)
        box = [[xs.min() + t.x0, ys.min(), xs.max() + 1 + t.x0, ys.max() + 1]]
        mask = encode_at(inside, t.x0, 0, 200, 100)
        pieces.append(Detections(np.array(box, np.float32), np.array([0.9]), np.array([0]), ClassMap(NAMES), (mask,)))
    found = seams.join(tiles, pieces, (1, 1))
    assert found.boxes.tolist() == [[10, 20, 190, 60]]
    assert found.masks is not None
    assert (rle.decode(dict(found.masks[0])) == whole).all()


def test_the_cap_of_any_tile_is_told() -> None:
    pixels = draw(400, 330, [(20 + 30 * i, 20 + 30 * j, 10, RED) for i in range(12) for j in range(10)])
    assert not detector().predict([pixels], [SCALE])[0].capped
    few = detector()
    few._most = 5
    assert few.predict([pixels], [SCALE])[0].capped


@settings(max_examples=150, deadline=None)
@given(st.floats(4, 60), st.integers(100, 700), st.integers(60, 700))
def test_networks_of_one_square_shape_take_every_scale(diameter: float, width: int, height: int) -> None:
    """The tiles of such a network must fit into its input, whatever the scale rounds to."""
    shapes = []

    def graph(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        shapes.append(batch.shape[1:3])
        return np.zeros((len(batch), 1, 4), np.float32), np.zeros((len(batch), 1, 2), np.float32)

    field = np.zeros((height, width, 3), np.uint8)
    detector(graph, square=True).predict([field], [Scale(diameter, diameter, how="given")])
    assert set(shapes) == {(TILE, TILE)}


def test_an_absurd_scale_ends_in_bounded_work() -> None:
    pixels = np.zeros((500, 500, 3), np.uint8)
    calls = []

    def graph(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        calls.append(len(batch))
        return np.zeros((len(batch), 1, 4), np.float32), np.zeros((len(batch), 1, 2), np.float32)

    detector(graph).predict([pixels], [Scale(0.01, 0.01, how="mpp")])
    assert sum(calls) < (500 * 8 / (TILE - OVERLAP)) ** 2 + 200
    detector(graph).predict([pixels], [Scale(1e6, 1e6, how="mpp")])
