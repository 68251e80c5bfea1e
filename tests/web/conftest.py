"""The page, served by the real command, and drawn fields to send."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import drawn
from tests.cli.command import SCRIPT


@dataclass
class Page:
    """The page: where it is, the folder that it keeps things in, its process."""

    url: str
    data: Path
    process: subprocess.Popen[str]
    token: str = ""

    def client(self, **options: Any) -> httpx.Client:
        """A program that visits it."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def send(self, files: Mapping[str, bytes], title: str = "", **options: Any) -> httpx.Response:
        """Files by their names, sent to the API."""
        sent = [("files", (name, data)) for name, data in files.items()]
        with self.client(**options) as client:
            return client.post("/api/uploads", files=sent, data={"title": title})

    def wait(self, upload: str, seconds: float = 120) -> dict[str, Any]:
        """An upload, once nobody works on it any more."""
        deadline = time.monotonic() + seconds
        with self.client() as client:
            while time.monotonic() < deadline:
                told: dict[str, Any] = client.get(f"/api/uploads/{upload}").json()
                if told["state"] in ("done", "failed", "gone"):
                    return told
                time.sleep(0.1)
        raise TimeoutError(told)

    def get(self, place: str) -> Any:
        """JSON of the API."""
        with self.client() as client:
            answer = client.get(f"/api{place}")
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def served(data: Path, *options: object) -> Iterator[Page]:
    """The page while it is served."""
    command = [str(SCRIPT), "web", "--port", "0", "--data", str(data), *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        said = ""
        while "not a diagnosis" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        url = next(word for word in said.split() if word.startswith("http")).rstrip("/")
        token = said.partition("access token: ")[2].partition("\n")[0].strip()
        yield Page(url.replace("0.0.0.0", "127.0.0.1"), data, process, token)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page with its defaults, on a free port."""
    with served(tmp_path_factory.mktemp("web") / "data", "--queue", 400) as found:
        yield found


@pytest.fixture(scope="session")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Four drawn fields by name."""
    folder = tmp_path_factory.mktemp("fields") / "slides"
    drawn.write_slides(folder, 4, 11)
    return {p.name: p.read_bytes() for p in sorted((folder / "slide-a").iterdir())}


@pytest.fixture(scope="session")
def upload(page: Page, fields: dict[str, bytes]) -> str:
    """These fields, scored; the id of the upload."""
    answer = page.send(fields, "Drawn")
    assert answer.status_code == 202, answer.text
    told = page.wait(answer.json()["id"])
    assert told["state"] == "done", told
    return str(told["id"])
