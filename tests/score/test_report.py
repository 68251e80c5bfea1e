"""The report: one file, no network, nothing hidden."""

from __future__ import annotations

import base64
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from detect.images import decode
from tests.cli.command import Answer, inside

Table = Callable[[Path, str], list[dict[str, Any]]]
Scored = tuple[Path, Answer]
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """Tags with their attributes, and tables by rows of text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def text_of(out: Path) -> str:
    """The report of a run."""
    return (out / "report" / "index.html").read_text("utf-8")


def test_nothing_is_loaded_from_a_network(scored: Scored) -> None:
    text = text_of(scored[0])
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base"), tag
        for name in LOADS & set(attributes):
            value = attributes[name] or ""
            assert value.startswith(("#", "data:image/jpeg;base64,")), f"{tag} {name}={value[:60]}"
    assert not re.search(r"@import|url\(", text)
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", text)


def test_it_says_what_it_is_not(scored: Scored) -> None:
    assert text_of(scored[0]).count("not a diagnosis") >= 2


def test_it_says_what_the_models_cannot_see(scored: Scored) -> None:
    text = text_of(scored[0])
    assert "What these models cannot see:" in text
    assert "Blast" in text
    assert "fewer than 100" in text


def test_the_tables_are_the_differential(scored: Scored, table: Table) -> None:
    rows = Page(text_of(scored[0])).rows
    cells = table(scored[0], "cells")
    for name, n in Counter(c["type"] for c in cells if c["type"]).items():
        shown = [int(r[1]) for r in rows if r[0] == name and r[1].isdigit()]
        assert len(shown) == 3
        assert sum(shown) == n
    red = [int(r[1]) for r in rows if r[0] == "RBC" and r[1].isdigit()]
    assert sum(red) == sum(c["label"] == "RBC" for c in cells)


def test_its_pictures_can_be_opened_and_each_white_cell_is_shown(scored: Scored, table: Table) -> None:
    pictures = [a["src"] or "" for tag, a in Page(text_of(scored[0])).tags if tag == "img"]
    white = sum(c["label"] == "WBC" for c in table(scored[0], "cells"))
    sizes = [decode.decode(base64.b64decode(p.split(",", 1)[1])).shape for p in pictures]
    crops = [s for s in sizes if s[:2] == (104, 104)]
    overlays = [s for s in sizes if max(s) == 900]
    assert len(crops) == white
    assert len(overlays) == 6
    assert len(crops) + len(overlays) == len(sizes)


def test_the_models_and_their_limits_are_on_it(scored: Scored) -> None:
    from detect.bundles.folder import open_bundle

    text = text_of(scored[0])
    for name in ("cells-robust", "wbc-types"):
        bundle = open_bundle(name)
        assert bundle.hash in text
        assert bundle.card.training.split in text


def test_names_cannot_break_the_page(slides: Path, tmp_path: Path) -> None:
    odd = tmp_path / "in" / "<script>alert(1)<" / "&amp;"
    odd.mkdir(parents=True)
    shutil.copy(slides / "slide-a" / "field-01.jpg", odd / '"><b>x.jpg')
    (odd / "<i>.png").write_bytes(b"")
    assert inside("score", tmp_path / "in", "--out", tmp_path / "out").code == 3
    page = Page(text_of(tmp_path / "out"))
    assert all(tag != "script" and (tag != "i" or attributes) for tag, attributes in page.tags)
    alts = [attributes.get("alt") or "" for tag, attributes in page.tags if tag == "img"]
    assert alts
    assert all('<script>alert(1)</&amp;/"><b>x.jpg' in alt for alt in alts)
    failed = [r for r in page.rows if r and r[0] == "<script>alert(1)</&amp;/<i>.png"]
    assert len(failed) == 1


@pytest.mark.long
def test_many_slides_have_a_page_each(slides: Path, tmp_path: Path) -> None:
    """Nine slides: the first page lists them, and leads to a page for each that leads on and back."""
    home = tmp_path / "in"
    for number in range(9):
        shutil.copytree(slides / f"slide-{'abc'[number % 3]}", home / f"s{number}")
    (home / "s4" / "bad.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert inside("score", home, "--out", out).code == 3
    pages = sorted((out / "report" / "slides").iterdir())
    assert [p.name for p in pages] == [f"{n:05d}.html" for n in range(9)]
    first = text_of(out)
    assert "<img" not in first
    assert [f'href="slides/{p.name}"' in first for p in pages] == [True] * 9
    fourth = pages[4].read_text("utf-8")
    assert '<h2 id="s1">s4</h2>' in fourth
    assert "00003.html" in fourth
    assert "00005.html" in fourth
    assert "<img" in fourth
    assert "bad.jpg" in fourth
    assert "bad.jpg" in first
    assert all("http" not in p.read_text("utf-8") for p in pages)
    for number in range(3, 9):
        shutil.rmtree(home / f"s{number}")
    assert inside("score", home, "--out", out, "--overwrite").code == 0
    assert not (out / "report" / "slides").exists()
    assert "<img" in text_of(out)
