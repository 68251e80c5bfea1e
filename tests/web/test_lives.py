"""Whoever scores is killed, the page is ended and begun again, too many come at once: no upload is lost."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from detect.web.records import TRIES, Records
from detect.web.settings import WebSettings
from tests.web.conftest import Page, served

pytestmark = pytest.mark.long


def scorers(page: Page) -> list[psutil.Process]:
    """The processes that score."""
    children = psutil.Process(page.process.pid).children(recursive=True)
    return [c for c in children if "spawn_main" in " ".join(c.cmdline())]


def kill_at_work(data: Path, killed: set[int], patience: float = 60) -> None:
    """Kill a process at an upload that may be begun again: one begun `TRIES` times is given up, and rightly."""
    records, until = Records(WebSettings.model_construct(data=data).database, queue=64), time.monotonic() + patience
    while time.monotonic() < until:
        for one in records.running():
            if one.worker and one.worker not in killed and one.tries < TRIES:
                os.kill(one.worker, signal.SIGKILL)
                killed.add(one.worker)
                return
        time.sleep(0.01)
    raise AssertionError("nobody was at work")


def results(page: Page, upload: str) -> list[Any]:
    """What was found in an upload."""
    return [(c["field"], c["cell"], c["box"], c["type"]) for c in page.get(f"/uploads/{upload}/cells")]


def test_uploads_of_killed_processes_are_finished(fields: dict[str, bytes], tmp_path: Path) -> None:
    with served(tmp_path / "data", "--workers", 2) as page:
        whole = page.wait(page.send(fields).json()["id"])
        expected = results(page, whole["id"])
        sent = [page.send(fields).json()["id"] for _ in range(8)]
        killed: set[int] = set()
        for delay in (0.3, 0.7, 1.1):
            time.sleep(delay)
            kill_at_work(tmp_path / "data", killed)
        told = [page.wait(one) for one in sent]
        assert [(t["state"], t["why"]) for t in told] == [("done", "")] * len(sent)
        assert all(results(page, one) == expected for one in sent)
        assert page.get("/health") == {"state": "ok", "workers": 2, "waiting": 0}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_page_that_was_ended_goes_on_where_it_was(
    fields: dict[str, bytes], tmp_path: Path, how: signal.Signals
) -> None:
    data = tmp_path / "data"
    with served(data, "--workers", 1) as page:
        first = page.send(fields).json()["id"]
        expected = [page.wait(first)["state"], results(page, first)]
        sent = [page.send(fields).json()["id"] for _ in range(6)]
        own = scorers(page)
        os.kill(page.process.pid, how)
        page.process.wait(60)
    with served(data, "--workers", 1) as page:  # at once, whoever is still there
        told = [page.wait(one) for one in sent]
        assert all([t["state"], results(page, t["id"])] == expected for t in told)
        assert not [p for p in own if p.is_running()]  # nobody is left behind


def test_more_than_the_queue_holds_are_told_to_come_again(fields: dict[str, bytes], tmp_path: Path) -> None:
    with served(tmp_path / "data", "--workers", 1, "--queue", 3) as page:

        def visit(_: int) -> tuple[str, int]:
            refused = 0
            while True:
                answer = page.send(fields)
                if answer.status_code == 202:
                    return answer.json()["id"], refused
                assert answer.status_code == 429, answer.text
                assert 1 <= int(answer.headers["retry-after"]) <= 60
                refused += 1
                time.sleep(0.5)

        with ThreadPoolExecutor(8) as pool:
            came = list(pool.map(visit, range(10)))
        assert sum(refused for _, refused in came) > 0
        assert {page.wait(one)["state"] for one, _ in came} == {"done"}
        assert len({one for one, _ in came}) == 10
        assert len(list((tmp_path / "data" / "uploads").iterdir())) == 10


def test_an_upload_that_takes_too_long_is_given_up(fields: dict[str, bytes], tmp_path: Path) -> None:
    with served(tmp_path / "data", "--workers", 1, "--patience", 20) as page:
        page.wait(page.send(fields).json()["id"])
        stuck = page.send(fields).json()["id"]
        deadline = time.monotonic() + 20
        while page.get(f"/uploads/{stuck}")["state"] == "queued" and time.monotonic() < deadline:
            time.sleep(0.01)
        for process in scorers(page):
            process.suspend()  # as if a picture held it
        told = page.wait(stuck, 60)
        if told["state"] != "done":  # it was still at work when it was held
            assert "took longer than 20 s" in told["why"]
        assert page.wait(page.send(fields).json()["id"])["state"] == "done"
