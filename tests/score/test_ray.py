"""The Ray engine: the local engine's bytes, whoever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.command import SCRIPT, smear
from tests.score.test_resume import SMALL, events, results

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

from detect import __version__
from detect.errors import StoreError
from detect.pipeline.settings import load_pipeline
from detect.runtime.base import EngineSettings
from detect.score import ray as room
from detect.score.engine import error_of
from detect.score.manifest import NONE
from detect.score.settings import ScoreSettings
from detect.score.work import Job, Ready

pytestmark = pytest.mark.long

# Two nodes of one core each, on this machine; prints the address, then ends a node when told to.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
other = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "lose":
        cluster.remove_node(other, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        print("lost", flush=True)
cluster.shutdown()
"""


def test_a_cluster_of_this_machine_gives_the_local_engines_bytes(night: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = smear("score", night, "--out", out, *SMALL, "--engine", "ray")
    assert answer.code == 0, answer.err
    assert results(out) == results(whole)


def test_a_lost_worker_and_a_lost_node_lose_nothing(night: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    run = None
    try:
        address = cluster.stdout.readline().strip()
        assert address, "no cluster"
        words = [SCRIPT, "score", night, "--out", out, *SMALL, "--engine", "ray", "--address", address]
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_for(out, 2, run)
        os.kill(actors()[0], signal.SIGKILL)
        wait_for(out, 4, run)
        cluster.stdin.write("lose\n")
        cluster.stdin.flush()
        _, said = run.communicate(timeout=240)
        assert run.returncode == 0, said
    finally:
        if run is not None:
            run.kill()
        end(cluster)
    assert events(out).count("part") >= 12
    assert results(out) == results(whole)


def test_no_cluster_there_is_said(night: Path, tmp_path: Path) -> None:
    answer = smear("score", night, "--out", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    assert answer.code == 2
    assert "no Ray cluster" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("version", "bundles", "words"),
    [("0.0.1", {}, "this one has 0.0.1"), (__version__, {"cells-robust": "0" * 64}, "is another one here")],
)
def test_a_machine_that_would_answer_otherwise_says_so(
    night: Path, tmp_path: Path, version: str, bundles: dict[str, str], words: str
) -> None:
    settings = ScoreSettings(pipeline=load_pipeline("default"), scale="fit")
    job = Job(night, tmp_path, settings, EngineSettings(threads=1), NONE, bundles=bundles)
    told = room._Actor(job, version).ready()
    assert not isinstance(told, Ready)
    assert isinstance(error_of(told), StoreError)
    assert words in str(error_of(told))


def wait_for(out: Path, parts: int, run: subprocess.Popen[str]) -> None:
    """Until some parts are written."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and run.poll() is None:
        if (out / "journal.jsonl").is_file() and events(out).count("part") >= parts:
            return
        time.sleep(0.05)
    pytest.fail(f"ended too early: {run.poll()}")


def end(cluster: subprocess.Popen[str]) -> None:
    """A cluster shuts down at the end of its input; one that has lost a node may hang in that, and is killed whole."""
    parts = psutil.Process(cluster.pid).children(recursive=True)
    assert cluster.stdin is not None
    cluster.stdin.close()
    try:
        cluster.wait(60)
    except subprocess.TimeoutExpired:
        cluster.kill()
        cluster.wait()
    for part in parts:
        with contextlib.suppress(psutil.NoSuchProcess):
            part.kill()


def actors() -> list[int]:
    """Processes of actors of ours, as Ray names them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if name.startswith("ray::_Actor"):
            found.append(int(place.name))
    assert found
    return found
