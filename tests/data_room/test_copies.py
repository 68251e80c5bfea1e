"""Groups of copies: by file, by hash and by key points, and an audit that can leave out the last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detect.data import copies
from detect.errors import ImageError
from tests import data
from tests.data_room.test_overlap import turned


def _write(folder: Path, pictures: dict[str, np.ndarray]) -> list[Path]:
    for name, pixels in pictures.items():
        (folder / name).write_bytes(data.encode(pixels, "PNG"))
    return [folder / name for name in pictures]


def test_every_kind_of_copy_joins_its_original(tmp_path: Path) -> None:
    one, two, three, stranger = (data.smear(320, 240, seed) for seed in range(4))
    again = {"a.png": one, "b.png": np.ascontiguousarray(two[:, ::-1]), "c.png": turned(three, 33)}
    originals = {"one.png": one, "two.png": two, "three.png": three, "stranger.png": stranger}
    paths = _write(tmp_path, {**originals, **again})
    assert copies.groups(paths) == [0, 1, 2, 3, 0, 1, 2]
    traces = [copies.trace(p, data.smear(320, 240, 0)) for p in paths[:1]]
    assert copies.find(traces) == []
    assert copies.groups([]) == []


def test_a_pair_says_how_it_was_found(tmp_path: Path) -> None:
    one, two = data.smear(320, 240, 0), data.smear(320, 240, 1)
    pictures = {
        "a.png": one,
        "b.png": one,
        "c.png": np.ascontiguousarray(one[::-1]),
        "d.png": two,
        "e.png": turned(two, 20),
    }
    paths = _write(tmp_path, pictures)
    traces = [copies.trace(path, pixels) for path, pixels in zip(paths, pictures.values(), strict=True)]
    exact, mirrored, points = copies.find(traces)
    assert (exact.a, exact.b, str(exact)) == (0, 1, "the same file")
    assert (mirrored.a, mirrored.b) == (0, 2)  # and so 1 with 2, which is not compared again
    assert mirrored.difference is not None
    assert str(mirrored).endswith("of 256 signs differ")
    assert (points.a, points.b, points.difference) == (3, 4, None)
    assert "key points fit" in str(points)
    whole = [copies.trace(path, pixels, parts=False) for path, pixels in zip(paths, pictures.values(), strict=True)]
    assert [(p.a, p.b) for p in copies.find(whole)] == [(0, 1), (0, 2), (1, 2)]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    paths = _write(tmp_path, {"a.png": data.smear(320, 240, 0)})
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image") as caught:
        copies.groups([*paths, tmp_path / "b.png"])
    assert str(tmp_path / "b.png") in str(caught.value)
