"""A killed training goes on from its last epoch, also where its folder was moved to, and not under other settings."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.cli.command import SCRIPT, smear
from tests.detectors.tiny import write, write_config

EPOCHS = 6


def _epochs(run: Path) -> list[int]:
    path = run / "train" / "results.csv"
    if not path.is_file():
        return []
    return [
        int(float(row["epoch"])) for row in csv.DictReader(path.read_text("utf-8").splitlines(), skipinitialspace=True)
    ]


@pytest.mark.long
@pytest.mark.parametrize("model", ["yolov8n", "yolo26n", "rtdetr-small"])
def test_a_killed_training_is_resumed_to_the_end(tmp_path: Path, model: str) -> None:
    tiny = write(tmp_path / "set")
    config = write_config(tmp_path / "config.yaml", model=model, epochs=EPOCHS)
    first, out = tmp_path / "run", tmp_path / "moved"

    def into(folder: Path) -> list[str]:
        sets = ["--data", str(tiny.card), "--root", str(tiny.home)]
        return ["train", "detector", str(config), *sets, "--out", str(folder)]

    command = into(out)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [str(SCRIPT), *into(first)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while len(_epochs(first)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = _epochs(first)
    assert 2 <= len(done) < EPOCHS, (tmp_path / "log").read_text()[-2000:]
    assert not (first / "run.yaml").exists()
    shutil.move(first, out)

    other = write_config(tmp_path / "other.yaml", model=model, epochs=EPOCHS + 1)
    refused = smear(*[str(other) if word == str(config) else word for word in command], "--resume")
    assert refused.code == 2
    assert "settings differ" in refused.err

    answer = smear(*command, "--resume")
    assert answer.code == 0, answer.err[-3000:]
    # The epoch that was cut off between its row and its checkpoint stands there twice.
    assert sorted(set(_epochs(out))) == list(range(1, EPOCHS + 1))
    assert _epochs(out)[-1] == EPOCHS
    assert not first.exists()  # where it was begun nothing is written any more
    record = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    assert 1 <= record["best_epoch"] <= EPOCHS
    assert (out / "weights.safetensors").is_file()
