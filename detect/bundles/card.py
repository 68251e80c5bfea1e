"""The card of a bundle, `bundle.yaml`: everything a reader needs to trust or distrust the model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field as Key
from pydantic import model_validator

from detect.config import Settings
from detect.images.preprocess import Step

CARD, WEIGHTS, GRAPH = "bundle.yaml", "weights.safetensors", "model.onnx"
GRAPH_INT8 = "model.int8.onnx"  # the same with weights and activations of 8 bits, where that was worth it
MEMBERS = "members"  # below it lie the bundles that a bundle of several is made of

TrainedOn = Literal["real", "synthetic", "real and synthetic"]

LEAST_WHITE = 100  # no slide is given a name with fewer white cells counted (annotations/GUIDE.md, section 4)
MOST_LOST = 0.5  # points of mAP50-95; arithmetic that loses as much is not offered


class Metric(Settings):
    """One measured figure with what stands behind it.

    Attributes:
        low, high: 95 % interval, by bootstrap over groups; None where none was computed.
        data, split, part: what it was measured on.
        command: what to run to get it again.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    data: str
    split: str | None = None
    part: str
    n_fields: int
    n_groups: int
    n_cells: int
    command: str


class PrecisionCheck(Settings):
    """What cheaper arithmetic costs a detector.

    Attributes:
        map50_95: with it, on the part of the set that is named. loss: points (hundredths) of it lost against fp32.
    """

    precision: Literal["bf16", "int8"]
    engine: str
    map50_95: float
    loss: float
    data: str
    split: str | None = None
    part: str
    n_fields: int

    @property
    def offered(self) -> bool:
        """Whether scoring may use it."""
        return self.loss < MOST_LOST


class DetectorGraph(Settings):
    """How fields go into the graph and boxes come out.

    Attributes:
        image_size: pixels of the longer side that a field is resized to.
        red_cell_px: median diameter of a red cell in the fields that it was trained on, so resized; None where no red
            cell was labelled there.
        preprocess: what is done to a field before that, with the numbers that were fitted.
        pad: grey level around a field that fills no multiple of `stride`.
        square: fields are padded to a square, for networks that know one shape only.
        one_by_one: the graph takes one field a call.
        masks: the graph gives a third output, a small mask of each box.
        thresholds: least score per class. threshold_choice: how they were chosen.
        candidates: most boxes that enter non-maximum suppression, best scores first.
        max_detections: most cells of one field, or of one tile of a larger one.
    """

    image_size: int = Key(ge=32)
    red_cell_px: float | None = Key(None, gt=0)
    preprocess: tuple[Step, ...] = ()
    stride: int = 32
    pad: int = Key(114, ge=0, le=255)
    square: bool = False
    one_by_one: bool = False
    masks: bool = False
    thresholds: dict[str, float]
    threshold_choice: str
    nms_iou: float = Key(gt=0, le=1)
    candidates: int = Key(3000, ge=1)
    max_detections: int = Key(300, ge=1)


class Calibration(Settings):
    """What the probability of a type has to be for the type to be believed, see `evaluate.conformal`.

    Attributes:
        strange: by type, ascending: 1 less the probability that each calibration cell of that type got for it.
        on: the cells, in words.
    """

    strange: dict[str, tuple[float, ...]]
    on: str


class Familiarity(Settings):
    """How far from what was learnt a cell may lie; the graph's output `distance` says how far it does.

    Attributes:
        limit: above it a cell is unfamiliar. false_flags: share of the cells of part dev that lie above it.
    """

    limit: float
    false_flags: float


class ClassifierGraph(Settings):
    """How crops go into the graph and types come out.

    Attributes:
        image_size: pixels a side that a crop is resized to.
        preprocess: what is done to a field before cells are cut out of it, with the numbers that were fitted.
        margin: context around the box, as a fraction of its longer side.
        mask_out: what lies outside the ellipse in its box, or outside its outline, is white.
        handmade: measured features that the graph takes beside the crops, see `classify.handmade`.
        routed_from: detector classes whose cells come here.
        temperature: the graph's scores are divided by this before the softmax; fitted on dev.
        calibration: which types a cell may be, at any share of errors; None where nobody measured it, then the
            likeliest is believed.
        familiarity: None where the graph does not tell it.
        not_known: types that this model cannot see, with the number of groups that there were to learn from.
    """

    image_size: int = Key(ge=16)
    preprocess: tuple[Step, ...] = ()
    margin: float = Key(ge=0)
    mask_out: Literal["none", "ellipse", "outline"] = "none"
    handmade: tuple[str, ...] = ()
    routed_from: tuple[str, ...]
    temperature: float = Key(1.0, gt=0)
    calibration: Calibration | None = None
    familiarity: Familiarity | None = None
    not_known: dict[str, int] = {}


class SegmenterGraph(Settings):
    """How crops go into the graph and the parts of a white cell come out: of each pixel the shares of ground, cytoplasm
    and nucleus, float32 (n, 3, s, s).

    Attributes:
        image_size: pixels a side that a crop is resized to. margin: context around the box, part of its longer side.
    """

    image_size: int = Key(ge=32)
    margin: float = Key(ge=0)


class SlideGraph(Settings):
    """How the white cells of a slide go into the graph and a pattern comes out.

    Attributes:
        inputs: of each cell the probabilities of these names, in this order; 0 for a name that was not asked for.
        asks: bundles whose answers it learnt from; a pipeline that asks others may not use it.
        detector: that found the cells. error_rate: of the pipeline that asked. models: of all of these, by name, the
            SHA-256 of the model; a pipeline in which one of them is another may not use it.
        min_score, thresholds: in place of the detector's own, in those runs; a pipeline with others may not use it.
        min_cells: with fewer white cells a slide gets no name; never under LEAST_WHITE.
        temperature: the graph's scores are divided by this before the softmax; fitted on dev.
        calibration: which patterns a slide may show, at any share of errors.
    """

    inputs: tuple[str, ...]
    asks: tuple[str, ...]
    detector: str
    error_rate: float = Key(gt=0, lt=1)
    models: dict[str, str]
    min_score: float | None = None
    thresholds: dict[str, float] = {}
    min_cells: int = Key(LEAST_WHITE, ge=LEAST_WHITE)
    temperature: float = Key(1.0, gt=0)
    calibration: Calibration


class Training(Settings):
    """What it learnt from, and how."""

    data: tuple[str, ...]
    split: str
    fingerprint: dict[str, str]
    fields: dict[str, int]
    groups: dict[str, int]
    cells: dict[str, dict[str, int]]
    settings: dict[str, Any]
    record: dict[str, Any]
    leak_allowed: bool = False


class Card(Settings):
    """`bundle.yaml`.

    Attributes:
        architecture: family, name, how to build it again, parameters, gflops.
        files: SHA-256 of each file beside the card, and of the cards of its members.
        taxonomy: version of `annotations/taxonomy.yaml` that its classes are of.
        trained_on: real cells, drawn ones, or both. A bundle that knows drawn cells only says nothing of patients: it
            runs in pipelines that say that they allow it.
        limits: what a user must know before trusting it.
        precisions: what cheaper arithmetic loses; what is not among them was not measured, and is not offered.
        training: None for a method that learns nothing, and for a bundle of several, whose members have their own.
    """

    schema_version: Literal[1] = 1
    name: str
    task: Literal["detector", "classifier", "segmenter", "slide"]
    title: str
    licence: str
    intended_use: str
    limits: tuple[str, ...] = ()
    taxonomy: int = 1
    trained_on: TrainedOn = "real"
    classes: tuple[str, ...]
    architecture: dict[str, Any]
    detector: DetectorGraph | None = None
    classifier: ClassifierGraph | None = None
    segmenter: SegmenterGraph | None = None
    slide: SlideGraph | None = None
    training: Training | None = None
    metrics: tuple[Metric, ...] = ()
    precisions: tuple[PrecisionCheck, ...] = ()
    files: dict[str, str] = {}

    @model_validator(mode="after")
    def _fits_its_task(self) -> Card:
        for task in ("detector", "classifier", "segmenter", "slide"):
            if (self.task == task) != (getattr(self, task) is not None):
                raise ValueError(f"task: a {task} has a '{task}' section, and nothing else has")
        if self.detector is not None and set(self.detector.thresholds) != set(self.classes):
            raise ValueError(f"detector.thresholds: expected one for each of {list(self.classes)}")
        section = self.classifier or self.slide
        told = section.calibration if section is not None else None
        if told is not None and set(told.strange) != set(self.classes):
            raise ValueError(f"{self.task}.calibration.strange: expected one for each of {list(self.classes)}")
        return self
