"""What the run folder of a training tells a table: its curve, its hours, how far it went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detect.config import load_yaml
from detect.detectors.base import DetectorSettings
from detect.errors import DataError
from detect.evaluate.curves import still_rises
from detect.runtime.base import cores

_DEVICES = {"auto", "cpu"}


def about_run(run: Path, settings: DetectorSettings) -> dict[str, Any]:
    """What is kept of a run when its folder is gone; DataError where it has no curve."""
    record, curve = load_yaml(run / "run.yaml"), curve_of(run)
    architecture = load_yaml(run / "architecture.yaml")
    return {
        "seed": settings.seed,
        "images": len(curve) * int(record["fields"]["train"]),
        "epochs": len(curve),
        "best_epoch": int(record["best_epoch"]),
        "minutes": seconds_of(run) / 60,
        "resumed": bool(record["resumed"]),
        "still_rising": still_rises(curve),
        "dev": record["dev"],
        "precision": record["precision"],
        "hardware": record["hardware"] if record.get("device") in (None, *_DEVICES) else record["device"],
        "cores": cores(),
        "parameters": architecture["parameters"],
        "gflops": architecture["gflops"],
        "model": architecture["name"],
        "family": architecture["family"],
        "image_size": settings.image_size,
        "fields": record["fields"],
        "groups": record["groups"],
    }


def curve_of(run: Path) -> list[float]:
    """mAP50-95 on dev after every epoch of a run; DataError where the library wrote none."""
    return [float(np.nan_to_num(_number(row, "mAP50-95"))) for row in _epochs(run)]


def seconds_of(run: Path) -> float:
    """Seconds of all epochs of a run, whatever processes they were trained in."""
    rows = _epochs(run)
    if rows and "seconds" in rows[0]:
        return sum(_number(row, "seconds") for row in rows)
    total, before = 0.0, 0.0
    for at in (_number(row, "time") for row in rows):  # since the process began
        total, before = total + (at - before if at >= before else at), at
    return total


def _epochs(run: Path) -> list[dict[str, str]]:
    """A row of `results.csv` for each epoch; of one that was cut off and begun again the last."""
    path = run / "train" / "results.csv"
    try:
        heads, *lines = [line.split(",") for line in path.read_text("utf-8").splitlines() if line.strip()]
        rows = [dict(zip((h.strip() for h in heads), line, strict=True)) for line in lines]
        return list({int(float(row["epoch"])): row for row in rows}.values())
    except (OSError, ValueError, KeyError) as error:
        what = f"no curve of the training: {error}"
        raise DataError(what, where=str(path), remedy="train the row anew in another folder") from error


def _number(row: Mapping[str, str], name: str) -> float:
    return float(next(value for head, value in row.items() if name in head))
