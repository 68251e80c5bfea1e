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

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from detect import assets
from detect.classify.bundled import softmax
from detect.classify.cells import keep
from detect.classify.fit import Task, answers_of, check, fit, parameters
from detect.classify.legs import Leg, cells_of_table, legs_of, write_cells
from detect.classify.settings import (
    DeepFeatures,
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
    recipes = {name: _recipe(settings, name, str(path)) for name in settings.rows}
    unknown = [name for name in only if name not in recipes]
    if unknown:
        raise ConfigError(f"no row '{unknown[0]}'", where=str(path), remedy=f"the rows are: {', '.join(recipes)}")
    for name, recipe in recipes.items():
        check(recipe, f"{path}: rows.{name}", recipes)
    if out.exists() and any(out.iterdir()) and not (out / "settings.yaml").is_file():
        raise StoreError("the folder is not empty", where=str(out), remedy="name another")
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(settings, out, str(path))
    cells, rare = cells_of_table(settings, tally or Tally())
    types = types_of(cells)
    legs = legs_of(settings, cells)
    write_cells(cells, legs, out / CELLS)
    run = _Zoo(settings, recipes, types, legs, out, str(path), device, rounds)
    for name in only or recipes:
        run.row(name, progress)
    run.clean()
    rows = run.done()
    write(rows, rare, settings, out)
    return rows, rare


def _recipe(settings: ZooSettings, name: str, where: str) -> Recipe:
    own = settings.rows[name]
    # A hybrid or an ensemble takes of what all share only what it knows.
    known = kind_of(own).model_fields
    return recipe_of({k: v for k, v in settings.base.items() if k in known} | own, f"{where}: rows.{name}")


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
        recipe = self.recipes[name]
        where = f"{self.where}: rows.{name}"
        recipe = recipe.model_copy(update={"preprocess": preprocess.fit(recipe.preprocess, where)})
        home = self.out / "models" / leg.name
        task = Task(
            leg.train, leg.dev, self.types, where, self.out / "features", self.device, resume=True,
            rows=self.recipes, home=home,
        )  # fmt: skip
        started = time.monotonic()
        made = fit(recipe, task, home / name)
        seconds = time.monotonic() - started
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
            "seconds": round(seconds, 1),
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
        given = {"rounds": self.rounds, "seed": self.settings.seed}
        report = measure(self.types, truth, told, groups, 0.0, **given)
        before = measure(self.types, truth, plain, groups, 0.0, **given).ece
        each = [
            measure(self.types, a.truth, softmax(a.scores), a.groups, 0.0, rounds=2).macro_f1.value for a in answers
        ]
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
        file = f"{name}{'-' if kind else ''}{kind}".replace("/", "-").replace(" ", "-")
        (folder / f"{file}.json").write_text(plain_json(row_json(row) | {"legs": legs}), "utf-8")
        return row


def parts_of(recipe: Recipe) -> Iterator[str]:
    """The names that a recipe gives its parts."""
    if isinstance(recipe, EnsembleSettings):
        yield from recipe.members
    elif isinstance(recipe, HybridSettings):
        yield from (k.network for k in recipe.features if isinstance(k, DeepFeatures) and not k.frozen)
