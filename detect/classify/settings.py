"""How a classifier learns, as a YAML of `configs/classifiers/`."""

from __future__ import annotations

from pydantic import Field as Key

from detect.config import Settings
from detect.data.augment import Transform
from detect.images.preprocess import Step


class ClassifierSettings(Settings):
    """One classifier's training.

    Attributes:
        network: a name of `classify.network.NETWORKS`.
        image_size: pixels a side of the input. margin: context around the box, fraction of its longer side.
        jitter: boxes are moved and scaled by up to this fraction in training, as a detector's boxes are.
        routed_from: detector classes whose cells the bundle will be given.
        preprocess: done to every field before cells are cut out of it, in training and by the bundle.
        min_accuracy: on dev, the least share of answered cells that is right; it sets the bundle's min_probability.
    """

    network: str = "smallnet"
    image_size: int = Key(96, ge=16)
    margin: float = Key(0.15, ge=0, le=1)
    epochs: int = Key(120, ge=1)
    batch: int = Key(32, ge=2)
    learning_rate: float = Key(0.002, gt=0)
    weight_decay: float = Key(0.02, ge=0)
    label_smoothing: float = Key(0.05, ge=0, lt=1)
    dropout: float = Key(0.3, ge=0, lt=1)
    jitter: float = Key(0.08, ge=0, lt=0.5)
    seed: int = Key(1, ge=0)
    routed_from: tuple[str, ...] = ("WBC",)
    min_accuracy: float = Key(0.95, gt=0, le=1)
    preprocess: tuple[Step, ...] = ()
    augment: tuple[Transform, ...] = ()
