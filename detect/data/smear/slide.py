"""One slide: its disease, its stain, its light and its camera, drawn once and shared by all its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detect.data.smear.settings import Look, Range, Smear
from detect.data.smear.texture import Texture

Floats = NDArray[np.float32]
DYES = ("red", "chromatin", "pink", "blue", "orange", "purple", "black")
_BRIGHTEST = 254.0


def between(rng: np.random.Generator, span: Range) -> float:
    """A number of a range."""
    return float(rng.uniform(span[0], span[1]))


@dataclass(frozen=True, eq=False)
class Slide:
    """What all fields of a slide share.

    Attributes:
        disease: a key of the settings' diseases. ground: float32 (3,), RGB of the empty ground, 0 to 255.
        dyes: to each of `DYES` float32 (3,), natural optical density of red, green and blue at density 1.
        px_per_um: pixels a micrometre. optics, reds: by the settings' names, drawn.
        white_per_field: white cells in `FIELD_UM2`.
    """

    number: int
    disease: str
    ground: Floats
    dyes: Mapping[str, Floats]
    px_per_um: float
    optics: Mapping[str, float]
    reds: Mapping[str, float]
    white_per_field: float
    debris: Mapping[str, float]
    texture: Texture


def draw(settings: Smear, seed: int, number: int) -> Slide:
    """The slide of some number; disease goes round, so that a few slides show several."""
    sequence = np.random.SeedSequence([seed, number])
    grain, rest = sequence.spawn(2)
    rng = np.random.default_rng(rest)
    diseases = list(settings.diseases)
    first = int(np.random.default_rng([seed]).integers(len(diseases)))
    disease = diseases[(first + number) % len(diseases)]
    ground, dyes = _stain(settings, rng)
    told = settings.optics
    spans: dict[str, Range] = {k: v for k, v in told if isinstance(v, tuple) and k not in ("px_per_um", "jpeg")}
    optics = {k: between(rng, v) for k, v in spans.items()}
    optics["jpeg"] = float(rng.integers(told.jpeg[0], told.jpeg[1] + 1))
    optics["out_of_focus"] = told.out_of_focus
    # As many slides of small cells as of large ones: evenly in the logarithm.
    scale = float(np.exp(rng.uniform(*np.log(told.px_per_um))))
    reds = {k: between(rng, v) for k, v in settings.reds}
    reds["way"] = float(rng.uniform(0, np.pi))  # that the film was drawn
    debris = {k: between(rng, v) if isinstance(v, tuple) else float(v) for k, v in settings.debris}
    whites = between(rng, settings.diseases[disease].white_per_field)
    return Slide(number, disease, ground, dyes, scale, optics, reds, whites, debris, Texture(grain))


def _stain(settings: Smear, rng: np.random.Generator) -> tuple[Floats, dict[str, Floats]]:
    """Ground and dyes: a mixture of two looks in optical density, each dye a little off, all of one strength."""
    names = list(settings.looks)
    shares = np.array([look.share for look in settings.looks.values()])
    chosen = rng.choice(len(names), 2, replace=len(names) < 2, p=shares / shares.sum())
    one, other = (settings.looks[names[i]] for i in chosen)
    part = float(rng.beta(0.35, 0.35))  # mostly near one of the two
    optics = settings.optics
    # Lamps are warmer or cooler, seldom greener: what red gains, blue loses, but for a quarter of the range.
    warm, tint = between(rng, optics.balance), 1 + 0.25 * (between(rng, optics.balance) - 1)
    balance = np.array([warm * tint, 1.0, (2 - warm) * tint])
    mixed = (1 - part) * np.array(one.ground) + part * np.array(other.ground)
    ground = np.clip(mixed * balance * rng.uniform(0.96, 1.04), 0, _BRIGHTEST)
    strength = between(rng, optics.strength)
    dyes = {}
    for dye in DYES:
        density = (1 - part) * _density(one, dye) + part * _density(other, dye)
        spread = np.exp(rng.normal(0, optics.stain_spread, 3)) * np.exp(rng.normal(0, optics.stain_spread))
        dyes[dye] = np.asarray(density * spread * strength, np.float32)
    return np.asarray(ground, np.float32), dyes


def _density(look: Look, dye: str) -> NDArray[np.float64]:
    colour = np.maximum(np.array(getattr(look, dye), float), 1)
    return np.asarray(np.log(np.maximum(look.ground, 1) / colour))
