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

import errno
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from detect import __version__, assets
from detect.bundles.card import WEIGHTS, TrainedOn
from detect.bundles.draft import trained_on
from detect.bundles.folder import open_bundle
from detect.config import dump, load, load_yaml
from detect.data import copies
from detect.data.cards import Card, load_card
from detect.data.fingerprint import fingerprint
from detect.data.load import load_dataset
from detect.data.sources import merge
from detect.data.splits import EXCLUDED, read_split
from detect.detectors.base import Architecture, DetectorSettings, Family, TrainingJob, family
from detect.detectors.measure import on_dev, red_cell_px
from detect.errors import ConfigError, DataError, SplitLeakError, StoreError
from detect.evaluate.align import align
from detect.formats.tally import Tally
from detect.formats.yolo import ORDER
from detect.images import preprocess
from detect.runtime.machine import processor
from detect.types import Dataset, LabelledField

# Label problems that nothing should be learnt from.
_WRONG_NAMES = {ORDER, "unknown class number", "unknown label", "unknown category"}


@dataclass(frozen=True)
class Source:
    """A set to learn from: its card, its split, and where its images are."""

    card: Card
    split: str
    root: Path | None = None


def sources(data: Sequence[str], splits: Sequence[str] = (), root: Path | None = None) -> tuple[Source, ...]:
    """The sets of a command line; ConfigError where cards and splits do not fit together."""
    if splits and len(splits) != len(data):
        raise ConfigError(f"{len(data)} sets and {len(splits)} splits", remedy="give a split for each set, or none")
    if root is not None and len(data) > 1:
        raise ConfigError("--root goes with one set", remedy="set SMEAR_DATA to the folder that holds the sets")
    out = []
    for i, name in enumerate(data):
        card = load_card(name)
        split = splits[i] if splits else card.split
        if split is None:
            raise DataError(f"the card of {card.name} names no split", remedy="make one with 'smear data split'")
        out.append(Source(card, split, root))
    if len({s.card.name for s in out}) != len(out):
        raise ConfigError(f"a set is named twice: {', '.join(data)}", remedy="name each once")
    return tuple(out)


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
    data: Sequence[str],
    out: Path,
    *,
    splits: Sequence[str] = (),
    root: Path | None = None,
    device: str = "auto",
    seed: int | None = None,
    resume: bool = False,
    trust_pickle: bool = False,
    allow_leak: bool = False,
    tally: Tally | None = None,
) -> dict[str, Any]:
    """Train as `config` says on part `train` of the sets' splits; the epoch is chosen on part `dev` of the first.

    Args:
        data: dataset cards; classes are those of the first, and labels of the others are turned into them. Empty where
            the configuration has stages, which name their own.
        seed: in place of the configuration's.

    Returns:
        The run record, as written to `run.yaml`.
    """
    path = assets.find(config, "configs/detectors", ".yaml")
    settings = load(DetectorSettings, path)
    if seed is not None:
        settings = settings.model_copy(update={"seed": seed})
    how = _How(str(path), device, trust_pickle, allow_leak, tally or Tally())
    if not settings.stages:
        return _train(settings, sources(data, splits, root), out, how, resume)
    if data or splits:
        raise ConfigError("the stages of this configuration name their data", where=str(path), remedy="drop --data")
    record: dict[str, Any] = {}
    told: list[Mapping[str, Any]] = []
    start = settings.pretrained
    for number, stage in enumerate(settings.stages, 1):
        last = number == len(settings.stages)
        here = out if last else out / f"stage-{number}"
        changed = settings.model_copy(update={"epochs": stage.epochs, "pretrained": start, "stages": ()})
        if (here / "run.yaml").exists() and resume and not last:
            record = load_yaml(here / "run.yaml")
        else:
            begun = resume and (here / "settings.yaml").exists()
            record = _train(changed, sources(stage.data, stage.split), here, how, begun, tuple(told))
        told.append(
            {
                "data": list(record["data"]),
                "epochs": stage.epochs,
                "fingerprint": record["fingerprint"]["train"],
                "trained_on": record["trained_on"],
            }
        )
        start = str(here / WEIGHTS)
    return record


@dataclass(frozen=True)
class _How:
    """What all stages share."""

    config: str
    device: str
    trust_pickle: bool
    allow_leak: bool
    tally: Tally


def _train(
    settings: DetectorSettings,
    sets: Sequence[Source],
    out: Path,
    how: _How,
    resume: bool,
    stages: tuple[Mapping[str, Any], ...] = (),
) -> dict[str, Any]:
    adapter = family(settings.family)
    learn, dev, unlabelled, leaking = gather(sets, how.tally, allow_leak=how.allow_leak)
    _check_names(how.tally)
    _check_classes(learn, settings)
    begun = [p for p in out.iterdir() if not p.name.startswith("stage-")] if out.exists() else []
    if begun and not resume:
        raise StoreError("the run folder is not empty", where=str(out), remedy="name another, or go on with --resume")
    if (out / "run.yaml").exists():
        raise StoreError(
            "the training is finished: nothing to resume", where=str(out), remedy="export it, or name another"
        )
    # Fitted before anything is written: the numbers, not the reference picture, travel with the run and the bundle.
    settings = settings.model_copy(update={"preprocess": preprocess.fit(settings.preprocess, how.config)})
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(settings, out, how.config)
    keep_data([s.card for s in sets], [s.split for s in sets], out)
    record: dict[str, Any] = {
        "smear_detect": __version__,
        "config": Path(how.config).name,
        "data": [s.card.name for s in sets],
        "split": [Path(s.split).stem for s in sets],
        "stages_before": list(stages),
        "trained_on": trained_on([s.card for s in sets], [*(s["trained_on"] for s in stages), *_began_with(settings)]),
        "seed": settings.seed,
        "leaking_groups": leaking,
        "fields": {"train": len(learn), "dev": len(dev)},
        "groups": {"train": _groups(learn), "dev": _groups(dev)},
        "cells": {"train": _cells(learn), "dev": _cells(dev)},
        "red_cell_px": red_cell_px(learn, settings.image_size),
        "labelled_in_part": len(unlabelled),
        "fingerprint": {"train": fingerprint(learn), "dev": fingerprint(dev)},
        "label_problems": how.tally.counts(),
        "hardware": f"{platform.machine()}, {processor()}",
        "python": platform.python_version(),
    }
    started = time.monotonic()
    settings = settings.model_copy(update={"pretrained": _weights(settings.pretrained)})
    job = TrainingJob(settings, how.config, learn, dev, out, resume, how.device, how.trust_pickle, unlabelled)
    with _full_disk(out):
        record |= adapter.train(job)
        record["dev"] = _dev(job, adapter)
        record["resumed"] = resume
        record["minutes"] = round((time.monotonic() - started) / 60, 1)
        (out / "run.yaml").write_text(yaml.safe_dump(record, sort_keys=False), "utf-8")
    return record


def _began_with(settings: DetectorSettings) -> list[TrainedOn]:
    """What the bundle that the training begins with had learnt from; nothing where it begins with none."""
    start = settings.pretrained
    if isinstance(start, str) and not Path(start).suffix:
        return [open_bundle(start).card.trained_on]
    return []


def _dev(job: TrainingJob, adapter: Family) -> dict[str, float]:
    """What the weights that were kept reach on dev, whatever family they are of."""
    built = Architecture(**load_yaml(job.out / "architecture.yaml"))
    device = "cpu" if job.device == "auto" else job.device.split(",")[0]
    graph = adapter.reference(built, job.out / WEIGHTS, device=device)
    ap50, ap = on_dev(job, built, adapter.traits(built), graph)
    return {"mAP50": round(ap50, 4), "mAP50-95": round(ap, 4)}


def gather(
    sets: Sequence[Source], tally: Tally, *, allow_leak: bool = False
) -> tuple[Dataset, Dataset, dict[str, frozenset[int]], int]:
    """Fields to learn from, of all sets under the classes of the first, and dev of the first.

    Returns:
        train, dev, the classes of which not every cell is drawn by field id, and how many groups leak.

    Raises:
        SplitLeakError: a group stands on two sides, or a picture of one set's train is a copy of one that another
            set holds out, unless `allow_leak`.
    """
    wanted = [("train", "dev"), *[("train",)] * (len(sets) - 1)]
    parts = [
        split_parts(s.card, s.split, s.root, tally, *names, allow_leak=allow_leak)
        for s, names in zip(sets, wanted, strict=True)
    ]
    leaking = sum(len(read_split(s.split, allow_leak=True).leaks) for s in sets)
    first, dev = parts[0]
    unlabelled: dict[str, frozenset[int]] = {}
    fields: list[LabelledField] = []
    for source, (learn, *_) in zip(sets, parts, strict=True):
        own = learn if learn is first else align(learn, first.classes)
        partly = frozenset(k for k, name in enumerate(first.classes.names) if name not in own.exhaustive_for)
        for labelled in own.fields:
            identity = labelled.field.id if len(sets) == 1 else f"{source.card.name}/{labelled.field.id}"
            group = None if labelled.field.group is None else f"{source.card.name}/{labelled.field.group}"
            moved = labelled.field if len(sets) == 1 else replace(labelled.field, id=identity, group=group)
            fields.append(replace(labelled, field=moved))
            if partly:
                unlabelled[identity] = partly
    if len(sets) > 1:
        across = _copies_across(sets)
        if across and not allow_leak:
            raise SplitLeakError(
                f"{across[0]} ({len(across)} such groups)",
                where=", ".join(s.card.name for s in sets),
                remedy="leave out one of the sets, split them together, or train with --allow-leak",
            )
        leaking += len(across)
    name = "+".join(s.card.name for s in sets)
    return replace(first, name=name, fields=tuple(fields)), dev, unlabelled, leaking


def _copies_across(sets: Sequence[Source]) -> list[str]:
    """Groups of copies with a picture that one set learns from and another holds out, in words."""
    rows: list[tuple[str, str, Path]] = []
    for source in sets:
        here = {f.field.id: f.field.path for f in merge(load_dataset(source.card, Tally(), source.root)).fields}
        told = read_split(source.split, allow_leak=True).rows
        rows += [(source.card.name, r.part, here[r.field]) for r in told if r.part != EXCLUDED and r.field in here]
    seen: dict[int, list[tuple[str, str, Path]]] = {}
    for number, row in zip(copies.groups([path for _, _, path in rows]), rows, strict=True):
        seen.setdefault(number, []).append(row)
    out = []
    for members in seen.values():
        learnt = [m for m in members if m[1] == "train"]
        held = [m for m in members if m[1] != "train" and any(m[0] != name for name, _, _ in learnt)]
        if learnt and held:
            other = next(m for m in learnt if m[0] != held[0][0])
            out.append(
                f"{other[2]} (train of {other[0]}) shows the cells of {held[0][2]} ({held[0][1]} of {held[0][0]})"
            )
    return out


def _check_names(tally: Tally) -> None:
    """Cells under a name that is not theirs, or dropped for having none, would be learnt as background."""
    wrong = [p for p in tally.problems if p.kind in _WRONG_NAMES]
    if wrong:
        more = f", and {len(wrong) - 1} more such" if len(wrong) > 1 else ""
        raise DataError(
            f"{wrong[0].kind}: {wrong[0].detail}{more}",
            where=wrong[0].where,
            remedy="mend the list of classes, the labels, or the card; 'smear data check' lists them all",
        )


def _check_classes(learn: Dataset, settings: DetectorSettings) -> None:
    empty = [name for name, n in _cells(learn).items() if n == 0]
    if empty:
        raise DataError(
            f"part train holds no cell of {', '.join(empty)}",
            where=learn.name,
            remedy="draw some, or take the class off the card: a model cannot learn what it never sees",
        )


def _weights(given: bool | str) -> bool | str:
    """`pretrained` with a bundle replaced by its weights."""
    if not isinstance(given, str) or Path(given).suffix:
        return given
    return str(open_bundle(given, "detector").weights)


@contextmanager
def _full_disk(out: Path) -> Iterator[None]:
    """A full disk as an error that says so; torch hides it in a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "PytorchStreamWriter" in str(error)
        if not full or isinstance(error, StoreError):
            raise
        raise StoreError(
            "the disk is full", where=str(out), remedy="free some space and go on with --resume"
        ) from error


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


def keep_data(cards: Sequence[Card], splits: Sequence[str], out: Path) -> None:
    """Copy cards and splits into a run folder, so that whoever exports it later needs no other file of ours.

    The first split is `split.csv`, those of further sets are `split-<set>.csv`.
    """
    (out / "cards").mkdir(exist_ok=True)
    for card in cards:
        (out / "cards" / f"{card.name}.yaml").write_text(dump(card), "utf-8")
    for i, split in enumerate(splits):
        name = "split.csv" if i == 0 else f"split-{cards[i].name}.csv"
        shutil.copyfile(assets.find(split, "configs/splits", ".csv"), out / name)


def leak_warning(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What a card must say of a run on a leaking split; nothing where the split was clean."""
    n = record.get("leaking_groups", 0)
    return (f"LEAKING SPLIT: {n} groups stood on both sides, so its figures are too good.",) if n else ()


def kept_cards(run: Path) -> list[Card]:
    """The cards of a run folder, in the order in which the run names them."""
    names = load_yaml(run / "run.yaml")["data"]
    return [load_card(run / "cards" / f"{name}.yaml") for name in ([names] if isinstance(names, str) else names)]


def _groups(dataset: Dataset) -> int:
    return len({f.field.group for f in dataset.fields})


def _cells(dataset: Dataset) -> dict[str, int]:
    counts = dict.fromkeys(dataset.classes.names, 0)
    for labelled in dataset.fields:
        for label in labelled.annotations.labels:
            counts[dataset.classes.names[int(label)]] += 1
    return counts
