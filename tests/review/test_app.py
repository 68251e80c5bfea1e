"""FiftyOne's App in a headless Chromium: a saved view, a click on a cell, an edit of its label and its box; pull."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, Browser
from tests.cli.command import SCRIPT, inside

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")]


def text(said: str) -> str:
    """The innermost element that says so, as JavaScript."""
    every = "[...document.querySelectorAll('*')]"
    return f"{every}.filter(e => !e.children.length && e.textContent.trim() === {said!r}).pop()"


@pytest.fixture(scope="module")
def wrong(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The set with one red cell, away from the border, called a white cell; and that cell's id."""
    folder = tmp_path_factory.mktemp("wrong") / "wrong"
    shutil.copytree(source, folder)
    path = folder / "annotations" / "instances_all.json"
    told = json.loads(path.read_text())
    ids = {c["name"]: c["id"] for c in told["categories"]}
    size = {i["id"]: (i["width"], i["height"]) for i in told["images"]}

    def inner(c: dict[str, Any]) -> bool:
        (x, y, w, h), (width, height) = c["bbox"], size[c["image_id"]]
        return bool(x > 2 and y > 2 and x + w < 0.9 * width and y + h < height - 2 and min(w, h) > 8)

    cell = next(c for c in told["annotations"] if c["category_id"] == ids["RBC"] and inner(c))
    cell["category_id"] = ids["WBC"]
    path.write_text(json.dumps(told))
    return folder, cell["id"]


@contextmanager
def served(wrong: tuple[Path, int]) -> Iterator[str]:
    """The App on that set; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(SCRIPT), "review", "open", str(wrong[0]), "--annotator", "eve", "--predictions", "cells-yolov8n"]
    # Tests may run in the background of a shell, whose children ignore Ctrl-C unless it is given back to them.
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 180
    url, said = "", ""
    while not url and time.monotonic() < deadline and process.poll() is None:
        line = process.stdout.readline() if process.stdout else ""
        said += line
        if "the App:" in line:
            url = line.split()[2]
    try:
        assert url, said[-3000:]
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)  # reads on: who writes to a full pipe waits


def edit(app: str, cell: Callable[[], dict[str, Any]], before: dict[str, Any], picture: Path) -> None:
    """Open a saved view, click its cell, and give it an attribute, another label and another place, all in the App."""
    with Browser(1700, 1000) as browser:
        browser.open(app)
        browser.wait(f"!!{text('Unsaved view')}", 180)
        browser.quiet()  # the App takes the state of its server a moment after it is drawn
        browser.js(f"(() => {{const e = {text('Dismiss')}; if (e) e.click()}})()")
        browser.click_on(text("Unsaved view"))
        browser.click_on(text("missed white cells"))
        browser.wait("document.body.innerText.includes('1 patch')")
        canvas = "[...document.querySelectorAll('[data-cy=looker] canvas')][0]"
        browser.wait(f"!!{canvas}")
        time.sleep(2)
        browser.click_on(canvas)
        browser.click_on(text("Annotate"), 120)
        browser.wait("document.body.innerText.includes('Edit Detection')", 120)
        browser.click_on(text("truncated"))
        wait_for(lambda: cell().get("truncated") is True)
        # The label, from the list that our schema gives, and the box, by its number.
        browser.click_on("[...document.querySelectorAll('[role=combobox]')].pop()")
        browser.click_on("[...document.querySelectorAll('[role=option]')].filter(e => e.innerText === 'RBC')[0]")
        wait_for(lambda: cell()["label"] == "RBC")
        moved = before["bounding_box"][0] + 0.05
        browser.click_on("document.querySelectorAll('input[type=number]')[0]")
        browser.keys("a", control=True)
        browser.type(f"{moved:.4f}")
        browser.keys("Tab")
        wait_for(lambda: abs(cell()["bounding_box"][0] - moved) < 1e-3)
        browser.picture(picture)
        assert not [r for r in browser.requests if "voxel51" in r or "google-analytics" in r]


def test_an_edit_in_the_app_comes_back_and_nothing_else(database: str, wrong: tuple[Path, int], tmp_path: Path) -> None:
    import pymongo

    _, identity = wrong
    client: Any = pymongo.MongoClient(os.environ["FIFTYONE_DATABASE_URI"])

    def samples() -> Any:
        dataset = client["fiftyone"]["datasets"].find_one({"name": "wrong-eve"})
        return client["fiftyone"][dataset["sample_collection_name"]]

    def cell() -> dict[str, Any]:
        row = samples().find_one({"ground_truth.detections.cell": str(identity)})
        assert row is not None
        return next(c for c in row["ground_truth"]["detections"] if c.get("cell") == str(identity))

    with served(wrong) as app:
        edit(app, cell, cell(), tmp_path / "app.png")
    after = cell()
    answer = inside("review", "pull", "wrong-eve", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    log = [json.loads(line) for line in (tmp_path / "out" / "changes.jsonl").read_text().splitlines()]
    assert [(c["who"], c["cell"], sorted(c["what"])) for c in log] == [
        ("eve", identity, ["attributes", "box", "label"])
    ]
    told = json.loads((tmp_path / "out" / "annotations" / "all.json").read_text())
    original = json.loads((wrong[0] / "annotations" / "instances_all.json").read_text())
    rows = {c["id"]: c for c in told["annotations"]}
    changed = [c["id"] for c in original["annotations"] if rows[c["id"]] != c]
    assert changed == [identity]
    image = next(i for i in told["images"] if i["id"] == rows[identity]["image_id"])
    box = [round(v * s, 3) for v, s in zip(after["bounding_box"], [image["width"], image["height"]] * 2, strict=True)]
    assert rows[identity]["bbox"] == box
    assert rows[identity]["attributes"]["truncated"] is True
    stem = image["file_name"].replace("/", "__").rsplit(".", 1)[0]
    lines = (tmp_path / "out" / "yolo" / "labels" / "all" / f"{stem}.txt").read_text().splitlines()
    centre = (box[0] + box[2] / 2) / image["width"]
    assert any(line.startswith("1 ") and abs(float(line.split()[1]) - centre) < 1e-4 for line in lines)


def wait_for(true: Any, seconds: float = 30) -> None:
    """Until the App has saved."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the App did not save the edit"
        time.sleep(0.2)
