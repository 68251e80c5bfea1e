"""Where a network looks: Grad-CAM, Score-CAM and attention maps by libraries, and whether they are to be believed.

Grad-CAM: Selvaraju et al., ICCV 2017; Score-CAM: Wang et al., CVPR workshops 2020 (both as pytorch-grad-cam has them);
attention rollout: Abnar and Zuidema, ACL 2020, from the attention that timm extracts. A map is held against the model
itself by the deletion curve of Petsiuk et al., BMVC 2018: what it marks is blurred away first, and the answer's
probability must fall sooner than along random maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detect.errors import BundleError, MissingExtraError

try:
    from pytorch_grad_cam import GradCAM, ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from timm.utils import AttentionExtract
except ImportError:
    raise MissingExtraError("explaining a classifier", "train") from None

from detect.bundles.folder import Bundle
from detect.classify.answerers import Ensemble, Familiar, rebuild
from detect.classify.heat import Map
from detect.classify.networks import Classifier
from detect.types import Image

Method = Literal["grad-cam", "score-cam", "attention"]
METHODS: tuple[Method, ...] = ("grad-cam", "score-cam", "attention")
STEPS = 20  # parts in which a crop is blurred away
_SEED = 1
_BATCH = 32
_NOISES, _LARGER = 4, 3  # pictures of noise that tell where a map lies, and times a crop's side
_Turn = Callable[[torch.Tensor], torch.Tensor]  # of a module's output into a map


class Explainer:
    """Explains the answers of one bundle: of an ensemble by the mean of its networks' maps.

    Raises:
        BundleError: the bundle is made of something else than networks, or has no such map.
    """

    def __init__(self, bundle: Bundle, method: Method = "grad-cam") -> None:
        about = bundle.card.architecture
        members = about["members"] if about.get("kind") == "ensemble" else [about]
        if bundle.card.classifier is None or any(m.get("kind") != "network" for m in members):
            other = next((m.get("kind") for m in members if m.get("kind") != "network"), None)
            what = f"only networks are explained, here is a {other or bundle.card.task}"
            raise BundleError(what, where=str(bundle.path), remedy="explain a bundle of networks alone")
        model = rebuild(about, bundle.weights)
        self.model: nn.Module = model.model if isinstance(model, Familiar) else model
        self.size = bundle.card.classifier.image_size
        self.method = method
        self._heat = bundle.card.classifier.temperature
        networks = list(self.model.members) if isinstance(self.model, Ensemble) else [self.model]
        where = str(bundle.path)
        self._maps = [_Maps(n, m["name"], self.size, method, where) for n, m in zip(networks, members, strict=True)]

    def maps(self, crops: NDArray[np.uint8], answers: Sequence[int]) -> list[Map]:
        """Where the networks looked for an answer, a map for each crop.

        Args:
            crops: uint8 RGB (n, s, s, 3). answers: index of the type to explain, of each.
        """
        return [
            _scaled(np.mean([one.of(crop, answer) for one in self._maps], axis=0))
            for crop, answer in zip(crops, answers, strict=True)
        ]

    def chances(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities, float32 (n, types)."""
        with torch.inference_mode():
            batches = (torch.from_numpy(crops[i : i + _BATCH]) for i in range(0, len(crops), _BATCH))
            found = [torch.softmax(self.model(batch) / self._heat, dim=1) for batch in batches]
        return np.asarray(torch.cat(found).numpy(), np.float32)


class _Maps:
    """Maps of one network, whose name errors tell."""

    def __init__(self, model: Classifier, name: str, size: int, method: Method, where: str) -> None:
        self.model, self.name, self.size, self.where = model, name, size, where
        self._pixels = _Pixels(model).eval()
        self.of = self._attention() if method == "attention" else self._cam(method)

    def _cam(self, method: Method) -> Callable[[Image, int], Map]:
        layer, turn = _last_map(self._pixels, self.size)
        if layer is None or turn is None:
            what = f"{self.name} keeps no map of the picture to its end"
            raise BundleError(what, where=self.where, remedy="use --method attention, or another network")
        kind = GradCAM if method == "grad-cam" else ScoreCAM
        found = kind(self._pixels, [layer], reshape_transform=turn)
        right, down = _off(self._pixels, layer, turn, self.size)
        moved, side = np.array([[1, 0, right], [0, 1, down]]), (self.size, self.size)

        def cam(crop: Image, answer: int) -> Map:
            given = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
            with torch.enable_grad(), redirect_stderr(StringIO()):  # Score-CAM draws a bar for every cell
                drawn = found(given, [ClassifierOutputTarget(answer)])[0]
            return _scaled(cv2.warpAffine(drawn, moved, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

        return cam

    def _attention(self) -> Callable[[Image, int], Map]:
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # the fused one never shows its weights
        try:
            found = AttentionExtract(self.model.body, method="hook")
        except RuntimeError:
            what = f"{self.name} has no attention to show"
            raise BundleError(what, where=self.where, remedy="use --method grad-cam") from None
        side = getattr(getattr(self.model.body, "patch_embed", None), "grid_size", None)

        def rollout(crop: Image, answer: int) -> Map:
            with torch.inference_mode():
                pixels = (torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255 - self.model.mean) / (
                    self.model.spread
                )
                layers = [a.mean(dim=1)[0] for a in found(pixels).values()]
            if side is None or any(a.shape != layers[0].shape for a in layers):
                what = f"the attention of {self.name} is of windows, not of the whole picture"
                raise BundleError(what, where=self.where, remedy="use --method grad-cam")
            joint = torch.eye(layers[0].shape[0])
            for layer in layers:
                mixed = layer + torch.eye(layer.shape[0])  # what a block passes by is seen too
                joint = (mixed / mixed.sum(dim=1, keepdim=True)) @ joint
            patches = joint[0, 1:].reshape(side).numpy()
            grown = cv2.resize(patches.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_CUBIC)
            return _scaled(grown)

        return rollout


class _Pixels(nn.Module):
    """A classifier that takes float pixels (n, 3, s, s), 0 to 255, so that gradients reach them.

    It looks at them as they stand only: maps of a picture and its turns could not be laid on one another.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        turns, self.model.turns = self.model.turns, 1
        try:
            return self.model(pixels.permute(0, 2, 3, 1))
        finally:
            self.model.turns = turns


def _off(model: nn.Module, layer: nn.Module, turn: _Turn, size: int) -> tuple[float, float]:
    """By how many pixels a map lies right of where it is drawn, and below: what its places see says so.

    It is drawn as if its places divided the picture evenly. Convolutions that step by two and pad by one see places
    that lie up and left of that: by 7.5 pixels after four of them, by 15.5 after five.
    """
    places, own = _seen(model, layer, turn, size)
    try:  # the borders of a larger picture cut less of what is seen
        more, off = _seen(model, layer, turn, _LARGER * size)
    except (AssertionError, RuntimeError):  # transformers take one size only
        return own
    part = more / (_LARGER * places)
    return off[0] * part, off[1] * part


def _seen(model: nn.Module, layer: nn.Module, turn: _Turn, size: int) -> tuple[int, tuple[float, float]]:
    """Places a side of a map of noise, and the middle (x, y) of what two of them see, from the picture's middle.

    The two lie on either side of the middle, so that what the whole map hangs on alike does not count.
    """
    maps: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda module, given, out: maps.append(turn(out)))
    noise = torch.rand(_NOISES, 3, size, size, generator=torch.Generator().manual_seed(_SEED)) * 255
    try:
        with torch.enable_grad():
            model(noise.requires_grad_())
            places = maps[0].shape[-1]
            near, far = places // 3, places - 1 - places // 3
            asked = [maps[0][:, :, i, i].square().sum() for i in (near, far)]
            slopes = [torch.autograd.grad(one, noise, retain_graph=True)[0] for one in asked]
    finally:
        hook.remove()
    seen = [slope.square().sum(dim=(0, 1)).numpy().astype(np.float64) for slope in slopes]
    if not all(one.sum() > 0 for one in seen):
        return places, (0.0, 0.0)
    from_middle = np.arange(size) - (size - 1) / 2
    x, y = (np.mean([one.sum(axis=axis) @ from_middle / one.sum() for one in seen]) for axis in (0, 1))
    return places, (float(x), float(y))


def _last_map(model: nn.Module, size: int) -> tuple[nn.Module | None, _Turn | None]:
    """The last module with a map of the picture that the scores hang on, and how its output becomes a map.

    The last tokens of a transformer are a map too, but only one of them is looked at.
    """
    seen: list[tuple[nn.Module, torch.Tensor]] = []

    def note(module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor) and out.requires_grad and not list(module.children()):
            seen.append((module, out))

    hooks = [m.register_forward_hook(note) for m in model.modules()]
    with torch.enable_grad():
        pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(_SEED)) * 255
        scores = model(pixels.requires_grad_())
        slopes = torch.autograd.grad(scores.square().sum(), [out for _, out in seen], allow_unused=True)
    for hook in hooks:
        hook.remove()
    for (module, out), slope in zip(reversed(seen), reversed(slopes), strict=True):
        turn = _as_map(out.shape)
        if turn is not None and slope is not None and bool(turn(slope).abs().sum() > 0):
            return module, turn
    return None, None


def _as_map(shape: torch.Size) -> _Turn | None:
    """How an output of this shape becomes a map, (n, channels, h, w); None where it is none."""
    if len(shape) == 4 and shape[2] == shape[3] and shape[2] > 1:
        return lambda t: t
    if len(shape) == 4 and shape[1] == shape[2] and shape[1] > 1:
        return lambda t: t.permute(0, 3, 1, 2)
    side = round(max(0, shape[1] - 1) ** 0.5) if len(shape) == 3 else 0
    if side > 1 and side * side == shape[1] - 1:
        return lambda t: t[:, 1:].reshape(t.shape[0], side, side, -1).permute(0, 3, 1, 2)
    return None


def _scaled(values: NDArray[Any]) -> Map:
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low) if high > low else np.zeros_like(values), np.float32)


@dataclass(frozen=True, eq=False)
class Deletion:
    """One crop blurred away along a map.

    Attributes:
        curve: probability of the answer after each step, (steps + 1,). area: its mean, the area under the curve.
    """

    curve: NDArray[np.float32]

    @property
    def area(self) -> float:
        """Lower is better: the answer fell sooner."""
        return float((self.curve[:-1] + self.curve[1:]).mean() / 2)


def deletion(explainer: Explainer, crop: Image, answer: int, found: Map) -> Deletion:
    """Blur the crop away, what the map marks most first."""
    blurred = cv2.GaussianBlur(crop, (0, 0), max(crop.shape[0] / 8, 1))
    order = np.argsort(-found.ravel(), kind="stable")
    steps = np.linspace(0, len(order), STEPS + 1).round().astype(int)
    shown = np.repeat(crop[None], STEPS + 1, axis=0)
    for i, n in enumerate(steps):
        rows, columns = np.unravel_index(order[:n], found.shape)
        shown[i][rows, columns] = blurred[rows, columns]
    return Deletion(explainer.chances(shown)[:, answer])


def random_map(size: int, coarse: int, rng: np.random.Generator) -> Map:
    """A map of nothing, as smooth as one that was made from `coarse` places a side."""
    small = rng.random((max(2, coarse), max(2, coarse))).astype(np.float32)
    return _scaled(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC))
