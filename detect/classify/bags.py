"""Slides as bags of cells, to learn from. What a cell is here is what the classifiers of a pipeline answered of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Key

from detect.bundles.card import LEAST_WHITE, TrainedOn
from detect.config import Settings

Bag = NDArray[np.float32]  # (cells, inputs)


class SlideSettings(Settings):
    """How a slide's pattern is learnt, as YAML of `configs/slides/`.

    Attributes:
        inputs: names of which each cell has a probability.
        patterns: what the truth calls a slide to the pattern that is learnt; null leaves the slide out.
        least: white cells of the smallest bag that is drawn of a slide, in training.
        folds: the temperature and the calibration are of slides that were held out, each once, one part of so many at a
            time; the bundle's own weights then learn from all.
        min_cells: with fewer white cells the bundle gives a slide no name.
    """

    inputs: tuple[str, ...] = Key(min_length=1)
    patterns: dict[str, str | None]
    hidden: int = Key(24, ge=2)
    epochs: int = Key(150, ge=1)
    learning_rate: float = Key(0.003, gt=0)
    weight_decay: float = Key(0.001, ge=0)
    dropout: float = Key(0.2, ge=0, lt=1)
    least: int = Key(60, ge=1)
    folds: int = Key(5, ge=2)
    min_cells: int = Key(LEAST_WHITE, ge=LEAST_WHITE)
    seed: int = Key(1, ge=0)


@dataclass(frozen=True)
class Asked:
    """What answered for the cells of a run, as of `SlideGraph`."""

    asks: tuple[str, ...]
    detector: str
    error_rate: float
    models: tuple[tuple[str, str], ...]
    min_score: float | None = None
    thresholds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Slides:
    """Slides to learn from.

    Attributes:
        names, bags, truth: of each slide. asked: what found their cells and answered for them.
        counted: white cells of each, as a differential counts them: bags hold smudge cells and artefacts too.
        patients: of each, None where that is not known: slides of one are never on both sides.
        trained_on: of those bundles, and of the slides: synthetic where drawn cells are anywhere on the way.
        data: the runs, for the card.
    """

    names: tuple[str, ...]
    bags: tuple[Bag, ...]
    truth: tuple[str, ...]
    counted: tuple[int, ...]
    patients: tuple[str | None, ...]
    asked: Asked
    trained_on: TrainedOn
    data: tuple[str, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The patient of each slide, or the slide where none is known."""
        both = zip(self.names, self.patients, strict=True)
        return tuple(f"slide {name}" if patient is None else f"patient {patient}" for name, patient in both)
