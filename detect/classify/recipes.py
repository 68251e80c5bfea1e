"""Recipes before anything is read: whether they can be fitted, and the parts that they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detect import assets
from detect.bundles.folder import open_bundle
from detect.classify import heads, networks
from detect.classify.settings import (
    ClassifierSettings,
    CropSettings,
    DeepFeatures,
    EnsembleSettings,
    HandMade,
    HybridSettings,
    Recipe,
    load_recipe,
)
from detect.data import augment
from detect.errors import ConfigError
from detect.images import preprocess

_CROP = tuple(CropSettings.model_fields)


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
    heads.made(recipe.head.name, recipe.head.args, recipe.seed, where)
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
