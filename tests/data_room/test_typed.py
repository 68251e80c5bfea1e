"""Typed cells of cards: which lab they are of, and copies that are looked for once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detect.data import typed
from detect.data.cards import Card
from detect.data.typed import load_typed
from detect.formats.tally import Tally


def card(home: Path, **more: object) -> Card:
    """A set of pictures of one cell each, in three parts, the last a copy of the first."""
    rng = np.random.default_rng(1)
    for part, seed in (("Train", 1), ("TestA", 2), ("TestB", 1)):
        folder = home / "cells" / part / "Neutrophil"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        picture = cv2.resize(rng.integers(0, 255, (12, 12, 3), np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "1.png"), picture)
    told = dict.fromkeys(("title", "licence", "citation", "source", "how_to_get"), "drawn for a test")
    pictures = {"pattern": r"(?P<part>Train|TestA|TestB)/(?P<label>[A-Za-z]+)/[^/]+[.]png", "shows": "cell"}
    pictures |= {"examples": ["Train/Neutrophil/1.png"]}
    told |= {"name": "cells", "folder": "cells", "classes": ["Neutrophil"], "class_map": {"Neutrophil": "Neutrophil"}}
    told |= {"exhaustive_for": [], "grouping": {"key": "near-copies"}, "pictures": pictures, **more}
    return Card.model_validate(told)


def test_a_published_part_is_no_lab_unless_the_card_says_so(tmp_path: Path) -> None:
    given = {"cells": tmp_path / "cells"}
    plain = card(tmp_path)
    assert {c.source for c in load_typed([plain], Tally(), given)} == {"cells"}
    known = plain.model_copy(update={"labs": {"TestB": "another"}})
    assert sorted(c.source for c in load_typed([known], Tally(), given)) == ["cells", "cells", "cells/another"]


def test_copies_are_looked_for_once_for_the_same_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, kept = {"cells": tmp_path / "cells"}, tmp_path / "copies.json"
    same = card(tmp_path)
    found = load_typed([same], Tally(), given, kept=kept)
    groups = {c.id: c.group for c in found}
    assert groups["cells/Train/Neutrophil/1.png"] == groups["cells/TestB/Neutrophil/1.png"]
    assert len(set(groups.values())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(typed.copies, "groups", lambda *_: pytest.fail("looked for again"))
        again = load_typed([same], Tally(), given, kept=kept)
        assert {c.id: c.group for c in again} == groups
    picture = tmp_path / "cells" / "TestB" / "Neutrophil" / "1.png"
    picture.write_bytes((tmp_path / "cells" / "TestA" / "Neutrophil" / "1.png").read_bytes())
    changed = {c.id: c.group for c in load_typed([same], Tally(), given, kept=kept)}
    assert changed["cells/TestA/Neutrophil/1.png"] == changed["cells/TestB/Neutrophil/1.png"]
