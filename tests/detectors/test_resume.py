"""A training that is killed goes on from its last epoch, and says no when it is asked to go on differently."""

from __future__ import annotations

import csv
import os
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
    out = tmp_path / "run"
    command = ["train", "detector", str(config), "--data", str(tiny.card), "--root", str(tiny.home), "--out", str(out)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [str(SCRIPT), *command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while len(_epochs(out)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = _epochs(out)
    assert 2 <= len(done) < EPOCHS, (tmp_path / "log").read_text()[-2000:]
    assert not (out / "run.yaml").exists()

    other = write_config(tmp_path / "other.yaml", model=model, epochs=EPOCHS + 1)
    refused = smear(*[str(other) if word == str(config) else word for word in command], "--resume")
    assert refused.code == 2
    assert "settings differ" in refused.err

    answer = smear(*command, "--resume")
    assert answer.code == 0, answer.err[-3000:]
    # The epoch that was cut off between its row and its checkpoint stands there twice.
    assert sorted(set(_epochs(out))) == list(range(1, EPOCHS + 1))
    assert _epochs(out)[-1] == EPOCHS
    record = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    assert 1 <= record["best_epoch"] <= EPOCHS
    assert (out / "weights.safetensors").is_file()
