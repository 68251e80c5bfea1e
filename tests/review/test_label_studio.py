"""A job sent to a real Label Studio server, edited there through its API, and fetched.

Runs where the program `label-studio` is on the PATH (or named by `LABEL_STUDIO`) and `label_studio_sdk`, which FiftyOne
speaks to it with, is installed. Neither is among our extras: the server brings an application of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import inside
from tests.review.test_round_trip import changes_of, coco_of, library, opened, pulled  # noqa: F401  a fixture

pytestmark = pytest.mark.long
PROGRAM = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
PATIENCE = 120  # seconds for it to start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, for FiftyOne too."""
    if PROGRAM is None or find_spec("label_studio_sdk") is None:
        pytest.skip("label-studio and label-studio-sdk are not installed")
    from detect.review.database import _free_port

    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    home = tmp_path_factory.mktemp("label-studio")
    told = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(home),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
    }
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | told
    who = ["--username", "tests@localhost.invalid", "--password", "of-the-tests", "--user-token", TOKEN]
    where = ["--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "start", *where, *who], env=env, stdout=log, stderr=log, start_new_session=True
        )
    import fiftyone as fo

    settings = fo.annotation_config.backends["labelstudio"]  # what FiftyOne read from the environment at its import
    settings |= {"url": address, "api_key": TOKEN}
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{address}/api/version", timeout=2):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((home / "log.txt").read_text("utf-8")[-3000:])
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        del settings["url"], settings["api_key"]


def test_what_is_edited_in_label_studio_comes_back_and_nothing_else(server: str, source: Path, tmp_path: Path) -> None:
    from label_studio_sdk import Client  # type: ignore[import-not-found,unused-ignore]

    dataset = opened(source, "studio")
    before = {c["id"]: c for c in _told(source)["annotations"]}
    answer = inside("review", "send", "set-studio", "--to", "labelstudio")
    assert answer.code == 0, answer.err[-3000:]

    project = Client(server, TOKEN).list_projects()[0]
    assert 'value="Myeloblast"' in project.params["label_config"]  # the names of annotations/
    tasks = project.get_tasks()
    assert len(tasks) == len(dataset)
    drawn = [len(t["predictions"][0]["result"]) for t in tasks if t["predictions"]]
    assert sum(drawn) == len(before)

    # A person takes over what was sent and renames one cell, moves one, deletes one and draws one.
    task = max(tasks, key=lambda t: len(t["predictions"][0]["result"]))
    results: list[dict[str, Any]] = task["predictions"][0]["result"]
    cell_of = {d.id: int(d.cell) for d in _cells(dataset)}
    renamed, moved, gone = (cell_of[r["id"]] for r in results[:3])
    results[0]["value"]["rectanglelabels"] = ["Basophil"]
    results[1]["value"] |= {"x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0}
    new = {**results[3], "id": "drawnbyhand", "value": {**results[3]["value"], "x": 50.0, "y": 50.0}}
    kept = [*results[:2], *results[3:], new]
    project.create_annotation(task["id"], result=kept)

    answer = inside("review", "fetch", "set-studio")
    assert answer.code == 0, answer.err[-3000:]
    pulled("set-studio", tmp_path / "out")
    log = changes_of(tmp_path / "out")
    told = {c["cell"]: c["what"] for c in log}
    assert len(log) == 4
    assert told.pop(renamed) == ["label"]
    assert "box" in told.pop(moved)
    assert told.pop(gone) == ["deleted"]
    assert list(told.values()) == [["added"]]
    after = {c["id"]: c for c in coco_of(tmp_path / "out")["annotations"]}
    assert gone not in after
    untouched = before.keys() - {renamed, moved, gone}
    assert {i: after[i] for i in untouched} == {i: before[i] for i in untouched}


def _told(source: Path) -> dict[str, Any]:
    import json

    told: dict[str, Any] = json.loads((source / "annotations" / "instances_all.json").read_text("utf-8"))
    return told


def _cells(dataset: Any) -> list[Any]:
    return [d for sample in dataset for d in sample.ground_truth.detections]
