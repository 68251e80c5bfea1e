"""The zoo: every network that can answer for a crop, by name, and the classifier that is built around one.

`NETWORKS` is the one table. timm and torchvision have most of them; the others are in this folder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from detect.errors import ConfigError, MissingExtraError

try:
    import torch
    from safetensors.torch import load_file
    from torch import nn
except ImportError:
    raise MissingExtraError("the zoo of networks", "train") from None

from detect.classify.fuzzy import FuzzyHead
from detect.classify.networks.parts import OrthogonalHead, StainDeconvolution

Head = Literal["linear", "orthogonal", "fuzzy"]
First = Literal["none", "stain"]


@dataclass(frozen=True)
class Network:
    """One row of the zoo.

    Attributes:
        source: `timm`, `torchvision`, or the module and class that has it here.
        name: there.
        paper: who published it.
        published: millions of parameters with `types` types, as its paper or the first library to ship it says; None
            where the literature names a kind of network and no layers.
        least: smallest picture that it can take, pixels a side. sized: it is built for one size of picture only.
        slow_bf16: a step of training takes longer in bf16 on a processor that has it: 1.5 to 2.2 times, of 32 crops of
            64 px. These are made of depthwise convolutions; Xception and ConvNeXt, which have some, gain by it.
        why: where ours is not the published one, in what.
    """

    source: str
    name: str
    paper: str
    published: float | None = None
    types: int = 1000
    least: int = 32
    sized: bool = False
    slow_bf16: bool = False
    why: str = ""


_OURS = "detect.classify.networks."
NETWORKS: dict[str, Network] = {
    "smallnet": Network(_OURS + "small", "SmallNet", "ours, of the first bundle"),
    "lenet": Network(_OURS + "small", "LeNet", "LeCun et al. 1998", 0.0617, types=10, why="three channels"),
    "ten-layers": Network(_OURS + "small", "TenLayers", "a kind, of many leukemia papers"),
    "squeeze-excite": Network(_OURS + "small", "SqueezeExcite", "Hu et al. 2018, narrow"),
    "cnn-gru": Network(_OURS + "gru", "CnnGru", "a kind, of several leukemia papers", least=48),
    "qcresnet": Network(_OURS + "quaternion", "QuaternionResNet", "Gaudet and Maida 2018, on ResNet-18"),
    "attention-cnn": Network(_OURS + "attention", "AttentionNet", "pointwise and local spatial attention"),
    "alexnet": Network("torchvision", "alexnet", "Krizhevsky 2014", 61.10, least=64),
    "vgg16": Network("timm", "vgg16", "Simonyan and Zisserman 2015", 138.36),
    "vgg19": Network("timm", "vgg19", "Simonyan and Zisserman 2015", 143.67),
    "googlenet": Network("torchvision", "googlenet", "Szegedy et al. 2015", 6.62),
    "inception-v3": Network("timm", "inception_v3", "Szegedy et al. 2016", 23.83, least=75),
    "inception-resnet-v2": Network("timm", "inception_resnet_v2", "Szegedy et al. 2017", 55.84, least=75),
    "xception": Network("timm", "legacy_xception", "Chollet 2017", 22.86),
    "resnet18": Network("timm", "resnet18", "He et al. 2016", 11.69),
    "resnet34": Network("timm", "resnet34", "He et al. 2016", 21.80),
    "resnet50": Network("timm", "resnet50", "He et al. 2016", 25.56),
    "resnet101": Network("timm", "resnet101", "He et al. 2016", 44.55),
    "squeezenet": Network(
        "torchvision",
        "squeezenet1_0",
        "Iandola et al. 2016",
        1.248,
        why="types are told from the mean over the picture",
    ),
    "shufflenet-v2": Network("torchvision", "shufflenet_v2_x1_0", "Ma et al. 2018", 2.28, slow_bf16=True),
    "mobilenet-v2": Network("timm", "mobilenetv2_100", "Sandler et al. 2018", 3.50, slow_bf16=True),
    "mobilenet-v3": Network("timm", "mobilenetv3_large_100", "Howard et al. 2019", 5.48, slow_bf16=True),
    "mobilenet-v3-small": Network("timm", "mobilenetv3_small_100", "Howard et al. 2019", 2.54, slow_bf16=True),
    "nasnet": Network("timm", "nasnetalarge", "Zoph et al. 2018, the large one", 88.75, least=64, slow_bf16=True),
    "efficientnet-b0": Network("timm", "efficientnet_b0", "Tan and Le 2019", 5.29, slow_bf16=True),
    "efficientnet-b1": Network("timm", "efficientnet_b1", "Tan and Le 2019", 7.79, slow_bf16=True),
    "efficientnet-b2": Network("timm", "efficientnet_b2", "Tan and Le 2019", 9.11, slow_bf16=True),
    "efficientnet-b3": Network("timm", "efficientnet_b3", "Tan and Le 2019", 12.23, slow_bf16=True),
    "efficientnet-v2": Network("timm", "tf_efficientnetv2_s", "Tan and Le 2021, the small one", 21.46, slow_bf16=True),
    "densenet121": Network("timm", "densenet121", "Huang et al. 2017", 7.98),
    "densenet161": Network("timm", "densenet161", "Huang et al. 2017", 28.68),
    "darknet53": Network("timm", "darknet53", "Redmon and Farhadi 2018", 41.61),
    "vit": Network("timm", "vit_small_patch16_224", "Dosovitskiy et al. 2021, small", 22.05, least=32, sized=True),
    "vit-tiny": Network("timm", "vit_tiny_patch16_224", "Touvron et al. 2021, tiny", 5.72, least=32, sized=True),
    "swin": Network("timm", "swin_tiny_patch4_window7_224", "Liu et al. 2021, tiny", 28.29, least=32, sized=True),
    "convnext": Network("timm", "convnext_tiny", "Liu et al. 2022, tiny", 28.59),
}

_HALF = (0.5, 0.5, 0.5)
_MOST_FITS = 0.98  # of a network's numbers that a file must have; the rest are tables that hang on the picture's size
_HEADS: dict[Head, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "orthogonal": OrthogonalHead,
    "fuzzy": FuzzyHead.new,
}


class Classifier(nn.Module):
    """Pixels to scores: scaling, perhaps a layer that separates stains, a network, dropout, a head.

    Scaling is inside, so that every engine is fed the same bytes. Input uint8 RGB (n, s, s, 3); output scores before
    the softmax, float32 (n, types).

    Attributes:
        turns: 4 to answer by the mean of the features of a crop and its quarter turns: a cell on a slide has no top.
            In training each crop is looked at once.
    """

    def __init__(
        self,
        body: nn.Module,
        features: int,
        types: int,
        *,
        head: Head = "linear",
        first: First = "none",
        dropout: float = 0.0,
        turns: int = 1,
        mean: tuple[float, ...] = _HALF,
        spread: tuple[float, ...] = _HALF,
    ) -> None:
        super().__init__()
        self.first = StainDeconvolution() if first == "stain" else None
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(spread).view(1, -1, 1, 1), persistent=False)
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = _HEADS[head](features, types)
        self.num_features = features
        self.turns = turns

    def features(self, crops: torch.Tensor) -> torch.Tensor:
        """What the head looks at, (n, features)."""
        pixels = crops.permute(0, 3, 1, 2).float()
        if self.training or self.turns == 1:
            return self._features(pixels)
        across = pixels.transpose(2, 3)
        around = torch.cat([pixels, across.flip(2), pixels.flip((2, 3)), across.flip(3)])
        seen = self._features(around)
        return seen.reshape(self.turns, -1, seen.shape[1]).mean(dim=0)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.first is not None:
            return self.body(self.first(pixels))
        return self.body((pixels / 255.0 - self.mean) / self.spread)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return self.head(self.dropout(self.features(crops)))


def check(name: str, image_size: int, where: str) -> Network:
    """The row of a network; ConfigError where there is none, or where the picture is too small for it."""
    if name not in NETWORKS:
        raise ConfigError(f"no network '{name}'", where=where, remedy=f"one of: {', '.join(NETWORKS)}")
    row = NETWORKS[name]
    if image_size < row.least:
        what = f"image_size: {name} needs {row.least} pixels a side, got {image_size}"
        raise ConfigError(what, where=where, remedy=f"take {row.least} or more")
    return row


def build(
    name: str,
    types: int,
    image_size: int,
    *,
    head: Head = "linear",
    first: First = "none",
    dropout: float = 0.0,
    turns: int = 1,
    pretrained: bool | str = False,
    where: str = "",
) -> Classifier:
    """A classifier around a network of the zoo.

    Args:
        pretrained: true for the weights that its library publishes (downloaded); a `.safetensors` file of them, or of
            a classifier of ours.
    """
    row = check(name, image_size, where)
    body, mean, spread = _body(row, image_size, pretrained is True)
    with torch.no_grad():
        features = int(body.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1])
    made = Classifier(
        body.train(), features, types, head=head, first=first, dropout=dropout, turns=turns, mean=mean, spread=spread
    )
    if isinstance(pretrained, str):
        _start_from(made, Path(pretrained), where)
    return made


def _body(row: Network, image_size: int, download: bool) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """A network without its head, and how its pixels are scaled."""
    if row.source == "timm":
        sized = {"img_size": image_size} if row.sized else {}
        model = _library("timm").create_model(row.name, pretrained=download, num_classes=0, **sized)
        told: Mapping[str, Any] = model.pretrained_cfg
        return model, tuple(told["mean"]), tuple(told["std"])
    if row.source == "torchvision":
        models, weights = _library("torchvision.models"), "DEFAULT" if download else None
        if row.name == "googlenet":
            # Its published weights want pixels from -1 to 1; the library would scale them once more for that.
            model = models.googlenet(weights=weights, aux_logits=download, init_weights=not download)
            model.transform_input = False
            return _googlenet(model), _HALF, _HALF
        model = getattr(models, row.name)(weights=weights)
        return _HEADLESS[row.name](model), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return getattr(import_module(row.source), row.name)(), _HALF, _HALF


def _library(name: str) -> Any:
    """A library of networks, imported when one of its own is built: it takes longer than most that is asked here."""
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError("the zoo of networks", "train") from None


def _without(attribute: str) -> Callable[[nn.Module], nn.Module]:
    def cut(model: nn.Module) -> nn.Module:
        setattr(model, attribute, nn.Identity())
        return model

    return cut


def _googlenet(model: Any) -> nn.Module:
    model.fc = nn.Identity()
    model.aux_logits, model.aux1, model.aux2 = False, None, None
    return model


def _alexnet(model: Any) -> nn.Module:
    model.classifier[-1] = nn.Identity()
    return model


def _squeezenet(model: Any) -> nn.Module:
    named = {"features": model.features, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return nn.Sequential(OrderedDict(named))  # under the names of the published weights


_HEADLESS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "alexnet": _alexnet,
    "shufflenet_v2_x1_0": _without("fc"),
    "squeezenet1_0": _squeezenet,
}


def _start_from(model: Classifier, path: Path, where: str) -> None:
    """Take over the network of a file: of a classifier of ours, or published weights under their library's names; with
    it the layer that separates stains, where both have one.

    The head is not taken over: its types, or their order, are others. A transformer's places are resampled where the
    size of the picture is another. ConfigError where much of the network does not fit: it is another network's file.
    """
    if not path.is_file():
        raise ConfigError(f"pretrained: no file '{path}'", where=where, remedy="give a path, true or false")
    if path.suffix != ".safetensors":
        what = f"pretrained: '{path}' is not a .safetensors file"
        raise ConfigError(what, where=where, remedy="pickles run code when they are read: convert it first")
    given = load_file(path)
    own = {k.removeprefix("body."): v for k, v in model.state_dict().items() if k.startswith("body.")}
    named = {k.removeprefix("body."): v for k, v in given.items() if not k.startswith(("head.", "first."))}
    if "pos_embed" in own and "pos_embed" in named and own["pos_embed"].shape != named["pos_embed"].shape:
        side = model.body.patch_embed.grid_size
        named["pos_embed"] = _library("timm.layers").resample_abs_pos_embed(named["pos_embed"], side)
    fitting = {k: v for k, v in named.items() if k in own and v.shape == own[k].shape}
    missing = [k for k in own if k not in fitting]
    share = sum(own[k].numel() for k in fitting) / max(1, sum(v.numel() for v in own.values()))
    if share < _MOST_FITS:
        what = f"pretrained: {share:.0%} of this network is in '{path}'; '{missing[0]}' is not, or has another shape"
        raise ConfigError(what, where=where, remedy="use this network's own weights, at a size of picture they fit")
    separated = {k: v for k, v in given.items() if k.startswith("first.")}
    wanted = {k for k in model.state_dict() if k.startswith("first.")}
    if separated and set(separated) != wanted:
        what = f"pretrained: the network of '{path}' learnt behind a layer that separates stains, this one has none"
        raise ConfigError(what, where=where, remedy="say 'first: stain'")
    kept = {f"body.{k}": v for k, v in fitting.items()} | separated
    model.load_state_dict(kept, strict=False)
