"""What a detector is to the rest of the house, and the one table of families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field as Key

from detect.config import Settings
from detect.data.augment import Transform
from detect.errors import ConfigError
from detect.images.magnification import Scale
from detect.images.preprocess import Step
from detect.types import ClassMap, Dataset, Detections, Image

Precision = Literal["auto", "fp32", "bf16", "fp16"]

# Family name to the module that adapts it. Each is imported only when it is used. The classical method is none of
# them: it learns nothing, and `classical` runs it from its bundle's settings alone.
FAMILIES = {
    "ultralytics": "detect.detectors.ultralytics",
    "torchvision": "detect.detectors.torchvision",
    "detectron2": "detect.detectors.detectron2",
}


class Detector(Protocol):
    """Finds cells. `predict` returns its result and remembers nothing."""

    @property
    def classes(self) -> ClassMap:
        """The detector's own classes."""

    @property
    def red_cell_px(self) -> float | None:
        """Diameter of a red cell in the input that it was trained with, pixels; None where it does not matter."""

    def shape(self, width: int, height: int, scale: Scale | None = None) -> tuple[int, int]:
        """(height, width) in which a field of that size is looked at; fields of one shape can share a batch."""

    def ratio(self, width: int, height: int, scale: Scale | None = None) -> float | None:
        """Pixels of the input for each of a field of that size; None where it needs every pixel of the field."""

    def predict(
        self,
        fields: Sequence[Image],
        scales: Sequence[Scale | None] | None = None,
        *,
        least: float | None = None,
    ) -> list[Detections]:
        """Cells of each field, boxes in the field's own pixels, in the order of the results.

        Args:
            scales: how large cells are in each field, so that they are looked at in the size that was trained, in
                tiles where the field is larger than the input. None: the longer side is resized to the input's.
            least: least score, in place of every threshold.
        """


class Hyperparameters(Settings):
    """How a detector learns. Names and meanings are those of ultralytics, whose defaults these are but for
    `nominal_batch`.

    Attributes:
        nominal_batch: gradients are gathered over this many fields before a step.
        close_mosaic: epochs at the end that see whole fields only.
        translate, scale: largest shift (fraction of the field) and zoom (1 +- scale).
        hsv_h, hsv_s, hsv_v: largest colour jitter, as fractions.
        flip_lr, flip_ud, mosaic, mixup: how often they are applied.
        box, cls, dfl: weights of the losses.
    """

    optimizer: Literal["auto", "SGD", "AdamW", "Adam", "MuSGD"] = "auto"
    lr0: float = Key(0.01, gt=0)
    lrf: float = Key(0.01, gt=0)
    momentum: float = Key(0.937, ge=0, lt=1)
    weight_decay: float = Key(0.0005, ge=0)
    warmup_epochs: float = Key(3.0, ge=0)
    cosine: bool = False
    nominal_batch: int = Key(16, ge=1)
    patience: int = Key(100, ge=0)
    close_mosaic: int = Key(10, ge=0)
    mosaic: float = Key(1.0, ge=0, le=1)
    mixup: float = Key(0.0, ge=0, le=1)
    degrees: float = Key(0.0, ge=0, le=180)
    translate: float = Key(0.1, ge=0, le=1)
    scale: float = Key(0.5, ge=0, lt=1)
    shear: float = Key(0.0, ge=0, le=90)
    flip_lr: float = Key(0.5, ge=0, le=1)
    flip_ud: float = Key(0.0, ge=0, le=1)
    hsv_h: float = Key(0.015, ge=0, le=1)
    hsv_s: float = Key(0.7, ge=0, le=1)
    hsv_v: float = Key(0.4, ge=0, le=1)
    box: float = Key(7.5, ge=0)
    cls: float = Key(0.5, ge=0)
    dfl: float = Key(1.5, ge=0)


class Stage(Settings):
    """One of several trainings in a row, each beginning with the weights of the one before.

    Attributes:
        data: dataset cards. split: a split for each, the card's own where none is given. epochs: of this stage.
    """

    data: tuple[str, ...] = Key(min_length=1)
    split: tuple[str, ...] = ()
    epochs: int = Key(ge=1)


class DetectorSettings(Settings):
    """A detector's training, as a YAML of `configs/detectors/`.

    Attributes:
        family: a key of `FAMILIES`. model: the family's own name for the architecture.
        pretrained: false for none; true for the family's published weights (downloaded); a bundle, by folder or
            released name; or a path to weights: `.safetensors` is read as it is, a pickle only with --trust-pickle.
        image_size: pixels of the longer side that a field is resized to; of YOLO a multiple of 32.
        precision: auto takes bf16 on processors that have it, fp16 on a GPU, else fp32.
        max_detections: most cells of one field. Reaching it is reported.
        nms_iou: of two boxes of one class that overlap more than this, the better is kept.
        smallest_anchor: of torchvision, side of the anchors on the finest map, input pixels; each map doubles it.
        rois: of two-stage models, proposals of a field that the second stage learns from, cells and background.
        preprocess: done to every field, in training and by the bundle. augment: done now and then, in training only.
        stages: trainings in a row, such as synthetic fields, then real ones; they name their data themselves.
        class_weights: balanced weighs a class by the inverse square root of how often it is drawn, mean 1.
    """

    family: str
    model: str
    pretrained: bool | str = False
    image_size: int = Key(640, ge=32)
    epochs: int = Key(100, ge=1)
    batch: int = Key(16, ge=1)
    seed: int = Key(1, ge=0)
    precision: Precision = "auto"
    max_detections: int = Key(300, ge=1)
    nms_iou: float = Key(0.7, gt=0, le=1)
    smallest_anchor: int = Key(16, ge=4)
    rois: int = Key(512, ge=16)
    class_weights: Literal["none", "balanced"] = "none"
    hyperparameters: Hyperparameters = Hyperparameters()
    preprocess: tuple[Step, ...] = ()
    augment: tuple[Transform, ...] = ()
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class TrainingJob:
    """One training, checked and ready.

    Attributes:
        train, dev: fields to learn from, and to choose the best epoch on.
        out: the run folder. resume: go on from its last checkpoint.
        device: "auto", "cpu", "cuda:0", or several: "cuda:0,1".
        unlabelled: by field id, the classes of which not every cell is drawn there: what a model finds of them is
            neither right nor wrong, and teaches nothing.
    """

    settings: DetectorSettings
    config: str
    train: Dataset
    dev: Dataset
    out: Path
    resume: bool
    device: str
    trust_pickle: bool
    unlabelled: Mapping[str, frozenset[int]] = made(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """All that is needed, with the weights, to build a model again.

    Attributes:
        family: a key of `FAMILIES`. name: for people. config: what the family's `rebuild` takes.
    """

    family: str
    name: str
    config: Mapping[str, Any]
    parameters: int
    gflops: float


@dataclass(frozen=True)
class Traits:
    """How a model of a family takes its fields, and what it can be turned into.

    Attributes:
        stride: sides of the input are multiples of it. square, one_by_one, masks: see `bundles.card.DetectorGraph`.
        exportable: whether `export_onnx` works; else its bundle runs in the training framework only.
    """

    stride: int = 32
    square: bool = False
    one_by_one: bool = False
    masks: bool = False
    exportable: bool = True


class Family(Protocol):
    """What the module of a family offers."""

    def traits(self, architecture: Architecture) -> Traits:
        """How a model of this architecture takes its fields."""

    def architecture(self, settings: DetectorSettings, classes: int) -> Architecture:
        """The untrained model of the settings: how it is built, its parameters and GFLOPs."""

    def train(self, job: TrainingJob) -> dict[str, Any]:
        """Train, and write `weights.safetensors` and `architecture.yaml` of the best epoch into the run folder.
        Returns what the run record should say: precision used, best epoch, versions."""

    def export_onnx(self, architecture: Architecture, weights: Path, image_size: int, path: Path) -> None:
        """Write the graph that `runtime` runs: `images` uint8 (n, h, w, 3) to `boxes` float32 (n, m, 4), xyxy in
        input pixels, `scores` float32 (n, m, classes), and of models with masks `masks` float32 (n, m, s, s); n, h
        and w are free within the model's traits."""

    def reference(self, architecture: Architecture, weights: Path, device: str = "cpu", precision: str = "fp32") -> Any:
        """A callable with the signature of that graph, run by the training framework itself."""


def family(name: str) -> Family:
    """The module of a family, imported now; ConfigError lists the choices."""
    if name not in FAMILIES:
        raise ConfigError(f"no detector family '{name}'", remedy=f"the families are: {', '.join(sorted(FAMILIES))}")
    module: Family = import_module(FAMILIES[name])
    return module
