"""Augmentation of training images, as albumentations transforms named in a configuration.

Any transform of albumentations that keeps boxes may be named with its arguments. They are built here, so that a
misspelt name or argument is an error before training starts and not a warning in its log.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from detect.config import Settings
from detect.errors import ConfigError, MissingExtraError


class Transform(Settings):
    """One transform: its albumentations class, and its arguments (`p`: how often it is applied)."""

    name: str
    args: dict[str, Any] = {}


def _usable(kind: Any, image_only: type) -> bool:
    """Whether a class is a finished transform that changes pixels only, or takes the boxes along."""
    if not inspect.isclass(kind) or not hasattr(kind, "_targets") or kind.__module__.endswith("transforms_interface"):
        return False
    targets = kind._targets if isinstance(kind._targets, tuple) else (kind._targets,)
    return issubclass(kind, image_only) or any(target.name == "BBOXES" for target in targets)


def build(transforms: Sequence[Transform], where: str) -> list[Any]:
    """The albumentations objects.

    Args:
        where: the configuration file, for errors.
    """
    try:
        import albumentations as A
    except ImportError:
        raise MissingExtraError("augmentation", "train") from None
    out = []
    for i, transform in enumerate(transforms):
        place = f"{where}: augment.{i}"
        kind: Any = getattr(A, transform.name, None)
        if kind is A.Lambda or not _usable(kind, A.ImageOnlyTransform):
            what = f"albumentations has no transform '{transform.name}' that keeps boxes"
            raise ConfigError(what, where=place, remedy="see the list of transforms of albumentations")
        known = set(inspect.signature(kind).parameters)
        unknown = sorted(set(transform.args) - known)
        if unknown:
            what = f"{transform.name} has no argument {unknown}"
            raise ConfigError(what, where=place, remedy=f"it takes: {', '.join(sorted(known))}")
        args = {k: tuple(v) if isinstance(v, list) else v for k, v in transform.args.items()}
        try:
            out.append(kind(**args))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{transform.name}: {error}", where=place) from error
    return out
