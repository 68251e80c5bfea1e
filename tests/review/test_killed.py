"""MongoDB killed in the middle of an import and of a pull: a clear error, nothing half-written, a second try works."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command import SCRIPT
from tests.data import encode
from tests.review.conftest import mongod

pytestmark = pytest.mark.long
FIELDS, CELLS = 6000, 30


class Server:
    """A mongod that can be killed and come back where it was."""

    def __init__(self, folder: Path) -> None:
        from detect.review.database import _free_port

        program = mongod()
        if program is None:
            pytest.skip("no mongod on this machine")
        self._folder, self.port = folder, _free_port()
        self._command = [program, "--dbpath", str(folder), "--bind_ip", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--nounixsocket", "--logpath", str(folder / "log")]
        self.start()

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?serverSelectionTimeoutMS=3000"

    def start(self) -> None:
        from detect.review.database import _listens

        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not _listens(self.port):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own."""
    if find_spec("fiftyone") is None:
        pytest.skip("fiftyone is not installed")
    made = Server(tmp_path_factory.mktemp("killed"))
    yield made
    made.kill()


@pytest.fixture(scope="module")
def environment(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the commands."""
    home = tmp_path_factory.mktemp("reviews")
    told = {"FIFTYONE_DATABASE_URI": server.uri, "SMEAR_REVIEWS": str(home), "FIFTYONE_DO_NOT_TRACK": "1"}
    return {**os.environ, **told, "FIFTYONE_CONFIG_PATH": str(home / "config.json")}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many fields, all of one picture, so that an import takes a while."""
    folder = tmp_path_factory.mktemp("many") / "many"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    first = folder / "images" / "f00000.png"
    first.write_bytes(encode(np.zeros((60, 80, 3), np.uint8), "PNG"))
    rng = np.random.default_rng(1)
    images: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    for i in range(FIELDS):
        name = f"f{i:05d}.png"
        if i:
            os.link(first, folder / "images" / name)
        images.append({"id": i, "file_name": name, "width": 80, "height": 60})
        for x, y in rng.integers(0, 40, (CELLS, 2)).tolist():
            cells.append({"id": len(cells), "image_id": i, "category_id": 1, "bbox": [x, y, 10, 12], "iscrowd": 0})
    told = {"images": images, "annotations": cells, "categories": [{"id": 1, "name": "WBC"}]}
    (folder / "annotations" / "instances_all.json").write_text(json.dumps(told))
    return folder


def killed_when(server: Server, command: list[object], environment: dict[str, str], ready: Callable[[], bool]) -> str:
    """Run a command, kill the server once `ready`; what the command said."""
    process = subprocess.Popen(
        [str(SCRIPT), *map(str, command)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 180
    while not ready():
        assert process.poll() is None, process.stdout.read()[-3000:] if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.002)
    server.kill()
    said, _ = process.communicate(timeout=180)
    server.start()
    assert process.returncode == 2, said[-3000:]
    assert "Traceback" not in said
    assert "MongoDB does not answer" in said
    return said


def done(command: list[object], environment: dict[str, str]) -> str:
    answer = subprocess.run(
        [str(SCRIPT), *map(str, command)], env=environment, text=True, capture_output=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stdout[-1000:] + answer.stderr[-3000:]
    return answer.stdout


def test_a_killed_database_loses_nothing(
    server: Server, environment: dict[str, str], many: Path, tmp_path: Path
) -> None:
    import pymongo

    client: Any = pymongo.MongoClient(server.uri)
    database = client["fiftyone"]
    open_it: list[object] = ["review", "open", many, "--annotator", "anna", "--no-app"]

    def half_imported() -> bool:
        names = [n for n in database.list_collection_names() if n.startswith("samples.")]
        return any(0 < database[n].estimated_document_count() < FIELDS for n in names)

    killed_when(server, open_it, environment, half_imported)
    names = [d["name"] for d in database["datasets"].find({}, {"name": 1})]
    assert "many-anna" not in names  # what is half made is not there under its name
    assert f"review many-anna: {FIELDS} fields" in done(open_it, environment)

    out = tmp_path / "out"
    pull_it: list[object] = ["review", "pull", "many-anna", "--out", out]
    killed_when(server, pull_it, environment, lambda: any((tmp_path / ".out.partial").glob("yolo/labels/all/*0.txt")))
    assert list(tmp_path.iterdir()) == []
    assert f"{FIELDS} fields, {FIELDS * CELLS} cells written" in done(pull_it, environment)
    assert len(json.loads((out / "annotations" / "all.json").read_text())["annotations"]) == FIELDS * CELLS
    shutil.rmtree(out)
