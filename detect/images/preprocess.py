"""What is done to a picture before a model sees it, as named steps in a configuration.

The same steps must be done in training and in scoring. Those that need a reference picture are therefore fitted once,
and the numbers travel with the model in the place of the path.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field as Key
from pydantic import model_validator

from detect.config import Settings, parse
from detect.errors import ConfigError, ImageError
from detect.images import decode, filters, stain
from detect.types import Image

Number = Annotated[float, Key(allow_inf_nan=False)]
Spread = Annotated[float, Key(ge=0, allow_inf_nan=False)]
Amount = Annotated[float, Key(gt=0, allow_inf_nan=False)]
Three = tuple[Number, Number, Number]
Two = tuple[Number, Number]


class Step(Settings):
    """One step: a name of `STEPS`, and its arguments."""

    name: str
    args: dict[str, Any] = {}


class Operation(Settings):
    """A step with its arguments checked."""

    def fit(self) -> Self:
        """The operation with numbers in the place of a reference picture; ImageError where they cannot be had."""
        return self

    @abstractmethod
    def apply(self, image: Image) -> Image:
        """The picture after the step, uint8 RGB (H, W, 3), C-contiguous."""


class Macenko(Operation):
    """Stain normalization after Macenko et al. (2009); see `stain.apply_macenko`.

    Attributes:
        reference: path of a picture with the stains to give; or
        vectors: rows red, green, blue, columns the two stains, and most: 99th percentile of each.
        light: grey level of the empty ground. alpha: percentile of directions left out.
        beta: density that a stained pixel has in all channels.
    """

    reference: Path | None = None
    vectors: tuple[Two, Two, Two] | None = None
    most: tuple[Amount, Amount] | None = None
    light: float = Key(stain.LIGHT, ge=1, le=255)
    alpha: float = Key(stain.ALPHA, ge=0, lt=50)
    beta: float = Key(stain.BETA, gt=0, le=2)

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
        _either(self.reference, {"vectors": self.vectors, "most": self.most})
        return self

    def fit(self) -> Self:
        if self.reference is None:
            return self
        found = stain.fit_macenko(decode.read(self.reference), light=self.light, alpha=self.alpha, beta=self.beta)
        if found is None:
            raise ImageError(
                "shows no two stains", where=str(self.reference), remedy="take a field with cells and nuclei"
            )
        numbers = {"vectors": found.vectors.tolist(), "most": found.most.tolist()}
        return self.model_validate(self.model_dump(exclude={"reference"}) | numbers)

    def apply(self, image: Image) -> Image:
        if self.vectors is None or self.most is None:
            raise _unfitted("Macenko")
        reference = stain.MacenkoReference(np.array(self.vectors), np.array(self.most))
        return stain.apply_macenko(image, reference, light=self.light, alpha=self.alpha, beta=self.beta)


class Reinhard(Operation):
    """Colour normalization after Reinhard et al. (2001); see `stain.apply_reinhard`.

    Attributes:
        reference: path of a picture with the colours to give; or
        mean, spread: mean and standard deviation of CIELAB's L, a and b.
    """

    reference: Path | None = None
    mean: Three | None = None
    spread: tuple[Spread, Spread, Spread] | None = None

    @model_validator(mode="after")
    def _one_reference(self) -> Self:
        _either(self.reference, {"mean": self.mean, "spread": self.spread})
        return self

    def fit(self) -> Self:
        if self.reference is None:
            return self
        found = stain.fit_reinhard(decode.read(self.reference))
        return self.model_validate({"mean": found.mean.tolist(), "spread": found.spread.tolist()})

    def apply(self, image: Image) -> Image:
        if self.mean is None or self.spread is None:
            raise _unfitted("Reinhard")
        return stain.apply_reinhard(image, stain.ReinhardReference(np.array(self.mean), np.array(self.spread)))


class CorrectIllumination(Operation):
    """Even light; `most` is the largest gain."""

    most: float = Key(2.0, ge=1, le=8)

    def apply(self, image: Image) -> Image:
        return filters.correct_illumination(image, self.most)


class MedianDenoise(Operation):
    """Median in a square window of `size` pixels."""

    size: Literal[3, 5, 7] = 3

    def apply(self, image: Image) -> Image:
        return filters.median(image, self.size)


class GaussianDenoise(Operation):
    """Gaussian blur, `sigma` in pixels."""

    sigma: float = Key(1.0, ge=0.1, le=20)

    def apply(self, image: Image) -> Image:
        return filters.gaussian(image, self.sigma)


class Unsharp(Operation):
    """Unsharp mask, `sigma` in pixels."""

    sigma: float = Key(1.0, ge=0.1, le=20)
    amount: float = Key(1.0, ge=0, le=10)

    def apply(self, image: Image) -> Image:
        return filters.unsharp(image, self.sigma, self.amount)


class AdaptiveUnsharp(Operation):
    """Unsharp mask that spares flat ground; `noise` in grey levels."""

    sigma: float = Key(1.0, ge=0.1, le=20)
    amount: float = Key(1.5, ge=0, le=10)
    noise: float = Key(8.0, gt=0, le=255)

    def apply(self, image: Image) -> Image:
        return filters.adaptive_unsharp(image, self.sigma, self.amount, self.noise)


class LogHighBoost(Operation):
    """High boost by the Laplacian of Gaussian, `sigma` in pixels."""

    sigma: float = Key(1.5, ge=0.7, le=20)
    amount: float = Key(1.0, ge=0, le=10)

    def apply(self, image: Image) -> Image:
        return filters.log_high_boost(image, self.sigma, self.amount)


class ColourSpace(Operation):
    """Another colour space, packed into three bytes as `filters.colour_space` says."""

    space: filters.Space

    def apply(self, image: Image) -> Image:
        return filters.colour_space(image, self.space)


STEPS: dict[str, type[Operation]] = {
    "Macenko": Macenko,
    "Reinhard": Reinhard,
    "CorrectIllumination": CorrectIllumination,
    "MedianDenoise": MedianDenoise,
    "GaussianDenoise": GaussianDenoise,
    "Unsharp": Unsharp,
    "AdaptiveUnsharp": AdaptiveUnsharp,
    "LogHighBoost": LogHighBoost,
    "ColourSpace": ColourSpace,
}


def operation(step: Step, where: str) -> Operation:
    """The step with its arguments checked; ConfigError names `where` (the file and the key) and what is wrong."""
    kind = STEPS.get(step.name)
    if kind is None:
        what = f"no preprocessing step '{step.name}'"
        raise ConfigError(what, where=where, remedy=f"the steps are: {', '.join(STEPS)}")
    return parse(kind, step.args, f"{where}: {step.name}")


def check(steps: Sequence[Step], where: str) -> None:
    """Raise ConfigError at the first step that is unknown or has wrong arguments."""
    for i, step in enumerate(steps):
        operation(step, f"{where}: preprocess.{i}")


def fit(steps: Sequence[Step], where: str) -> tuple[Step, ...]:
    """The steps as a model keeps them: fitted, every argument written out, nothing but numbers and text.

    Args:
        where: the configuration file, for errors. A reference that is not absolute is looked up from the working
            directory.
    """
    return tuple(fitted(step, f"{where}: preprocess.{i}") for i, step in enumerate(steps))


def fitted(step: Step, where: str) -> Step:
    """One step of `fit`; `where` is the file and the key."""
    try:
        done = operation(step, where).fit()
    except ImageError as error:
        raise ConfigError(
            f"{step.name}: the reference {error.where}: {error.problem}", where=where, remedy=error.remedy
        ) from error
    return Step(name=step.name, args=done.model_dump(mode="json", exclude_none=True))


def apply(image: Image, steps: Sequence[Step]) -> Image:
    """The picture, uint8 RGB (H, W, 3), after fitted steps in their order. The one given is left as it is."""
    for i, step in enumerate(steps):
        image = operation(step, f"preprocess.{i}").apply(image)
    return np.ascontiguousarray(image)


def _either(path: Path | None, numbers: dict[str, Any]) -> None:
    given = [name for name, value in numbers.items() if value is not None]
    if (path is None) != (len(given) == len(numbers)) or (path is not None and given):
        raise ValueError(f"give either 'reference', or {' and '.join(repr(n) for n in numbers)}")


def _unfitted(name: str) -> ConfigError:
    return ConfigError(f"{name}: the reference is a path yet", remedy="fit the steps before they are applied")
