"""What the page and its API tell, as pydantic models: the schema of the API."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from pydantic import Field as Key

from detect.web.records import State


class Said(BaseModel):
    """The last word of a person about one thing; the machine's own value stays beside it."""

    machine: str
    value: str
    who: str
    at: str = Key(description="ISO 8601, UTC")


class UploadTold(BaseModel):
    """An upload and how far it is."""

    id: str
    state: State
    title: str
    fields: int = Key(description="pictures in it")
    done: int = Key(description="pictures scored so far")
    before: int = Key(description="uploads that wait before it")
    why: str = Key(description="why it failed")
    created: str = Key(description="ISO 8601, UTC")
    deleted: str = Key(description="when it will be deleted, ISO 8601, UTC")


class FieldTold(BaseModel):
    """One field of view."""

    number: int
    name: str
    status: Literal["ok", "failed", "skipped"]
    reason: str
    width: int | None
    height: int | None
    counts: dict[str, int] = Key(description="cells by the detector's class")
    quality: dict[str, float]
    scale: float | None = Key(description="median diameter of its red cells, pixels")
    flags: list[str]
    said: dict[str, Said] = Key(description="what a person corrected, by what it is")


class CellTold(BaseModel):
    """One cell."""

    field: int
    cell: int
    box: tuple[float, float, float, float] = Key(description="x0, y0, x1, y1, pixels of its field")
    label: str = Key(description="the detector's class")
    score: float
    type: str | None = Key(description="the classifier's answer")
    type_score: float | None
    probabilities: dict[str, float]
    candidates: list[str]
    attributes: dict[str, float]
    fab: str = Key(description="of a lymphoblast whose form was measured: FAB's criteria in words")
    flags: list[str]
    mask: str | None = Key(description="COCO run lengths as 'height width counts'")
    repeated: bool = Key(description="it is counted in another field, which shows it too")
    said: dict[str, Said]

    @property
    def name(self) -> str:
        """What it is called: by a person, else by the machine."""
        told = self.said.get("type")
        return told.value if told is not None else self.type or self.label


class LineTold(BaseModel):
    """One row of a differential: share of the white cells with 95 % limits (Wilson)."""

    name: str
    count: int
    share: float | None
    low: float | None
    high: float | None
    corrected: int = Key(description="with the words of people in place of the machine's")
    corrected_share: float | None


class MetricTold(BaseModel):
    """A figure of a model's card."""

    name: str
    value: float
    low: float | None
    high: float | None
    data: str
    part: str
    n_groups: int
    n_cells: int


class ModelTold(BaseModel):
    """One model: its own answer about this slide, and what its card says that it is worth."""

    pipeline: int
    name: str
    title: str
    task: str
    answer: str
    trained_on: str
    metrics: list[MetricTold]
    limits: list[str]


class CalledTold(BaseModel):
    """What a slide resembles, and the cells that decided."""

    pipeline: int
    question: str
    said: str
    share: float | None
    counted: int
    by: str
    trained_on: str
    cells: list[tuple[int, int]] = Key(description="field and cell, the weightiest first")


class AgreementTold(BaseModel):
    """How far two pipelines agree about the white cells that both found (IoU 0.5)."""

    one: int
    other: int
    both: int = Key(description="white cells that both found")
    same: int = Key(description="of these, those that both give the same type")
    only_one: int
    only_other: int


class Assessment(BaseModel):
    """What a slide comes to."""

    statement: str
    white: int = Key(description="nucleated white cells counted")
    few: bool = Key(description="too few for narrow limits")
    differential: list[LineTold]
    beside: list[LineTold]
    blasts: LineTold
    per_100: dict[str, float] = Key(description="red cells and platelets per 100 white cells")
    per_field: dict[str, float] = Key(description="white cells, red cells and platelets a field, on average")
    scale: float | None
    scale_spread: float | None
    scale_unsure: bool
    not_seen: list[str] = Key(description="kinds of white cell that these models cannot name")
    synthetic: list[str] = Key(description="models that learnt from drawn cells only: they say nothing of patients")
    called: list[CalledTold]
    models: list[ModelTold]
    agreement: list[AgreementTold]
    fields_ok: int
    fields_failed: int
    fields_skipped: int


class Near(BaseModel):
    """A cell that a person named, and that is like this one."""

    upload: str
    field: int
    cell: int
    type: str
    distance: float


class Correcting(BaseModel):
    """What a person says of a cell, a field or the slide."""

    what: str = Key("type", max_length=60, description="'type', or the name of an attribute, of a count, or 'scale'")
    value: str = Key(max_length=120)
    who: str = Key(min_length=1, max_length=80)


class Refused(BaseModel):
    """Why something was not done."""

    error: str
    where: str | None = None
    remedy: str | None = None


class Health(BaseModel):
    """Whether the page works."""

    state: Literal["ok", "failing"]
    workers: int
    waiting: int
