"""How classifiers learn, as YAML of `configs/classifiers/`: a network, a hybrid of features and a head, an ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Key
from pydantic import model_validator

from detect.config import Settings, load_yaml, parse
from detect.data.augment import Transform
from detect.images.preprocess import Step

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Stage(Settings):
    """One of several trainings in a row, each beginning with the weights of the one before: general pictures, then
    other blood sets, then the target.

    Attributes:
        data: dataset cards. split: one file for all of them. epochs: of this stage.
    """

    data: tuple[str, ...] = Key(min_length=1)
    split: str
    epochs: int = Key(ge=1)


class CropSettings(Settings):
    """How a cell is cut out of its field.

    Attributes:
        image_size: pixels a side of the model's input. margin: context around the box, fraction of its longer side.
        mask_out: what lies outside the ellipse that fills its box, or outside its outline, is white. An outline has to
            be drawn for every cell that is learnt, and by the detector that the bundle will follow.
        preprocess: done to every field before cells are cut out of it, in training and by the bundle.
        routed_from: labels whose cells the bundle will be given, where its pipeline does not say.
        false_flags: share of the cells of part dev that the bundle will call unfamiliar.
    """

    image_size: int = Key(96, ge=16)
    margin: float = Key(0.15, ge=0, le=1)
    mask_out: Literal["none", "ellipse", "outline"] = "none"
    preprocess: tuple[Step, ...] = ()
    routed_from: tuple[str, ...] = ("WBC",)
    false_flags: float = Key(0.05, ge=0, lt=1)


class ClassifierSettings(CropSettings):
    """One network's training.

    Attributes:
        network: a name of `classify.networks.NETWORKS`.
        first: `stain` puts a layer before it that separates stains and learns how.
        head: `orthogonal` deals the features out, each to one type; `fuzzy` has rules, see `classify.fuzzy`.
        turns: 4 to answer for a crop and its quarter turns together, at four times the cost; 1 for the crop alone.
        pretrained: false for none; true for the weights its library publishes (downloaded); a `.safetensors` file.
        features: `frozen` leaves the network as it is and trains the head alone.
        precision: auto takes bf16 on processors that have it and are faster with it, fp16 on a GPU, else fp32.
        schedule: of the learning rate. one_cycle rises for a tenth and falls to nothing; cosine falls only.
        loss: focal weighs cells down that are told well (Lin et al., 2017; `focal_gamma`); tversky is 1 less the
            Tversky index of each type (Salehi et al., 2017; `tversky_alpha` for false cells, 1 less it for missed).
        class_weights: of the loss; balanced is the inverse of how often a type occurs, mean 1.
        sampling: how cells are drawn. square_root: a type as often as the square root of its share.
        mixup: alpha of the Beta distribution that two cells are mixed by (Zhang et al., 2018); 0 for none.
        jitter: boxes are moved and scaled by up to this fraction in training, as a detector's boxes are.
        detected_by: a detector's bundle; cells that it finds are learnt half of the time by the boxes that it gives.
        patience: stop after so many epochs without a better dev, and keep the best epoch; 0 keeps the last one.
        stages: trainings in a row; they name their data themselves, and `epochs` with it.
    """

    network: str = "smallnet"
    first: Literal["none", "stain"] = "none"
    head: Literal["linear", "orthogonal", "fuzzy"] = "linear"
    turns: Literal[1, 4] = 1
    pretrained: bool | str = False
    features: Literal["trained", "frozen"] = "trained"
    epochs: int = Key(120, ge=1)
    batch: int = Key(32, ge=2)
    precision: Precision = "auto"
    learning_rate: float = Key(0.002, gt=0)
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    weight_decay: float = Key(0.02, ge=0)
    dropout: float = Key(0.3, ge=0, lt=1)
    loss: Literal["cross_entropy", "focal", "tversky"] = "cross_entropy"
    focal_gamma: float = Key(2.0, ge=0)
    tversky_alpha: float = Key(0.3, ge=0, le=1)
    label_smoothing: float = Key(0.05, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["natural", "square_root", "balanced"] = "square_root"
    mixup: float = Key(0.0, ge=0)
    jitter: float = Key(0.08, ge=0, lt=0.5)
    detected_by: str | None = None
    patience: int = Key(0, ge=0)
    seed: int = Key(1, ge=0)
    augment: tuple[Transform, ...] = ()
    stages: tuple[Stage, ...] = ()


class DeepFeatures(Settings):
    """What a network sees in a crop, before its head.

    Attributes:
        network: configuration of a network's training, by name or path, which is trained first; or with `frozen` the
            name of a network of the zoo, taken as `pretrained` gives it.
        frozen: off the shelf, nothing is trained.
    """

    network: str
    pretrained: bool | str = False
    frozen: bool = False

    @model_validator(mode="after")
    def _starts_where_it_is_taken_from(self) -> DeepFeatures:
        if self.pretrained is not False and not self.frozen:
            raise ValueError("pretrained: of a network that is trained, its own configuration says so")
        return self


class HandMade(Settings):
    """Features that are measured, by the names of `classify.handmade.FEATURES`."""

    handmade: tuple[str, ...] = Key(min_length=1)


class Selection(Settings):
    """Which features are kept.

    Attributes:
        by: pca keeps directions of most variance; the others score each feature against the type: mutual_information,
            gain_ratio (of ten equal bins), chi_squared (of features scaled from 0 to 1), mrmr (relevance less
            redundancy, Peng et al., 2005).
        keep: how many.
    """

    by: Literal["pca", "mutual_information", "gain_ratio", "chi_squared", "mrmr"]
    keep: int = Key(ge=1)


class HeadSettings(Settings):
    """The head of a hybrid: a name of `fitted_heads.HEADS` and its arguments, by their names in scikit-learn."""

    name: str
    args: dict[str, Any] = {}


class HybridSettings(CropSettings):
    """Features of one kind or several, selected, into a head of another kind than a network's.

    Attributes:
        features: concatenated in this order, each scaled to mean 0 and spread 1 over the cells it was learnt from.
            Networks among them are trained with the seed and the crops of the whole.
        fuse: cca keeps, of two kinds of features, the directions in which they agree most (Haghighat et al., 2016).
        views: how often the head sees each cell: by its true box, then turned, mirrored and moved by up to `jitter`.
        detected_by: as of `ClassifierSettings`.
    """

    features: tuple[DeepFeatures | HandMade, ...] = Key(min_length=1)
    fuse: Literal["concatenate", "cca"] = "concatenate"
    cca_directions: int = Key(16, ge=1)
    select: Selection | None = None
    head: HeadSettings
    views: int = Key(4, ge=1)
    jitter: float = Key(0.08, ge=0, lt=0.5)
    detected_by: str | None = None
    seed: int = Key(1, ge=0)

    @model_validator(mode="after")
    def _fuses_two(self) -> HybridSettings:
        if self.fuse == "cca" and len(self.features) != 2:
            raise ValueError(f"fuse: cca fuses two kinds of features, here are {len(self.features)}")
        return self


class EnsembleSettings(CropSettings):
    """Several classifiers that answer together.

    Attributes:
        members: configurations of classifiers, by name or path; all see the same crops, and take the seed of the whole.
        rule: majority counts answers, mean averages probabilities, weighted too, by weights that are best on dev;
            stacking learns a logistic regression from the members' probabilities on dev.
    """

    members: tuple[str, ...] = Key(min_length=2)
    rule: Literal["majority", "mean", "weighted", "stacking"]
    seed: int = Key(1, ge=0)


class ZooSettings(Settings):
    """A table of classifiers, as a YAML of `configs/zoo/`.

    Attributes:
        data: cards with typed cells. groups: the `groups.csv` of an audit, where finding copies anew takes long.
        min_groups: a type with fewer groups is listed, not scored.
        protocol: `folds` holds out one of `folds` parts after another; `holdout` one part, `test` of all; `sources`
            one set or lab after another; `curve` is `folds` with `shares` of the groups to learn from.
        dev: part of what is learnt from, for the epoch and the temperature.
        leak: split as if every picture were a group of its own, with copies on both sides. What a table must not do, to
            show what it does; its intervals still draw whole groups.
        most_a_group: cells of a group that are used, the first ones; 0 for all.
        base: what all rows share. rows: name to recipe; a hybrid's or an ensemble's parts may name other rows.
    """

    data: tuple[str, ...] = Key(min_length=1)
    groups: str | None = None
    min_groups: int = Key(15, ge=1)
    protocol: Literal["folds", "holdout", "sources", "curve"] = "folds"
    folds: int = Key(5, ge=2)
    test: float = Key(0.2, gt=0, lt=1)
    dev: float = Key(0.15, gt=0, lt=1)
    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    leak: bool = False
    most_a_group: int = Key(0, ge=0)
    seed: int = Key(1, ge=0)
    base: dict[str, Any] = {}
    rows: dict[str, dict[str, Any]] = Key(min_length=1)


Recipe = ClassifierSettings | HybridSettings | EnsembleSettings  # what `smear train classifier` takes


def load_recipe(path: Path) -> Recipe:
    """The settings in a file, of the kind that its keys tell."""
    return recipe_of(load_yaml(path), str(path))


def recipe_of(values: dict[str, Any], where: str) -> Recipe:
    """The settings in a mapping, of the kind that its keys tell."""
    return parse(kind_of(values), values, where)


def kind_of(values: Mapping[str, Any]) -> type[ClassifierSettings] | type[HybridSettings] | type[EnsembleSettings]:
    """What a recipe with these keys is."""
    if "members" in values:
        return EnsembleSettings
    return HybridSettings if isinstance(values.get("features"), list) else ClassifierSettings
