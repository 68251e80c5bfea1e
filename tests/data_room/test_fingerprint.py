"""What counts as the code behind a figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from detect.data import fingerprint as room
from detect.data.fingerprint import READERS, code_fingerprint


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`detect.a` imports `detect.formats.b`, which imports `detect.c`; `detect.a` imports `detect.d`."""
    (tmp_path / "detect" / "formats").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a": "from detect import d\nfrom detect.formats import b\n",
        "c": "C = 1\n",
        "d": "D = 1\n",
        "formats/__init__": "",
        "formats/b": "from detect import c\n",
    }.items():
        (tmp_path / "detect" / f"{name}.py").write_text(text, "utf-8")
    monkeypatch.setattr(room, "_HOME", tmp_path)
    return tmp_path / "detect"


@pytest.mark.parametrize(
    ("changed", "leave", "same"),
    [
        ("formats/b", (), False),
        ("formats/b", ("detect.formats.*",), True),
        ("formats/__init__", ("detect.formats.*",), True),
        ("formats/__init__", ("detect.formats.b",), False),
        ("c", ("detect.formats.*",), True),  # what only they import
        ("d", ("detect.formats.*",), False),
        ("a", ("detect.formats.*",), False),
    ],
)
def test_what_is_left_out_does_not_count(house: Path, changed: str, leave: tuple[str, ...], same: bool) -> None:
    before = code_fingerprint(["detect.a"], leave=leave)
    with (house / f"{changed}.py").open("a", encoding="utf-8") as file:
        file.write("NEW = 2\n")
    assert (code_fingerprint(["detect.a"], leave=leave) == before) == same


def test_words_about_the_code_do_not_count(house: Path) -> None:
    before = code_fingerprint(["detect.a"])
    text = (house / "d.py").read_text("utf-8")
    (house / "d.py").write_text(f'"""What it is."""\n# A remark.\n{text}', "utf-8")
    assert code_fingerprint(["detect.a"]) == before


def test_readers_are_modules_of_ours() -> None:
    for name in READERS:
        assert len(room._named(name)) >= 1
        assert all(room._module(n) is not None for n in room._named(name)), name
