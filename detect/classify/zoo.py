"""Many recipes under one protocol: the table of models. `smear evaluate zoo`.

OUT/
  settings.yaml          the zoo's own; another cannot go on in the same folder
  cells.csv              every cell, its type, source and group, and its part in each leg
  answers/<row>/<leg>.csv   what a row answers for the cells that a leg holds out
  rows/<row>.json        figures of a row, once all its legs are done
  models/<leg>/<row>/    what was fitted, while it is needed
  zoo.json, zoo.csv, zoo.md   the table, after every row
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from detect import assets
from detect.classify.bundled import softmax
from detect.classify.cells import keep
from detect.classify.fit import Task, answers_of, fit, parameters
from detect.classify.legs import Leg, cells_of_table, legs_of, write_cells
from detect.classify.recipes import check, networks_of
from detect.classify.settings import (
    ClassifierSettings,
    EnsembleSettings,
    HybridSettings,
    Recipe,
    ZooSettings,
    kind_of,
    recipe_of,
)
from detect.classify.train import types_of
from detect.classify.zoo_table import Answers, Row, read_answers, row_json, write, write_answers
from detect.config import load
from detect.detectors.train import keep_settings
from detect.errors import ConfigError, StoreError
from detect.evaluate.classification import measure, temperature
from detect.evaluate.intervals import plain_json
from detect.formats.tally import Tally
from detect.images import preprocess

CELLS = "cells.csv"


Progress = Callable[[str, str], None]  # row, leg


def zoo(
    config: str,
    out: Path,
    *,
    only: Sequence[str] = (),
    device: str = "auto",
    rounds: int = 1000,
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> tuple[list[Row], dict[str, int]]:
    """Fit and measure every row of a table; rows and legs that are done are taken as they are.

    Args:
        only: rows to make now; all by default.
        rounds: of the bootstrap over groups.

    Returns:
        The rows that are done, best macro F1 first, those not converged last; and the types that are not scored.
    """
    path = assets.find(config, "configs/zoo", ".yaml")
    settings = load(ZooSettings, path)
    recipes = recipes_of(settings, str(path))
    unknown = [name for name in only if name not in recipes]
    if unknown:
        raise ConfigError(f"no row '{unknown[0]}'", where=str(path), remedy=f"the rows are: {', '.join(recipes)}")
    if out.exists() and any(out.iterdir()) and not (out / "settings.yaml").is_file():
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(settings, out, str(path))
    cells, rare = cells_of_table(settings, tally or Tally())
    types = types_of(cells)
    legs = legs_of(settings, cells)
    write_cells(cells, legs, out / CELLS)
    run = _Zoo(settings, recipes, types, legs, out, str(path), device, rounds)
    rows = run.done()
    for name in only or recipes:
        run.row(name, progress)
        rows = run.done()
        write(rows, rare, settings, out)
    run.clean()
    return rows, rare


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _,.+@%-]*")  # of a row: it is a file's name too


def recipes_of(settings: ZooSettings, where: str) -> dict[str, Recipe]:
    """The rows' recipes, with what all share, checked; what is done to fields is fitted.

    A hybrid or an ensemble takes of what all share only what it knows.
    """
    known = {key for kind in (ClassifierSettings, HybridSettings, EnsembleSettings) for key in kind.model_fields}
    strange = sorted(set(settings.base) - known)
    if strange:
        what = f"base: unknown key '{strange[0]}'"
        raise ConfigError(what, where=where, remedy=f"known keys: {', '.join(sorted(known))}")
    out: dict[str, Recipe] = {}
    for name, own in settings.rows.items():
        if not _NAME.fullmatch(name) or ".." in name:
            what = f"rows: '{name}' is no name of a row"
            raise ConfigError(what, where=where, remedy="use letters, digits, spaces and _ , . + @ % -")
        fits = kind_of(own).model_fields
        place = f"{where}: rows.{name}"
        recipe = recipe_of({k: v for k, v in settings.base.items() if k in fits} | own, place)
        if isinstance(recipe, ClassifierSettings) and recipe.stages:
            raise ConfigError("stages: a row learns from the table's cells", where=place, remedy="drop them")
        out[name] = recipe.model_copy(update={"preprocess": preprocess.fit(recipe.preprocess, place)})
    for name, recipe in out.items():
        check(recipe, f"{where}: rows.{name}", out, (name,))
    return out


class _Zoo:
    """A table while it is made."""

    def __init__(
        self,
        settings: ZooSettings,
        recipes: Mapping[str, Recipe],
        types: Sequence[str],
        legs: Sequence[Leg],
        out: Path,
        where: str,
        device: str,
        rounds: int,
    ) -> None:
        self.settings, self.recipes, self.types, self.legs = settings, recipes, list(types), legs
        self.out, self.where, self.device, self.rounds = out, where, device, rounds
        self.parts = {part for recipe in recipes.values() for part in parts_of(recipe) if part in recipes}

    def row(self, name: str, progress: Progress | None) -> None:
        """All legs of a row that are not done."""
        for leg in self.legs:
            path = self.out / "answers" / name / f"{leg.name}.csv"
            if path.is_file():
                continue
            if progress is not None:
                progress(name, leg.name)
            self._answer(name, leg, path)

    def _answer(self, name: str, leg: Leg, path: Path) -> None:
        recipe, where = self.recipes[name], f"{self.where}: rows.{name}"
        home = self.out / "models" / leg.name
        task = Task(
            leg.train, leg.dev, self.types, where, self.out / "features", self.device, resume=True,
            rows=self.recipes, home=home,
        )  # fmt: skip
        made = fit(recipe, task, home / name)
        dev, test = (keep(cells, self.types, recipe) for cells in (leg.dev, leg.test))
        scores = [answers_of(made.model, made.told, c, recipe.image_size, recipe.margin) for c in (dev, test)]
        heat = temperature(scores[0], dev.labels)
        about = {
            "leg": leg.name,
            "kind": leg.kind,
            "temperature": heat,
            "parameters": parameters(made.model),
            "epochs": made.about.get("epochs", 0),
            "still_rising": bool(made.about.get("still_rising")),
            "seconds": made.about["seconds"],
            "cells": {"train": len(leg.train), "dev": len(leg.dev), "test": len(leg.test)},
            "groups": {p: len({c.group for c in getattr(leg, p)}) for p in ("train", "dev", "test")},
        }
        write_answers(path, leg.test, self.types, scores[1], about)
        if name not in self.parts:
            shutil.rmtree(home / name)

    def clean(self) -> None:
        """Throw away what was kept for other rows, once all rows are done."""
        if all((self.out / "answers" / n / f"{leg.name}.csv").is_file() for n in self.recipes for leg in self.legs):
            shutil.rmtree(self.out / "models", ignore_errors=True)
            shutil.rmtree(self.out / "features", ignore_errors=True)

    def done(self) -> list[Row]:
        """Rows whose every leg is done, best first, those not converged last."""
        rows: list[Row] = []
        for name in self.recipes:
            paths = [self.out / "answers" / name / f"{leg.name}.csv" for leg in self.legs]
            if all(p.is_file() for p in paths):
                answers = [read_answers(p, self.types) for p in paths]
                kinds = dict.fromkeys(a.about["kind"] for a in answers)
                rows += [self._measured(name, kind, [a for a in answers if a.about["kind"] == kind]) for kind in kinds]
        return sorted(rows, key=lambda r: (not r.converged, r.kind, -r.report.macro_f1.value))

    def _measured(self, name: str, kind: str, answers: Sequence[Answers]) -> Row:
        truth = np.concatenate([a.truth for a in answers])
        groups = [g for a in answers for g in a.groups]
        told = np.concatenate([softmax(a.scores, a.about["temperature"]) for a in answers])
        plain = np.concatenate([softmax(a.scores) for a in answers])
        rounds, seed = self.rounds, self.settings.seed
        report = measure(self.types, truth, told, groups, rounds=rounds, seed=seed)
        before = measure(self.types, truth, plain, groups, rounds=rounds, seed=seed).ece
        each = [measure(self.types, a.truth, softmax(a.scores), a.groups, rounds=2).macro_f1.value for a in answers]
        row = Row(
            name=name,
            kind=kind,
            report=report,
            spread=float(np.std(each, ddof=1)) if len(each) > 1 else float("nan"),
            parameters=max(a.about["parameters"] for a in answers),
            epochs=float(np.mean([a.about["epochs"] for a in answers])),
            converged=not any(a.about["still_rising"] for a in answers),
            minutes=sum(a.about["seconds"] for a in answers) / 60,
            ece_before=before,
        )
        folder = self.out / "rows"
        folder.mkdir(exist_ok=True)
        legs = [dict(a.about) | {"macro_f1": f1} for a, f1 in zip(answers, each, strict=True)]
        file = f"{name}, {kind}" if kind else name
        (folder / f"{file.replace('/', '-')}.json").write_text(plain_json(row_json(row) | {"legs": legs}), "utf-8")
        return row


def parts_of(recipe: Recipe) -> list[str]:
    """The names that a recipe gives its parts."""
    if isinstance(recipe, EnsembleSettings):
        return list(recipe.members)
    return networks_of(recipe) if isinstance(recipe, HybridSettings) else []
