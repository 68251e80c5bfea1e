"""What a table compares, as YAML of `configs/tables/`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field as Key
from pydantic import model_validator

from detect.config import Settings


class DetectorRow(Settings):
    """One detector.

    Attributes:
        config: configuration of its training, by name or path; or `bundle`, one that is measured as it is.
        changes: keys of the configuration in place of its own; those of `hyperparameters` one by one.
        start: a name of the table's `starts`, whose weights it begins with.
        beside: learns from the drawn slides of `start` too, beside the set.
        seeds: a training each; figures with limits are those of the first.
    """

    config: str | None = None
    bundle: str | None = None
    changes: dict[str, Any] = {}
    start: str | None = None
    beside: bool = False
    seeds: tuple[int, ...] = Key((1,), min_length=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> DetectorRow:
        if (self.config is None) == (self.bundle is None):
            raise ValueError("give either 'config' or 'bundle'")
        if self.bundle is not None and (self.changes or self.start or self.seeds != (1,)):
            raise ValueError("a bundle is measured as it is: drop 'changes', 'start' and 'seeds'")
        if self.beside and self.start is None:
            raise ValueError("'beside' takes the drawn slides of a start: name a 'start'")
        return self


class Start(Settings):
    """Weights to begin with: those of a detector that learnt from slides that are drawn for it.

    Attributes:
        slides, fields, size, seed: of `smear data synthesize`. config, changes: as a row's.
    """

    slides: int = Key(100, ge=1)
    fields: int = Key(5, ge=1)
    size: int = Key(416, ge=256)
    seed: int = Key(100, ge=0)
    config: str
    changes: dict[str, Any] = {}


class DrawnTypes(Settings):
    """Weights for classifiers to begin with: those of a network that learnt the types of drawn cells.

    Attributes:
        slides: a name of the table's `starts`, whose slides it learns from. recipe: of its training, as in
            `configs/classifiers/`. row: what the row of the table that begins with it is called.
    """

    slides: str
    recipe: dict[str, Any]
    row: str


class _Detectors(Settings):
    """What tables of detectors share.

    Attributes:
        data: dataset card. split: of the set; parts `train` and `dev` are learnt from, `part` is measured on.
        changes: of every row that is trained, before its own.
        rounds, seed: of the bootstrap and the swap test.
    """

    title: str
    data: str
    split: str
    part: str = "val"
    starts: dict[str, Start] = {}
    changes: dict[str, Any] = {}
    rows: dict[str, DetectorRow] = Key(min_length=1)
    rounds: int = Key(1000, ge=10)
    seed: int = Key(1, ge=0)

    @model_validator(mode="after")
    def _starts_are_known(self) -> _Detectors:
        for name in (*self.rows, *self.starts):
            if name.lower() == "all":
                raise ValueError(f"'{name}' is no name of a row: it stands for all of something")
        for name, row in self.rows.items():
            if row.start is not None and row.start not in self.starts:
                raise ValueError(f"rows.{name}: no start '{row.start}'; there are: {', '.join(self.starts) or 'none'}")
        return self


class DetectorTable(_Detectors):
    """Detectors side by side on one split."""


class LabTable(_Detectors):
    """Detectors on a lab that they have not seen, for each lab of a set.

    Attributes:
        labs: the sizes of the pictures, such as 640x480, by which a lab is told.
        of: the class whose F1 at the stored threshold is told.
        classifiers: a configuration of `smear evaluate zoo` that holds one source out after another.
        drawn_types: a row more of classifiers.
    """

    labs: dict[str, tuple[str, ...]] = Key(min_length=2)
    of: str = "WBC"
    classifiers: str | None = None
    drawn_types: DrawnTypes | None = None

    @model_validator(mode="after")
    def _draws_what_it_learns_from(self) -> LabTable:
        if self.drawn_types is not None:
            if self.classifiers is None:
                raise ValueError("drawn_types: a row of 'classifiers', of which there are none")
            if self.drawn_types.slides not in self.starts:
                told = ", ".join(self.starts) or "none"
                raise ValueError(f"drawn_types: no start '{self.drawn_types.slides}'; there are: {told}")
        return self

    @model_validator(mode="after")
    def _sees_no_lab_beforehand(self) -> LabTable:
        if "all" in self.labs:
            raise ValueError("labs: 'all' stands for all of them; name it otherwise")
        for name, row in self.rows.items():
            if row.bundle is not None:
                raise ValueError(f"rows.{name}: a bundle may have seen the lab that is left out: name a 'config'")
            if len(row.seeds) > 1:
                raise ValueError(f"rows.{name}: one seed")
        return self


class Protocol(Settings):
    """One way to split for a table of classifiers: keys as in `classify.settings.ZooSettings`.

    Attributes:
        base: what all rows share, before their own keys. over: keys that replace the rows' own.
    """

    data: tuple[str, ...] = Key(min_length=1)
    groups: str | None = None
    min_groups: int = Key(15, ge=1)
    protocol: Literal["folds", "holdout"] = "folds"
    folds: int = Key(5, ge=2)
    test: float = Key(0.2, gt=0, lt=1)
    dev: float = Key(0.15, gt=0, lt=1)
    leak: bool = False
    most_a_group: int = Key(0, ge=0)
    seed: int = Key(1, ge=0)
    base: dict[str, Any] = {}
    over: dict[str, Any] = {}


class ClassifierTable(Settings):
    """Classifiers side by side, and what a leak does to each.

    Attributes:
        main: how they are compared. by_original, by_picture: the cost of a leak, split without and with one.
        rows: as in `configs/zoo/`.
    """

    title: str
    main: Protocol
    by_original: Protocol
    by_picture: Protocol
    rows: dict[str, dict[str, Any]] = Key(min_length=1)
