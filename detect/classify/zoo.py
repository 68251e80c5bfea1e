"""Many recipes under one protocol: the table of models. `smear evaluate zoo`.

OUT/
  settings.yaml          the zoo's own; one with another protocol cannot go on in the same folder
  cells.csv              every cell, its type, source and group, and its part in each leg
  copies.json            which pictures are near copies, and a hash of them all: to find them takes a while
  answers/<row>/<leg>.csv   what a row answers for the cells that a leg holds out, and hashes of what that rests on; of
                         the set's own words only cells.csv has some
  rows/<row>.json        figures of a row, once all its legs are done
  models/<leg>/<row>/    what was fitted, while it is needed
  zoo.json, zoo.csv, zoo.md   the table, after every row
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from detect import assets
from detect.classify.bundled import softmax
from detect.classify.cells import keep
from detect.classify.fit import Task, answers_of, fit, parameters
from detect.classify.legs import Leg, cells_of_table, legs_of, rare_of, write_cells
from detect.classify.recipes import part_of, parts_of, recipes_of
from detect.classify.settings import (
    ClassifierSettings,
    Recipe,
    ZooSettings,
)
from detect.classify.train import types_of
from detect.classify.zoo_keys import by_content, code, identity
from detect.classify.zoo_table import Answers, Held, Row, about_answers, read_answers, row_json, write, write_answers
from detect.config import dump, load, load_yaml
from detect.data import locks
from detect.data.files import write_text
from detect.errors import ConfigError, StoreError
from detect.evaluate.classification import measure
from detect.evaluate.curves import mean_curve, still_rises
from detect.evaluate.decide import temperature
from detect.evaluate.intervals import plain_json
from detect.formats.tally import Tally
from detect.runtime.base import cores
from detect.runtime.machine import processor

CELLS, COPIES = "cells.csv", "copies.json"
Progress = Callable[[str, str], None]  # row, leg


@dataclass(frozen=True)
class Begun:
    """Weights that a row begins with, made when they are needed. key: hash of what they rest on."""

    key: str
    weights: Callable[[], Path]


NOTHING: Mapping[str, Begun] = MappingProxyType({})


def zoo(
    config: str | ZooSettings,
    out: Path,
    *,
    where: str = "",
    only: Sequence[str] = (),
    device: str = "auto",
    rounds: int = 1000,
    keep_stale: bool = False,
    progress: Progress | None = None,
    tally: Tally | None = None,
    failed: dict[str, str] | None = None,
    begun: Mapping[str, Begun] = NOTHING,
) -> tuple[list[Row], dict[str, int]]:
    """Fit and measure every row of a table; rows and legs that are done are taken as they are.

    Args:
        config: a file, a packaged table by name, or its settings; `where` then names their place in errors.
        only: rows to make now; all by default.
        rounds: of the bootstrap over groups.
        failed: takes rows that could not be fitted, with the reason; without it they are told at the end.
        begun: what rows that are networks begin with, by name.
        keep_stale: take legs of which the recipe or the code has changed since as they are.

    Returns:
        The rows that are done, best macro F1 first, those not converged last; and the types that are not scored.
    """
    if isinstance(config, str):
        path = assets.find(config, "configs/zoo", ".yaml")
        settings, where = load(ZooSettings, path), str(path)
    else:
        settings = config
    recipes = recipes_of(settings, where)
    unknown = [name for name in only if name not in recipes]
    if unknown:
        raise ConfigError(f"no row '{unknown[0]}'", where=where, remedy=f"the rows are: {', '.join(recipes)}")
    # Another process may be writing the settings this very moment: under a name that begins with a dot.
    there = [p.name for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
    if there and not (out / "settings.yaml").is_file():
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    out.mkdir(parents=True, exist_ok=True)
    _keep(settings, out, where)
    cells, rare = cells_of_table(settings, tally or Tally(), out / COPIES)
    types = types_of(cells)
    legs = legs_of(settings, cells)
    write_cells(cells, legs, out / CELLS)
    few = rare_of(settings, cells, types)
    run = _Zoo(settings, recipes, types, legs, few, out, where, device, rounds, keep_stale, begun)
    rows = run.done()
    broken: dict[str, str] = {}
    for name in only or recipes:
        try:
            run.row(name, progress)
        except ConfigError as error:  # of this row alone, as a loss that is not finite: the others are made
            broken[name] = error.problem
        rows = run.done()
        write(rows, rare, settings, out, broken)
    run.clean()
    if failed is not None:
        failed |= broken
    else:
        refuse(broken, where)
    return rows, rare


def refuse(failed: Mapping[str, str], where: str) -> None:
    """ConfigError where rows could not be fitted."""
    if failed:
        name, why = next(iter(failed.items()))
        what = f"{len(failed)} rows could not be fitted, the first is '{name}': {why}"
        raise ConfigError(what, where=where, remedy="change those rows; all others are done")


def _keep(settings: ZooSettings, out: Path, where: str) -> None:
    """Write the settings down; ConfigError where the table was begun under another protocol. Rows may change."""
    path, told = out / "settings.yaml", settings.model_dump(mode="json")
    if path.is_file():
        there = load_yaml(path)
        changed = [k for k in told if k not in ("rows", "base") and there.get(k) != told[k]]
        if changed:
            what = f"{', '.join(changed)} differ from what the table was begun with"
            raise ConfigError(what, where=where, remedy=f"go on with the settings of {path}, or name another folder")
    write_text(path, dump(settings))


class _Zoo:
    """A table while it is made."""

    def __init__(
        self,
        settings: ZooSettings,
        recipes: Mapping[str, Recipe],
        types: Sequence[str],
        legs: Sequence[Leg],
        few: Mapping[str, Mapping[str, int]],
        out: Path,
        where: str,
        device: str,
        rounds: int,
        keep_stale: bool,
        begun: Mapping[str, Begun],
    ) -> None:
        self.settings, self.recipes, self.types, self.legs = settings, recipes, list(types), legs
        self.few = few
        self.out, self.where, self.device, self.rounds = out, where, device, rounds
        self.keep_stale, self.begun = keep_stale, begun
        self.known: dict[str, list[Row]] = {}  # rows that were measured: the bootstrap takes a while
        self.cells = identity(legs)
        self.code = {detected: code(detected=detected) for detected in (False, True)}
        self.keys = {name: self._key(name) for name in recipes}
        self.parts = {part for recipe in recipes.values() for part in parts_of(recipe) if part in recipes}

    def row(self, name: str, progress: Progress | None) -> None:
        """All legs of a row that are not done."""
        for leg in self.legs:
            if self._is_done(name, leg):
                continue
            if progress is not None:
                progress(name, leg.name)
            with self._alone(name, leg):
                if not self._is_done(name, leg):  # another process may have made it meanwhile
                    self._answer(name, leg)
            self.known.pop(name, None)

    @contextmanager
    def _alone(self, name: str, leg: Leg) -> Iterator[None]:
        """Nobody else fits this row of a leg, or what it is made of; who does is waited for."""
        with ExitStack() as held:
            for one in sorted(self._rows_of(name)):  # in one order everywhere, so that no two wait for each other
                held.enter_context(locks.alone(self.out / "models" / leg.name / one, patience=math.inf))
            yield

    def _path(self, name: str, leg: Leg) -> Path:
        return self.out / "answers" / name / f"{leg.name}.csv"

    def _is_done(self, name: str, leg: Leg) -> bool:
        path = self._path(name, leg)
        if not path.is_file():
            return False
        return self.keep_stale or about_answers(path).get("key") == self.keys[name]

    def _key(self, name: str) -> dict[str, str]:
        """Hashes of what a row rests on."""
        parts = self._with_parts(self.recipes[name])
        told = [by_content(r.model_dump(mode="json")) for r in parts]
        begun = [self.begun[one].key for one in sorted(self._rows_of(name)) if one in self.begun]
        detected = any(getattr(r, "detected_by", None) is not None for r in parts)
        text = json.dumps([told, begun], sort_keys=True)
        return {"recipe": hashlib.sha256(text.encode()).hexdigest(), "cells": self.cells, "code": self.code[detected]}

    def _with_parts(self, recipe: Recipe) -> list[Recipe]:
        parts = [part_of(name, recipe, self.recipes, self.where)[0] for name in parts_of(recipe)]
        return [recipe, *(p for part in parts for p in self._with_parts(part))]

    def _room(self, name: str, leg: Leg) -> Path:
        """Where the models of a leg are; what lies there of a row and its parts under another key is thrown away."""
        home = self.out / "models" / leg.name
        for one in self._rows_of(name):
            path, key = home / one / "key.json", json.dumps(self.keys[one])
            if (home / one).exists() and (not path.is_file() or path.read_text("utf-8") != key):
                shutil.rmtree(home / one)
            (home / one).mkdir(parents=True, exist_ok=True)
            path.write_text(key, "utf-8")
        return home

    def _rows_of(self, name: str) -> set[str]:
        """A row and every other one that it is made of."""
        parts = [part for part in parts_of(self.recipes[name]) if part in self.recipes]
        return {name}.union(*map(self._rows_of, parts))

    def _answer(self, name: str, leg: Leg) -> None:
        where = f"{self.where}: rows.{name}"
        home = self._room(name, leg)
        recipes = {one: _longer(self._begins(one), leg.share) for one in self._rows_of(name)}
        recipe = recipes[name]
        task = Task(
            leg.train, leg.dev, self.types, where, self.out / "features", self.device, resume=True,
            rows=recipes, home=home,
        )  # fmt: skip
        made = fit(recipe, task, home / name)
        dev, test = (keep(cells, self.types, recipe) for cells in (leg.dev, leg.test))
        size, margin, kept = recipe.image_size, recipe.margin, self.out / "features"
        scores = [answers_of(made.model, made.told, c, size, margin, kept) for c in (dev, test)]
        heat = temperature(scores[0], dev.labels)
        about = {
            "leg": leg.name,
            "kind": leg.kind,
            "key": self.keys[name],
            "temperature": heat,
            "parameters": parameters(made.model),
            "epochs": made.about.get("epochs", 0),
            "curves": made.about.get("curves", []),
            "seconds": made.about["seconds"],
            "own_seconds": made.about["own_seconds"],
            "machine": f"{processor()}, {cores()} cores",
            "device": made.about.get("device", "cpu"),
            "cells": {"train": len(leg.train), "dev": len(leg.dev), "test": len(leg.test)},
            "groups": {p: len({c.group for c in getattr(leg, p)}) for p in ("train", "dev", "test")},
        }
        write_answers(self._path(name, leg), leg.test, self.types, scores[1], about)
        if name not in self.parts:
            shutil.rmtree(home / name)

    def _begins(self, name: str) -> Recipe:
        """A row's recipe, with the weights that it begins with where these are made for it."""
        recipe = self.recipes[name]
        return (
            recipe.model_copy(update={"pretrained": str(self.begun[name].weights())}) if name in self.begun else recipe
        )

    def clean(self) -> None:
        """Throw away what was kept for other rows, once all rows are done."""
        if all(self._is_done(n, leg) for n in self.recipes for leg in self.legs):
            shutil.rmtree(self.out / "models", ignore_errors=True)
            shutil.rmtree(self.out / "features", ignore_errors=True)

    def done(self) -> list[Row]:
        """Rows whose every leg is done, best first, those not converged last."""
        rows: list[Row] = []
        for name in self.recipes:
            if name not in self.known and all(self._is_done(name, leg) for leg in self.legs):
                answers = [read_answers(self._path(name, leg), leg.test, self.types) for leg in self.legs]
                kinds = dict.fromkeys(a.about["kind"] for a in answers)
                self.known[name] = [
                    self._measured(name, kind, [a for a in answers if a.about["kind"] == kind]) for kind in kinds
                ]
            rows += self.known.get(name, [])
        return sorted(rows, key=lambda r: (not r.ranked, r.kind, -r.report.macro_f1.value))

    def _measured(self, name: str, kind: str, answers: Sequence[Answers]) -> Row:
        truth = np.concatenate([a.truth for a in answers])
        groups = [g for a in answers for g in a.groups]
        told = np.concatenate([softmax(a.scores, a.about["temperature"]) for a in answers])
        plain = np.concatenate([softmax(a.scores) for a in answers])
        rounds, seed = self.rounds, self.settings.seed
        rare = self.few[kind]
        scored = [t for t in self.types if t not in rare]
        report = measure(self.types, truth, told, groups, plain=plain, scored=scored, rounds=rounds, seed=seed)
        each = [
            measure(self.types, a.truth, softmax(a.scores), a.groups, scored=scored, rounds=2).macro_f1.value
            for a in answers
        ]
        stale = any(a.about.get("key") != self.keys[name] for a in answers)
        row = Row(
            name=name,
            stale=stale,
            kind=kind,
            rare=rare,
            learnt_groups=float(np.mean([a.about["groups"]["train"] for a in answers])),
            report=report,
            spread=float(np.std(each, ddof=1)) if len(each) > 1 else float("nan"),
            parameters=max(a.about["parameters"] for a in answers),
            epochs=float(np.mean([a.about["epochs"] for a in answers])),
            converged=_at_rest([a.about["curves"] for a in answers]),
            minutes=sum(a.about["seconds"] for a in answers) / 60,
            own_minutes=sum(a.about["own_seconds"] for a in answers) / 60,
            machines=tuple(sorted({_where(a.about) for a in answers})),
            held=Held(truth, told.argmax(axis=1), tuple(groups), tuple(self.types.index(t) for t in scored)),
        )
        folder = self.out / "rows"
        folder.mkdir(exist_ok=True)
        legs = [dict(a.about) | {"macro_f1": f1} for a, f1 in zip(answers, each, strict=True)]
        file = f"{name}, {kind}" if kind else name
        write_text(folder / f"{file.replace('/', '-')}.json", plain_json(row_json(row) | {"legs": legs}))
        return row


def _where(about: Mapping[str, Any]) -> str:
    """On what a leg was fitted."""
    machine, device = about.get("machine", "not told"), about.get("device", "cpu")
    return machine if device == "cpu" else f"{machine}, {device}"


def _at_rest(curves: Sequence[Sequence[Sequence[float] | None]]) -> bool:
    """Whether no network of a row still got better: by the mean of its curves over the legs, (legs, networks, epochs).

    One leg's dev is too small to tell.
    """
    each = ([c for c in network if c is not None] for network in zip(*curves, strict=True))
    return not any(told and still_rises(mean_curve(told)) for told in each)


def _longer(recipe: Recipe, share: float) -> Recipe:
    """The recipe of a network that learns from a share of the cells, in as many steps as from all."""
    if isinstance(recipe, ClassifierSettings) and share < 1:
        return recipe.model_copy(update={"epochs": round(recipe.epochs / share)})
    return recipe
