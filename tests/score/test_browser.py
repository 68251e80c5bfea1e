"""The report in a real browser, from disk."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Answer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def dom(page: str, profile: Path) -> str:
    """The page as the browser understood it."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_browser_shows_the_differential(
    scored: tuple[Path, Answer], table: Callable[[Path, str], list[dict[str, Any]]], tmp_path: Path
) -> None:
    out, _ = scored
    text = dom((out / "report" / "index.html").resolve().as_uri(), tmp_path / "profile")
    kinds = {c["slide"]: Counter() for c in table(out, "cells")}
    for c in table(out, "cells"):
        if c["type"]:
            kinds[c["slide"]][c["type"]] += 1
    for slide, counts in kinds.items():
        start = text.index(f">{slide}</h2>")
        section = text[start : text.find("<h2", start + 1)]
        for name, n in counts.items():
            assert re.search(rf"<tr><td>{name}</td><td>{n}</td>\s*<td>\d+\.\d</td>", section), (slide, name)
    assert "ot a diagnosis" in text
    assert text.count("<img ") > 6


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_every_picture_is_drawn(scored: tuple[Path, Answer], tmp_path: Path) -> None:
    page = (scored[0] / "report" / "index.html").read_text("utf-8")
    probe = (
        "<script>addEventListener('load', () => { const i = [...document.images]; document.body.dataset.drawn ="
        " i.filter(x => x.complete && x.naturalWidth > 0).length + ' of ' + i.length })</script></body>"
    )
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe), "utf-8")
    text = dom((tmp_path / "probe.html").resolve().as_uri(), tmp_path / "profile")
    found = re.search(r'data-drawn="(\d+) of (\d+)"', text)
    assert found is not None
    assert found[1] == found[2]
    assert int(found[1]) == page.count("<img ")
