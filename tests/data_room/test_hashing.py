"""Hashes: turned, mirrored, resized and recompressed copies are near, strangers are far."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detect.data import hashing
from detect.data.hashing import MAX_DIFFERENCE
from detect.data.joined import Groups
from detect.images import decode
from tests import data

PICTURES = [data.smear(320, 240, seed) for seed in range(12)]
HASHES = [hashing.packed(picture) for picture in PICTURES]


def differences(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """All pairs, (n, n)."""
    n = len(hashes)
    pairs = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2)
    return hashing.differences(np.stack(hashes), pairs).reshape(n, n)


def groups(hashes: Sequence[np.ndarray], limit: int = MAX_DIFFERENCE) -> list[int]:
    near = np.argwhere(np.triu(differences(hashes) <= limit, 1)) if hashes else []
    return Groups(len(hashes), ((int(a), int(b)) for a, b in near)).numbers()


def recompressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    done, content = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.ascontiguousarray(cv2.imdecode(content, cv2.IMREAD_COLOR)[:, :, ::-1])


CHANGES = {
    **{f"turned {i}": (lambda p, i=i: np.rot90(p if i < 4 else p[:, ::-1], i % 4)) for i in range(8)},
    "half size": lambda p: cv2.resize(p, (160, 120), interpolation=cv2.INTER_AREA),
    "double size": lambda p: cv2.resize(p, (640, 480), interpolation=cv2.INTER_CUBIC),
    "another aspect": lambda p: cv2.resize(p, (416, 416)),
    "brighter": lambda p: np.clip(p.astype(int) + 12, 0, 255).astype(np.uint8),
    "less contrast": lambda p: (p * 0.7 + 40).astype(np.uint8),
    "recoloured": lambda p: np.clip(p * [0.95, 1.05, 0.9], 0, 255).astype(np.uint8),
    "quality 30": lambda p: recompressed(p, 30),
    "blurred": lambda p: cv2.GaussianBlur(p, (5, 5), 0),
    "turned, half size, quality 50": lambda p: recompressed(cv2.resize(np.rot90(p), (120, 160)), 50),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_among_strangers(change: str) -> None:
    changed = np.ascontiguousarray(CHANGES[change](PICTURES[5]))
    found = groups([*HASHES, hashing.packed(changed)])
    assert found == [*range(len(HASHES)), 5]


def test_strangers_are_far_apart() -> None:
    apart = differences(HASHES)[np.triu_indices(len(HASHES), 1)]
    assert apart.min() > MAX_DIFFERENCE


def test_real_fields_of_one_set_are_told_apart_and_their_copies_found(shared_data: Path) -> None:
    paths = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[::40]
    pictures = [decode.read(path) for path in paths]
    turned = [np.ascontiguousarray(np.rot90(p, i % 4)[:, ::-1]) for i, p in enumerate(pictures)]
    found = groups([hashing.packed(p) for p in (*pictures, *turned)])
    assert found == [*range(len(pictures))] * 2


@given(st.permutations(range(len(HASHES))))
def test_a_hash_has_no_difference_to_itself(order: list[int]) -> None:
    apart = differences([HASHES[i] for i in order])
    assert (np.diag(apart) == 0).all()
    assert ((apart >= 0) & (apart <= 256)).all()


def test_differences_do_not_depend_on_which_is_first() -> None:
    # Else a copy near the limit is found or missed by the order of the file names.
    apart = differences(HASHES)
    np.testing.assert_array_equal(apart, apart.T)


def synthetic(steps: list[int]) -> list[np.ndarray]:
    """Hashes on a line, each `steps[i]` signs from the one before; turned ones are far from all."""
    rng = np.random.default_rng(0)
    base = rng.choice([-1, 1], 256).astype(np.float32)
    out = []
    at = 0
    for step in [0, *steps]:
        at += step
        upright = base.copy()
        upright[:at] *= -1
        # Balanced signs that alternate against every upright one, so that no turn is nearer.
        turned = np.tile(upright * np.where(np.arange(256) % 2, 1, -1), (7, 1))
        out.append(np.packbits(np.vstack([upright, turned]) > 0, axis=1))
    return out


def test_the_difference_counts_signs() -> None:
    apart = differences(synthetic([10, 20]))
    assert apart[0].tolist() == [0, 10, 30]


def test_copies_of_copies_share_a_group() -> None:
    hashes = synthetic([60, 60, 60])
    assert differences(hashes)[0, 3] > MAX_DIFFERENCE
    for order in permutations(range(4)):
        assert groups([hashes[i] for i in order]) == [0, 0, 0, 0]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(0, 80))
def test_groups_are_the_connected_ones(steps: list[int], limit: int) -> None:
    hashes = synthetic(steps)
    near = differences(hashes) <= limit
    reach = near | near.T
    for _ in hashes:
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    found = groups(hashes, limit)
    for i in range(len(hashes)):
        assert found[i] == int(np.flatnonzero(reach[i]).min())  # numbered by the first position


def test_few_pictures() -> None:
    assert groups([]) == []
    assert groups(HASHES[:1]) == [0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 3), (64, 64)])
def test_any_size_has_a_hash(shape: tuple[int, int]) -> None:
    hashed = hashing.packed(np.full((*shape, 3), 200, np.uint8))
    assert hashed.shape == (8, hashing.SIDE**2 // 8)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_descriptor_is_the_same_in_every_orientation(turns: int, mirrored: bool) -> None:
    square = cv2.resize(PICTURES[7], (256, 256), interpolation=cv2.INTER_AREA)
    turned = np.ascontiguousarray(np.rot90(square[:, ::-1] if mirrored else square, turns))
    np.testing.assert_allclose(hashing.descriptor(turned), hashing.descriptor(square), atol=1e-3)


def test_buckets_miss_nothing_that_all_pairs_show() -> None:
    pictures = [data.smear(160, 120, seed) for seed in range(120)]
    pictures += [np.ascontiguousarray(np.rot90(CHANGES["quality 30"](p), i % 4)) for i, p in enumerate(pictures[:60])]
    hashes = np.stack([hashing.packed(p) for p in pictures])
    descriptors = np.stack([hashing.descriptor(p) for p in pictures])
    everything = hashing.candidates(descriptors)
    assert len(everything) == 180 * 179 // 2
    near = everything[hashing.differences(hashes, everything) <= MAX_DIFFERENCE]
    assert len(near) >= 60
    met = {tuple(pair) for pair in hashing.candidates(descriptors, every_pair_to=0).tolist()}
    assert len(met) < len(everything)
    assert [tuple(p) for p in near.tolist() if tuple(p) not in met] == []
