"""Training of a detector: a configuration, a card and a split in; a run folder out.

RUN/
  settings.yaml        the settings, defaults written out
  run.yaml             data, split, hashes, versions, hardware, precision, times
  architecture.yaml    how to build the model again
  weights.safetensors  the epoch that was best on dev
  data/                the fields as the library wants them (links)
  train/               the library's own files: curves as pictures, results.csv, checkpoints
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from detect import __version__, assets
from detect.config import dump, load
from detect.data.cards import Card, load_card
from detect.data.fingerprint import fingerprint
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import read_split
from detect.detectors.base import DetectorSettings, TrainingJob, family
from detect.errors import ConfigError, DataError, StoreError
from detect.formats.tally import Tally
from detect.types import Dataset


def split_parts(
    card: Card, split: str | None, root: Path | None, tally: Tally, *parts: str, allow_leak: bool = False
) -> list[Dataset]:
    """Fields of a set by the parts of its split (the card's own where none is named)."""
    name = split or card.split
    if name is None:
        raise DataError(f"the card of {card.name} names no split", remedy="make one with 'smear data split'")
    everything = merge(load_dataset(card, tally, root))
    chosen = read_split(name, allow_leak=allow_leak)
    return [chosen.part(everything, part) for part in parts]


def train(
    config: str,
    data: str,
    out: Path,
    *,
    split: str | None = None,
    root: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    trust_pickle: bool = False,
    allow_leak: bool = False,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Train as `config` says on part `train` of `data`'s split, choosing the epoch on part `dev`.

    Returns:
        The run record, as written to `run.yaml`.
    """
    path = assets.find(config, "configs/detectors", ".yaml")
    settings = load(DetectorSettings, path)
    adapter = family(settings.family)
    card = load_card(data)
    tally = tally or Tally()
    learn, dev = split_parts(card, split, root, tally, "train", "dev", allow_leak=allow_leak)
    if out.exists() and any(out.iterdir()) and not resume:
        raise StoreError("the run folder is not empty", where=str(out), remedy="name another, or go on with --resume")
    if (out / "run.yaml").exists():
        raise StoreError(
            "the training is finished: nothing to resume", where=str(out), remedy="export it, or name another"
        )
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(settings, out, str(path))
    keep_data([card], split or str(card.split), out)
    record: dict[str, Any] = {
        "smear_detect": __version__,
        "config": path.name,
        "data": card.name,
        "split": Path(split or str(card.split)).stem,
        "leaking_groups": len(read_split(out / "split.csv", allow_leak=True).leaks),
        "fields": {"train": len(learn), "dev": len(dev)},
        "groups": {"train": _groups(learn), "dev": _groups(dev)},
        "cells": {"train": _cells(learn), "dev": _cells(dev)},
        "fingerprint": {"train": fingerprint(learn), "dev": fingerprint(dev)},
        "label_problems": tally.counts(),
        "hardware": f"{platform.machine()}, {_processor()}",
        "python": platform.python_version(),
    }
    started = time.monotonic()
    job = TrainingJob(settings, str(path), learn, dev, out, resume, device, trust_pickle)
    record |= adapter.train(job)
    record["resumed"] = resume
    record["minutes"] = round((time.monotonic() - started) / 60, 1)
    (out / "run.yaml").write_text(yaml.safe_dump(record, sort_keys=False), "utf-8")
    return record


def keep_settings(settings: BaseModel, out: Path, where: str) -> None:
    """Write `settings.yaml` into a run folder; one that is there must say the same, or resuming would mix two runs."""
    path, text = out / "settings.yaml", dump(settings)
    if path.is_file() and path.read_text("utf-8") != text:
        raise ConfigError(
            "the settings differ from those the run was started with",
            where=where,
            remedy=f"resume with the settings of {path}, or train into another folder",
        )
    path.write_text(text, "utf-8")


def keep_data(cards: Sequence[Card], split: str, out: Path) -> None:
    """Copy cards and split into a run folder, so that whoever exports it later needs no other file of ours."""
    (out / "cards").mkdir(exist_ok=True)
    for card in cards:
        (out / "cards" / f"{card.name}.yaml").write_text(dump(card), "utf-8")
    shutil.copyfile(assets.find(split, "configs/splits", ".csv"), out / "split.csv")


def leak_warning(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What a card must say of a run on a leaking split; nothing where the split was clean."""
    n = record.get("leaking_groups", 0)
    return (f"LEAKING SPLIT: {n} groups stood on both sides, so its figures are too good.",) if n else ()


def kept_cards(run: Path) -> list[Card]:
    """The cards of a run folder."""
    return [load_card(path) for path in sorted((run / "cards").glob("*.yaml"))]


def _groups(dataset: Dataset) -> int:
    return len({f.field.group for f in dataset.fields})


def _cells(dataset: Dataset) -> dict[str, int]:
    counts = dict.fromkeys(dataset.classes.names, 0)
    for labelled in dataset.fields:
        for label in labelled.annotations.labels:
            counts[dataset.classes.names[int(label)]] += 1
    return counts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        "unknown processor",
    )
