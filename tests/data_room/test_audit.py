"""The audit finds planted copies and no strangers, and misses nothing that comparing all pairs finds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detect.data import audit, copies
from detect.data.audit import Item
from detect.data.audit_report import items_of, write
from detect.data.copies import Pair
from detect.data.folds import holdout, kfold, leave_one_out, read_groups, units
from detect.data.sources import merge, read
from detect.errors import DataError, SplitLeakError, StoreError
from detect.formats.tally import Tally
from tests.cli.command import inside
from tests.drawn import field

ORIGINALS = 40


def _write(path: Path, pixels: NDArray[np.uint8], quality: int = 92) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    path.write_bytes(data.tobytes())
    return path


def _copies_of(pixels: NDArray[np.uint8]) -> dict[str, tuple[NDArray[np.uint8], int]]:
    half = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + 8) % 180
    return {
        "turned": (np.ascontiguousarray(np.rot90(pixels)), 92),
        "mirrored": (np.ascontiguousarray(pixels[:, ::-1]), 92),
        "half": (half, 92),
        "jpeg40": (pixels, 40),
        "brighter": (np.clip(pixels.astype(int) + 25, 0, 255).astype(np.uint8), 92),
        "recoloured": (cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 92),
    }


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Item], dict[str, int]]:
    """Forty drawn fields, each with one copy of a kind in turn; items and the original of each by id."""
    home = tmp_path_factory.mktemp("planted")
    items: list[Item] = []
    original: dict[str, int] = {}
    for i in range(ORIGINALS):
        pixels, _ = field(1000 + i, ["Neutrophil", "Lymphocyte"][: 1 + i % 2])
        kinds = list(_copies_of(pixels).items())
        name, (copy, quality) = kinds[i % len(kinds)]
        for part, title, picture, q in (("train", f"{i}.jpg", pixels, 92), ("val", f"{i}-{name}.jpg", copy, quality)):
            items.append(Item(title, _write(home / part / title, picture, q), "drawn", part))
            original[title] = i
    return items, original


def test_planted_copies_are_found_and_strangers_are_not(planted: tuple[list[Item], dict[str, int]]) -> None:
    items, original = planted
    seen = audit.look(items)
    found = copies.find(seen.traces)
    true = [p for p in found if original[seen.items[p.a].id] == original[seen.items[p.b].id]]
    assert len({original[seen.items[p.a].id] for p in true}) >= 0.95 * ORIGINALS
    assert len(found) - len(true) <= 0.01 * len(found)


def test_the_same_file_and_an_unreadable_one(tmp_path: Path) -> None:
    pixels, _ = field(3, ["Lymphocyte"])
    first = _write(tmp_path / "a.jpg", pixels)
    (tmp_path / "b.jpg").write_bytes(first.read_bytes())
    (tmp_path / "c.jpg").write_bytes(b"no image")
    seen = audit.look([Item(n, tmp_path / n, "s", "all") for n in ("a.jpg", "b.jpg", "c.jpg", "gone.jpg")])
    assert [i.id for i, _ in seen.unreadable] == ["c.jpg", "gone.jpg"]
    assert copies.find(seen.traces) == [Pair(0, 1, -1)]
    assert copies.numbers(2, copies.find(seen.traces)) == [0, 0]
    assert audit.independent(seen, [0, 0])["all"] == {"pictures": 2, "independent": 1}


def test_no_pictures_and_one_picture_have_no_pairs(tmp_path: Path) -> None:
    assert copies.find(audit.look([]).traces) == []
    path = _write(tmp_path / "a.jpg", field(3, ["Lymphocyte"])[0])
    assert copies.find(audit.look([Item("a.jpg", path, "s", "all")]).traces) == []


def _folders(home: Path) -> Path:
    for i in range(8):
        pixels, _ = field(50 + i, ["Neutrophil"])
        _write(home / ("A" if i % 2 else "B") / f"{i}.jpg", pixels)
    _write(home / "A" / "0-again.jpg", np.ascontiguousarray(field(50, ["Neutrophil"])[0][:, ::-1]))
    return home


def test_command_writes_page_json_and_groups_that_split_takes(tmp_path: Path) -> None:
    home, out = _folders(tmp_path / "cells"), tmp_path / "audit"
    answer = inside("data", "audit", home, "--out", out)
    assert answer.code == 0, answer.err
    said = json.loads((out / "audit.json").read_text("utf-8"))
    assert said["independent"]["all"] == {"pictures": 9, "independent": 8}
    assert said["two_labels"] == 1
    page = (out / "index.html").read_text("utf-8")
    assert page.count("<figure>") == 2
    assert 'src="http' not in page
    with (out / "groups.csv").open(encoding="utf-8") as file:
        groups = {row["field"]: row["group"] for row in csv.DictReader(file)}
    assert groups["A/0-again.jpg"] == groups["B/0.jpg"]
    answer = inside("data", "split", home, "--out", tmp_path / "s.csv", "--groups", out / "groups.csv", "--folds", "3")
    assert answer.code == 0, answer.err
    parts = {r["field"]: r["part"] for r in csv.DictReader((tmp_path / "s.csv").read_text("utf-8").splitlines())}
    assert parts["A/0-again.jpg"] == parts["B/0.jpg"]
    assert set(parts.values()) == {"fold0", "fold1", "fold2"}


def test_report_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    parts = read(_folders(tmp_path / "cells"), Tally())
    seen = audit.look(items_of("cells", parts))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep", "utf-8")
    with pytest.raises(StoreError, match="not empty"):
        write({"cells": parts}, seen, [], tmp_path / "out", 60)
    assert (tmp_path / "out" / "mine.txt").read_text("utf-8") == "keep"


def test_splits_from_scratch_keep_groups_whole_and_fractions_near(tmp_path: Path) -> None:
    parts = read(_folders(tmp_path / "cells"), Tally())
    members = units(merge(parts), "near-copies")
    made = holdout("h", members, 0.25, 0.25, 1)
    assert made.leaks == []
    assert sum(n for n, _ in made.counts().values()) == 9
    assert set(made.counts()) == {"train", "dev", "test"}
    assert kfold("k", members, 3, 1) == kfold("k", members, 3, 1)
    assert kfold("k", members, 3, 1).leaks == []
    with pytest.raises(DataError, match="cannot make"):
        kfold("k", members, 20, 1)
    with pytest.raises(DataError, match="no patient is known"):
        units(merge(parts), "patient")
    by_hand = [audit_unit for audit_unit in members if audit_unit.stratum == "A"]
    assert {u.group for u in by_hand}


def test_leave_one_out_refuses_copies_across_sources(tmp_path: Path) -> None:
    from dataclasses import replace

    members = units(merge(read(_folders(tmp_path / "cells"), Tally())), "near-copies")
    sources = [replace(m, source=m.id.split("/")[0]) for m in members]
    with pytest.raises(SplitLeakError):
        leave_one_out("l", sources)
    clean = [m for m in sources if m.id != "A/0-again.jpg"]
    assert {p: n for p, (n, _) in leave_one_out("l", clean).counts().items()} == {"A": 4, "B": 4}


def test_groups_of_another_set_are_refused(tmp_path: Path) -> None:
    dataset = merge(read(_folders(tmp_path / "cells"), Tally()))
    (tmp_path / "g.csv").write_text("set,field,group\ncells,other.jpg,x\n", "utf-8")
    with pytest.raises(DataError, match="no group for"):
        read_groups(tmp_path / "g.csv", dataset)
    (tmp_path / "h.csv").write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(DataError, match="expected columns"):
        read_groups(tmp_path / "h.csv", dataset)


@pytest.mark.long
def test_txl_pbc_has_copies_across_its_published_parts(shared_data: Path) -> None:
    seen = audit.look(items_of("txl-pbc", read("txl-pbc", Tally())))
    found = copies.find(seen.traces)
    assert len(seen.items) == 1296
    assert audit.crossings(seen, copies.numbers(len(seen.items), found))["txl-pbc/train", "txl-pbc/val"] >= 50
