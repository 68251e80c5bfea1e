"""Augmentation of training images, as transforms named in a configuration: ours, or those of albumentations.

Any transform of albumentations that keeps boxes may be named with its arguments, and so may those of
`transforms.OURS`. They are built here, so that a misspelt name or argument is an error before training starts and not
a warning in its log.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from detect import assets
from detect.config import Settings, load_yaml, parse
from detect.errors import ConfigError, MissingExtraError
from detect.images.preprocess import STEPS, Step, check, fitted

_HOMES = ("configs/transforms", "configs/detectors", "configs/classifiers")
_TRAINING = {"family", "network"}  # one of these keys says that a file sets up a training


class Transform(Settings):
    """One transform: its name, and its arguments (`p`: how often it is applied)."""

    name: str
    args: dict[str, Any] = {}


class TransformSet(Settings):
    """A named set of `configs/transforms/`.

    Attributes:
        preprocess: done to every picture, in training and in scoring. augment: done now and then, in training only.
    """

    preprocess: tuple[Step, ...] = ()
    augment: tuple[Transform, ...] = ()


def load_set(given: str) -> tuple[TransformSet, str]:
    """A set of transforms and the file that it stands in, for errors; every name and argument is checked by `build`.

    Args:
        given: path or name of a set of `configs/transforms/`, or of a detector's or classifier's configuration, of
            which these keys are taken.
    """
    home = next((folder for folder in _HOMES if assets.is_packaged(given, folder, ".yaml")), _HOMES[0])
    path = assets.find(given, home, ".yaml")
    values = load_yaml(path)
    if _TRAINING & values.keys():
        values = {key: values[key] for key in TransformSet.model_fields if key in values}
    chosen = parse(TransformSet, values, str(path))
    check(chosen.preprocess, str(path))
    return chosen, str(path)


def _usable(kind: Any, image_only: type) -> bool:
    """Whether a class is a finished transform that changes pixels only, or takes the boxes along."""
    if not inspect.isclass(kind) or not hasattr(kind, "_targets") or kind.__module__.endswith("transforms_interface"):
        return False
    targets = kind._targets if isinstance(kind._targets, tuple) else (kind._targets,)
    return issubclass(kind, image_only) or any(target.name == "BBOXES" for target in targets)


def build(transforms: Sequence[Transform], where: str, *, metadata: bool = False, bgr: bool = False) -> list[Any]:
    """The albumentations objects.

    Args:
        where: the configuration file, for errors.
        metadata: the caller hands other pictures over under each transform's `metadata_key`; without it, transforms
            that need them (Mosaic, MixUp) are refused.
        bgr: the caller's pictures are BGR; ours that look at colour swap channels, those of albumentations do not.
    """
    try:
        import albumentations as A

        from detect.data.transforms import OURS
    except ImportError:
        raise MissingExtraError("augmentation", "train") from None
    out = []
    for i, transform in enumerate(transforms):
        place = f"{where}: augment.{i}"
        kind: Any = OURS.get(transform.name) or getattr(A, transform.name, None)
        if kind is A.Lambda or not _usable(kind, A.ImageOnlyTransform):
            what = f"albumentations has no transform '{transform.name}' that keeps boxes"
            remedy = f"see the list of transforms of albumentations; ours are {', '.join(OURS)}"
            raise ConfigError(what, where=place, remedy=remedy)
        args = _step_args(transform, place) if transform.name in STEPS else dict(transform.args)
        known = set(inspect.signature(kind).parameters) - {"bgr"}
        unknown = sorted(set(args) - known)
        if unknown:
            what = f"{transform.name} has no argument {unknown}"
            raise ConfigError(what, where=place, remedy=f"it takes: {', '.join(sorted(known))}")
        args = {k: tuple(v) if isinstance(v, list) else v for k, v in args.items()}
        if transform.name in OURS and "bgr" in inspect.signature(kind).parameters:
            args["bgr"] = bgr
        try:
            made = kind(**args)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{transform.name}: {error}", where=place) from error
        if hasattr(made, "metadata_key") and not metadata:
            what = f"{transform.name} needs other pictures, and none are handed over here"
            raise ConfigError(
                what, where=place, remedy="leave it out; some families have a hyperparameter in its place"
            )
        out.append(made)
    return out


def _step_args(transform: Transform, place: str) -> dict[str, Any]:
    """Arguments of a preprocessing step as its transform takes them: `p` apart, the rest checked and fitted."""
    step = Step(name=transform.name, args={k: v for k, v in transform.args.items() if k != "p"})
    return {"args": fitted(step, place).args} | {k: v for k, v in transform.args.items() if k == "p"}
