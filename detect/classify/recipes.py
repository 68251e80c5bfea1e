"""Recipes before anything is read: those of a table, whether they can be fitted, and the parts that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from detect import assets
from detect.bundles.folder import open_bundle
from detect.classify import networks
from detect.classify.settings import (
    ClassifierSettings,
    CropSettings,
    DeepFeatures,
    EnsembleSettings,
    HandMade,
    HybridSettings,
    Recipe,
    ZooSettings,
    kind_of,
    load_recipe,
    recipe_of,
)
from detect.data import augment
from detect.errors import ConfigError
from detect.images import preprocess

_CROP = tuple(CropSettings.model_fields)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _,.+@%-]*")  # of a row: it is a file's name too


def check(
    recipe: Recipe, where: str, rows: Mapping[str, Recipe] | None = None, above: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """ConfigError where a recipe cannot be fitted, as far as that is known before anything is read.

    Args:
        rows: recipes that a part may name, before a file of that name is looked for. above: names of what this is a
            part of.

    Returns:
        The measured features that it takes.
    """
    rows = rows or {}
    preprocess.check(recipe.preprocess, where)
    if isinstance(recipe, ClassifierSettings):
        networks.check(recipe.network, recipe.image_size, where)
        augment.build(recipe.augment, where)
        _check_files(recipe.pretrained, recipe.detected_by, where)
        return ()
    parts = recipe.members if isinstance(recipe, EnsembleSettings) else networks_of(recipe)
    measured = {_check_part(name, recipe, where, rows, above) for name in parts} - {()}
    if isinstance(recipe, EnsembleSettings):
        if len(measured) > 1:
            told = "; ".join(", ".join(m) for m in sorted(measured))
            what = f"members measure different features: {told}"
            raise ConfigError(what, where=where, remedy="let those that measure name the same, in the same order")
        return next(iter(measured), ())
    return _check_hybrid(recipe, where)


def networks_of(recipe: HybridSettings) -> list[str]:
    """The parts of a hybrid that are trained."""
    return [k.network for k in recipe.features if isinstance(k, DeepFeatures) and not k.frozen]


def _check_part(
    name: str, whole: HybridSettings | EnsembleSettings, where: str, rows: Mapping[str, Recipe], above: tuple[str, ...]
) -> tuple[str, ...]:
    if name in above:
        what = f"{name} is a part of itself, by way of {' and '.join(above)}"
        raise ConfigError(what, where=where, remedy="name a network or a file that does not come back to it")
    part, place = part_of(name, whole, rows, where)
    if isinstance(whole, HybridSettings) and not isinstance(part, ClassifierSettings):
        raise ConfigError(f"features: {name} is no network", where=where, remedy="name the configuration of one")
    if isinstance(part, ClassifierSettings) and part.stages:
        what = f"{name} is trained in stages"
        raise ConfigError(what, where=place, remedy="train it first, and give its weights as pretrained")
    return check(part, place, rows, (*above, name))


def _check_hybrid(recipe: HybridSettings, where: str) -> tuple[str, ...]:
    from detect.classify import fitted_heads

    fitted_heads.made(recipe.head.name, recipe.head.args, recipe.seed, where)
    _check_files(False, recipe.detected_by, where)
    names: list[str] = []
    for kind in recipe.features:
        if isinstance(kind, HandMade):
            from detect.classify import handmade

            handmade.check(kind.handmade, where)
            names += kind.handmade
        elif kind.frozen:
            networks.check(kind.network, recipe.image_size, where)
            _check_files(kind.pretrained, None, where)
    if len(set(names)) != len(names):
        raise ConfigError("features: a measured feature is named twice", where=where, remedy="name each once")
    return tuple(names)


def _check_files(pretrained: bool | str, detected_by: str | None, where: str) -> None:
    if isinstance(pretrained, str) and not Path(pretrained).is_file():
        raise ConfigError(f"pretrained: no file '{pretrained}'", where=where, remedy="give a path, true or false")
    if detected_by is not None:
        open_bundle(detected_by, "detector")


def part_of(name: str, whole: CropSettings, rows: Mapping[str, Recipe], where: str) -> tuple[Recipe, str]:
    """The recipe of a part, which sees the same crops as the whole, and where it stands."""
    if name in rows:
        part = rows[name]
        differs = [key for key in _CROP if getattr(part, key) != getattr(whole, key)]
        if differs:
            what = f"{name} and what it is a part of differ in {', '.join(differs)}"
            raise ConfigError(what, where=where, remedy="a row that is a part of another sees the same crops")
        return part, f"{where}, {name}"
    path = assets.find(name, "configs/classifiers", ".yaml")
    given = {key: getattr(whole, key) for key in _CROP}
    return load_recipe(path).model_copy(update=given | {"seed": getattr(whole, "seed", 1)}), str(path)


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


def parts_of(recipe: Recipe) -> list[str]:
    """The names that a recipe gives its parts."""
    if isinstance(recipe, EnsembleSettings):
        return list(recipe.members)
    return networks_of(recipe) if isinstance(recipe, HybridSettings) else []
