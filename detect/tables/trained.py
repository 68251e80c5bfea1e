"""Detectors of a table: trained, exported and measured once; taken as they are when nothing they rest on has changed.

OUT/
  configs/<row>.yaml            each row's configuration, written out
  starts/<name>/                weights to begin with: key.json, slides/, bundle/
  models/<row>/<place>/seed-<n>/  key.json; run/ while it is trained; then bundle/, about.json, and a folder for each
                                evaluation, as `smear evaluate detector` writes it, with a key of its own

A bundle is there once all of it is: everything is made beside its place and renamed. What rests on something that has
changed is made anew. A row whose bundle was thrown away stands by its evaluations: without starts, runs, bundles and
the sets' labels (`truth.json.gz`, written again from the set) the folder is small enough to keep, and the table goes
on with it on another machine.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from detect import assets
from detect.bundles.card import CARD
from detect.bundles.draft import Description
from detect.bundles.folder import open_bundle
from detect.config import load, load_yaml, parse
from detect.data import locks
from detect.data.cards import load_card
from detect.data.smear.settings import load_smear
from detect.data.smear.write import Asked as Drawing
from detect.data.smear.write import synthesize
from detect.detectors.base import DetectorSettings, family
from detect.detectors.export import export
from detect.detectors.train import split_parts, train
from detect.errors import ConfigError, StoreError
from detect.evaluate.intervals import Interval
from detect.evaluate.saved import METRICS, load_json
from detect.formats.tally import Tally
from detect.images import preprocess
from detect.runtime.base import cores
from detect.tables import keys
from detect.tables.keys import ABOUT, BUNDLE, KEY
from detect.tables.learnt import about_run
from detect.tables.measured import Measurer, Progress, of_bundle
from detect.tables.settings import DetectorRow, DetectorTable, LabTable, Start

LEARNT = "learnt"  # a `reference` of preprocessing: a field of those that are learnt from
NAME_OF_A_ROW = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _,.+@%-]*")  # of a row: it is a folder's name too


@dataclass(frozen=True)
class Made:
    """One training of a row, measured; or a bundle that needed none.

    Attributes:
        about: of the training: seed, images seen, epochs, minutes, whether dev still rose; its processor and cores.
        key: what it rests on. stale: what of it has changed since, where that is kept all the same.
    """

    folder: Path
    about: Mapping[str, Any]
    key: Mapping[str, str]
    stale: tuple[str, ...] = ()

    @property
    def bundle(self) -> str:
        """Its folder, or the name of a released one."""
        return str(self.about.get("bundle") or self.folder / BUNDLE)

    @property
    def hash(self) -> str:
        """Of its bundle, be that still there or not."""
        return str(self.about["hash"])

    @property
    def at_hand(self) -> bool:
        """Whether its bundle is still there."""
        return "bundle" in self.about or (self.folder / BUNDLE / CARD).is_file()

    @property
    def rising(self) -> bool:
        """Whether its budget ended while it still got better."""
        return bool(self.about.get("still_rising"))


class Maker:
    """Makes what a table asks for, below one folder.

    Args:
        where: the table's file, for errors. keep_stale: take what rests on something that has changed.

    Raises:
        ConfigError: a row's configuration is wrong, or a library that it needs is missing.
    """

    def __init__(
        self, table: DetectorTable | LabTable, where: str, out: Path, device: str, keep_stale: bool, say: Progress
    ) -> None:
        self.table, self.where, self.out, self.device, self.say = table, where, out.resolve(), device, say
        self.keep_stale = keep_stale
        self._measurer = Measurer(table, keep_stale, say)
        self.settings = {n: self._settings(n, row) for n, row in table.rows.items() if row.bundle is None}
        self.starts = {n: self._settings(n, start) for n, start in table.starts.items()}

    def _settings(self, name: str, row: DetectorRow | Start) -> DetectorSettings:
        """The configuration of a row, with what the table changes."""
        if not NAME_OF_A_ROW.fullmatch(name) or ".." in name:
            what = f"rows: '{name}' is no name of a row"
            raise ConfigError(what, where=self.where, remedy="use letters, digits, spaces and _ , . + @ % -")
        path = assets.find(str(row.config), "configs/detectors", ".yaml")
        values: dict[str, Any] = load_yaml(path)
        for changes in (self.table.changes, row.changes):
            deep = {**values.get("hyperparameters", {}), **changes.get("hyperparameters", {})}
            values = {**values, **changes, "hyperparameters": deep}
        settings = parse(DetectorSettings, values, f"{self.where}: {name}")
        if settings.stages:
            raise ConfigError("stages name their own data", where=f"{self.where}: {name}", remedy="drop them")
        family(settings.family)
        return settings

    def row(self, name: str, split: str, place: str, parts: Mapping[str, str], *, make: bool = True) -> list[Made]:
        """Every seed of a row, learnt from `split`, measured on each of `parts`.

        Args:
            place: folder below the row's own. parts: folder of the evaluation to the split whose part is measured on.
            make: else only what is there and has not changed, or is kept: nothing where anything is missing, or
                another process makes it.

        Raises:
            LedError: another process makes the row that is to be made.
        """
        row, folder = self.table.rows[name], self.out / "models" / name
        with locks.alone(folder) if make else locks.seen(folder) as here:
            if not here:
                return []
            if row.bundle is not None:
                return self._as_it_is(name, row.bundle, place, parts, make)
            out: list[Made] = []
            for seed in row.seeds:
                settings = self.settings[name].model_copy(update={"seed": seed})
                one = self._trained(name, settings, split, place, parts, make)
                if one is None:
                    return []
                out.append(one)
            return out

    def _trained(
        self,
        name: str,
        settings: DetectorSettings,
        split: str,
        place: str,
        parts: Mapping[str, str],
        make: bool,
    ) -> Made | None:
        row = self.table.rows[name]
        start = row.start
        folder = self.out / "models" / name / place / f"seed-{settings.seed}"
        settings = self._prepared(settings, split)
        begun = None if start is None else self._start_key(start)
        key = keys.training_key(settings, self.table.data, split, begun, beside=row.beside)
        title = ", ".join(t for t in (name, place, f"seed {settings.seed}") if t)
        stale = self._begin(folder, key, title, make)
        if stale is None:
            return None
        there = (folder / BUNDLE / CARD).is_file()
        if not there and (other := self._measurer.stands(folder, parts)) is not None:
            return Made(folder, load_json(folder / ABOUT), load_json(folder / KEY), (*stale, *other))
        if not there:
            if not make:
                return None
            sets = [(self.table.data, split)]
            if start is not None:
                settings = settings.model_copy(update={"pretrained": str(self._start(start))})
            if start is not None and row.beside:
                sets.append(self._slides(start))
            self.say(title)
            self._train(name, settings, sets, folder)
        if not self._measurer.measure(open_bundle(folder / BUNDLE, "detector"), folder, parts, make):
            return None
        return Made(folder, load_json(folder / ABOUT), load_json(folder / KEY), stale)

    def _prepared(self, settings: DetectorSettings, split: str) -> DetectorSettings:
        """With what is done to every field fitted: the numbers count, not where the reference picture lies."""
        steps = [
            step.model_copy(update={"args": {**step.args, "reference": str(self._reference(split))}})
            if step.args.get("reference") == LEARNT
            else step
            for step in settings.preprocess
        ]
        return settings.model_copy(update={"preprocess": preprocess.fit(tuple(steps), self.where)})

    def _reference(self, split: str) -> Path:
        """The field of part train on which white cells take the most room: it shows both stains."""
        (learnt,) = split_parts(load_card(self.table.data), split, None, Tally(), "train")
        white = [k for k, n in enumerate(learnt.classes.names) if n == "WBC"]

        def room(number: int) -> float:
            one = learnt.fields[number]
            boxes = one.annotations.boxes[np.isin(one.annotations.labels, white)]
            area = float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum())
            return area / (one.field.width * one.field.height)

        return learnt.fields[max(range(len(learnt.fields)), key=room)].field.path

    def _train(self, name: str, settings: DetectorSettings, sets: Sequence[tuple[str, str]], folder: Path) -> None:
        """Train on sets and their splits, export, and keep of the run what the table tells."""
        config, run, made = self.out / "configs" / f"{name}.yaml", folder / "run", folder / f"{BUNDLE}.partial"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), "utf-8")
        if not (run / "run.yaml").is_file():
            begun = (run / "train" / "weights" / "last.pt").is_file()
            if not begun:  # killed before its first checkpoint
                keys.remove(run)
            data, splits = zip(*sets, strict=True)
            train(str(config), data, run, splits=splits, device=self.device, resume=begun)
        keys.remove(made)
        export(run, made, Description(name, name, "AGPL-3.0-or-later"))
        keys.write(folder / ABOUT, about_run(run, settings) | of_bundle(open_bundle(made, "detector")))
        made.rename(folder / BUNDLE)
        keys.remove(run / "train")  # checkpoints: several times the weights that the bundle holds

    def _as_it_is(self, name: str, bundle: str, place: str, parts: Mapping[str, str], make: bool) -> list[Made]:
        folder = self.out / "models" / name / place / "as-it-is"
        opened = open_bundle(bundle, "detector")
        architecture = opened.card.architecture
        about = {
            "bundle": bundle,
            "model": architecture.get("name", bundle),
            "family": architecture.get("family", bundle),
            "parameters": architecture.get("parameters", 0),
            "gflops": architecture.get("gflops", 0.0),
            "hardware": platform.machine(),
            "cores": cores(),
            **of_bundle(opened),
        }
        if make:
            folder.mkdir(parents=True, exist_ok=True)
            keys.write(folder / ABOUT, about)
        there = self._measurer.measure(opened, folder, parts, make)
        return [Made(folder, about, {"bundle": opened.hash})] if there else []

    def _start_key(self, name: str) -> dict[str, str]:
        return keys.start_key(self.table.starts[name], self.starts[name], len(load_card(self.table.data).classes))

    def _start(self, name: str) -> Path:
        """The bundle with weights to begin with, made once for all rows."""
        folder, sets = self.out / "starts" / name, [self._slides(name)]
        with locks.alone(folder):
            if not (folder / BUNDLE / CARD).is_file():
                self.say(f"{name}: training")
                self._train(name, self.starts[name], sets, folder)
        return folder / BUNDLE

    def _slides(self, name: str) -> tuple[str, str]:
        """Card and split of the slides drawn for a start."""
        slides = self.drawn(name)
        return str(slides / "synthetic.yaml"), str(slides / "split.csv")

    def drawn(self, name: str) -> Path:
        """The folder of the slides of a start, drawn once."""
        start, folder = self.table.starts[name], self.out / "starts" / name
        slides = folder / "slides"
        with locks.alone(folder):
            self._begin(folder, self._start_key(name), name, True)
            if not (slides / "synthetic.yaml").is_file():
                self.say(f"{name}: drawing {start.slides} slides")
                partial = folder / "slides.partial"
                shutil.rmtree(partial, ignore_errors=True)
                asked = Drawing(partial, start.slides, start.fields, start.seed, start.size, start.size, cores())
                synthesize(load_smear("train"), asked)
                partial.rename(slides)
        return slides

    def start_minutes(self) -> dict[str, float]:
        """What each start took to train, of those that were made."""
        told = {n: keys.read(self.out / "starts" / n / ABOUT) for n in self.table.starts}
        return {n: float(t["minutes"]) for n, t in told.items() if t is not None}

    def _begin(self, folder: Path, key: Mapping[str, str], title: str, make: bool) -> tuple[str, ...] | None:
        """The folder of something that rests on `key`; what has changed since, where it is kept; None where it is not.

        What rested on another key is thrown away if it is to be made.
        """
        path = folder / KEY
        if (there := keys.read(path)) is not None:
            changed = tuple(k for k in key if there.get(k) != key[k])
            if not changed:
                return ()
            if self.keep_stale and ((folder / BUNDLE / CARD).is_file() or any(folder.glob(f"*/{METRICS}"))):
                return changed
            if not make:
                return None
            self.say(f"{title}: made anew, its {', '.join(changed)} changed")
            keys.remove(folder)
        elif not make:
            return None
        elif folder.exists() and any(p.name != KEY for p in folder.iterdir()):
            raise StoreError("not made by a table", where=str(folder), remedy="name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        keys.write(path, dict(key))
        return ()


T = TypeVar("T", DetectorTable, LabTable)


def table_settings(model: type[T], config: str) -> tuple[T, str]:
    """Settings of a table, and where they were read."""
    path = assets.find(config, "configs/tables", ".yaml")
    return load(model, path), str(path)


M = TypeVar("M")


def made_meanwhile(made: Mapping[str, M], rows: Iterable[str], look: Callable[[str], M]) -> dict[str, M]:
    """What was made here and, of the rows that were passed by, what another process has made since; in their order."""
    return {name: found for name in rows if (found := made[name] if name in made else look(name))}


def chosen(only: Sequence[str], rows: Mapping[str, object], where: str) -> list[str]:
    """The rows to make now; ConfigError where one is not in the table."""
    unknown = [name for name in only if name not in rows]
    if unknown:
        raise ConfigError(f"no row '{unknown[0]}'", where=where, remedy=f"the rows are: {', '.join(rows)}")
    return list(only or rows)


def open_out(out: Path) -> None:
    """The folder of a table, new or begun; StoreError where it holds something else."""
    known = {"configs", "starts", "models", "splits", "classifiers"}
    if out.exists() and any(out.iterdir()) and not any((out / name).is_dir() for name in known):
        raise StoreError("the folder is not empty, and no table", where=str(out), remedy="name another")
    out.mkdir(parents=True, exist_ok=True)


def interval(told: Mapping[str, float | None] | None) -> Interval | None:
    """A figure of `metrics.json`; None where it is not told."""
    if told is None or told["value"] is None:
        return None
    return Interval(*(float("nan") if told[k] is None else float(told[k] or 0) for k in ("value", "low", "high")))
