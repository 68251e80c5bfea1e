"""Everything that answers for a crop, as a module of torch: a network, a hybrid of features and a head, an ensemble.

Input: crops, uint8 RGB (n, s, s, 3), and of hybrids with measured features those too, float32 (n, features). Output:
scores, float32 (n, types), whose softmax is calibrated by a temperature. `Description` says how to build one again
from its weights: `bundle.yaml` keeps it as the section `architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from detect.classify import heads, networks
from detect.classify.bundled import sees_pixels
from detect.classify.networks import Classifier
from detect.errors import BundleError

Description = Mapping[str, Any]
FAMILIAR = "familiar."  # among the weights: what `Familiar` knows of the cells that were learnt
_LEAST = 1e-6  # probability that 0 is taken for in a logarithm


class Scaled(nn.Module):
    """Features less their mean, over their spread, turned or chosen by a matrix."""

    def __init__(self, mean: torch.Tensor, spread: torch.Tensor, turn: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.register_buffer("turn", turn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, features) to (n, kept)."""
        scaled = self.limited((x - self.mean) / self.spread)
        return scaled if self.turn is None else scaled @ self.turn

    def limited(self, x: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return x


class Kind(Scaled):
    """One kind of features, none more than 8 spreads away.

    What hardly varies among the cells learnt from can lie a thousand spreads away in another lab's, and would decide
    alone.
    """

    FAR = 8.0

    def limited(self, x: torch.Tensor) -> torch.Tensor:
        """No farther than that."""
        return x.clamp(-self.FAR, self.FAR)


class Hybrid(nn.Module):
    """Kinds of features side by side, chosen from, into a head.

    Args:
        bodies: the networks that see, in order. kinds: of each kind of features, how many are measured, or 0 for those
            that the next network sees. steps: how each kind is scaled and fused. choice: which of all are kept.
        head: see `heads`.
    """

    def __init__(
        self,
        bodies: Sequence[Classifier],
        kinds: Sequence[int],
        steps: Sequence[Kind],
        choice: Scaled,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.bodies, self.steps = nn.ModuleList(bodies), nn.ModuleList(steps)
        self.kinds, self.choice, self.head = tuple(kinds), choice, head

    def features(self, crops: torch.Tensor | None, measured: torch.Tensor | None = None) -> torch.Tensor:
        """What the head looks at, (n, kept)."""
        bodies, start, kinds = iter(self.bodies), 0, []
        for step, width in zip(self.steps, self.kinds, strict=True):
            if width == 0:
                kinds.append(step(next(bodies).features(crops).float()))
            else:
                assert measured is not None
                kinds.append(step(measured[:, start : start + width]))
                start += width
        return self.choice(torch.cat(kinds, dim=1))

    def forward(self, crops: torch.Tensor | None, measured: torch.Tensor | None = None) -> torch.Tensor:
        """Scores."""
        return self.head(self.features(crops, measured))


class Ensemble(nn.Module):
    """Several answer together; `temperatures` (members,) calibrates each first.

    `weights`: of the members, (members,), for mean and weighted; of stacking (types, members x types + 1), the last
    column the constant; of majority they are not used.
    """

    def __init__(self, members: Sequence[nn.Module], rule: str, temperatures: torch.Tensor, weights: torch.Tensor):
        super().__init__()
        self.members, self.rule = nn.ModuleList(members), rule
        self.register_buffer("temperatures", temperatures)
        self.register_buffer("weights", weights)

    def forward(self, crops: torch.Tensor | None, measured: torch.Tensor | None = None) -> torch.Tensor:
        """Scores: logarithms of what the rule gives."""
        told = torch.stack([self._one(i, m, crops, measured) for i, m in enumerate(self.members)], dim=1)
        return combine(self.rule, told, self.weights)

    def _one(
        self, i: int, member: nn.Module, crops: torch.Tensor | None, measured: torch.Tensor | None
    ) -> torch.Tensor:
        scores = member(crops, measured) if takes_measured(member) else member(crops)
        return functional.softmax(scores / self.temperatures[i], dim=1)


def combine(rule: str, told: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Probabilities of members, (n, members, types), to scores, (n, types)."""
    if rule == "stacking":
        flat = torch.log(told.clamp(min=_LEAST)).flatten(1)
        return flat @ weights[:, :-1].t() + weights[:, -1]
    if rule == "majority":
        votes = functional.one_hot(told.argmax(dim=2), told.shape[2]).float().mean(dim=1)
        # A draw goes to whom the members give more on average: a vote counts more than all of that.
        share = (votes + 1e-3 * told.mean(dim=1)) / (1 + 1e-3)
    else:
        share = (told * weights[None, :, None]).sum(dim=1) / weights.sum()
    return torch.log(share.clamp(min=_LEAST))


class Familiar(nn.Module):
    """A model that also tells how far each cell lies from those that were learnt.

    The distance is Mahalanobis' to the mean of the nearest type, squared, under one covariance for all types (Lee et
    al., A simple unified framework for detecting out-of-distribution samples, NeurIPS 2018), shrunk as Ledoit and Wolf
    (2004) say, since there are fewer cells than features. It is over features, so that its mean is about 1.

    Args:
        means: of each type, float32 (types, features). axes: directions in which cells were seen to differ, float32
            (features, axes), of length 1. variances: of each axis, float32 (axes,). rest: in all other directions.
    """

    def __init__(
        self, model: nn.Module, means: torch.Tensor, axes: torch.Tensor, variances: torch.Tensor, rest: torch.Tensor
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("means", means)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances)
        self.register_buffer("rest", rest)

    def forward(
        self, crops: torch.Tensor | None, measured: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (n, types) and distances (n,)."""
        features, scores = seen(self.model, crops, measured)
        away = features[:, None, :] - self.means[None, :, :]
        along = (away @ self.axes).square()
        other = (away.square().sum(dim=2) - along.sum(dim=2)).clamp(min=0)
        distances = (along / self.variances).sum(dim=2) + other / self.rest
        return scores, distances.min(dim=1).values / self.means.shape[1]


def seen(
    model: nn.Module, crops: torch.Tensor | None, measured: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model looks at, float32 (n, features), and its scores. Of an ensemble: the directions of its members'."""
    if isinstance(model, Ensemble):
        each, heats = [seen(m, crops, measured) for m in model.members], model.temperatures.unbind()
        told = torch.stack([functional.softmax(s / t, dim=1) for (_, s), t in zip(each, heats, strict=True)], dim=1)
        directions = [functional.normalize(f, dim=1) for f, _ in each]
        return torch.cat(directions, dim=1), combine(model.rule, told, model.weights)
    if isinstance(model, Hybrid):
        features = model.features(crops, measured)
        return features, model.head(features)
    features = model.features(crops)
    return features.float(), model.head(model.dropout(features))


class Blind(nn.Module):
    """A model that looks at no pixel, as a graph of what was measured alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, measured: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What the model tells."""
        told: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = self.model(None, measured)
        return told


def takes_measured(model: nn.Module) -> bool:
    """Whether a model takes measured features beside the crops."""
    if isinstance(model, Familiar):
        return takes_measured(model.model)
    if isinstance(model, Ensemble):
        return any(takes_measured(m) for m in model.members)
    return isinstance(model, Hybrid) and any(model.kinds)


def measured_of(about: Description) -> tuple[str, ...]:
    """Names of the measured features that a model takes."""
    if about["kind"] == "ensemble":
        return next((names for m in about["members"] if (names := measured_of(m))), ())
    return tuple(about.get("handmade", ()))


def rebuild(about: Description, weights: Path) -> nn.Module:
    """A model from its description and its weights, ready to answer; BundleError where they do not fit."""
    tensors = load_file(weights)
    known = _below(tensors, FAMILIAR)
    model = _from(about, {k: v for k, v in tensors.items() if not k.startswith(FAMILIAR)}, str(weights)).eval()
    return Familiar(model, **known).eval() if known else model


def _from(about: Description, tensors: Mapping[str, torch.Tensor], where: str) -> nn.Module:
    if about["kind"] == "ensemble":
        members = [_from(m, _below(tensors, f"members.{i}."), where) for i, m in enumerate(about["members"])]
        return Ensemble(members, str(about["rule"]), tensors["temperatures"], tensors["weights"])
    if about["kind"] == "hybrid":
        bodies = [_network(b, _below(tensors, f"bodies.{i}."), where) for i, b in enumerate(about["bodies"])]
        steps = [Kind(**_below(tensors, f"steps.{i}.")) for i in range(len(about["kinds"]))]
        choice = Scaled(**_below(tensors, "choice."))
        return Hybrid(
            bodies, about["kinds"], steps, choice, heads.rebuild(str(about["head"]), _below(tensors, "head."))
        )
    return _network(about, tensors, where)


def _network(about: Description, tensors: Mapping[str, torch.Tensor], where: str) -> Classifier:
    made = networks.build(
        str(about["name"]),
        int(about["types"]),
        int(about["image_size"]),
        head=about.get("head", "linear"),
        first=about.get("first", "none"),
        turns=int(about.get("turns", 1)),
        where=where,
    )
    try:
        made.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise BundleError(f"the weights do not fit the architecture: {error}", where=where) from error
    made.eval()
    return made


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def reference(
    about: Description, weights: Path, device: str = "cpu", precision: str = "fp32"
) -> Callable[..., tuple[NDArray[np.float32], ...]]:
    """The graph of a classifier bundle, run by torch itself: crops uint8 (n, s, s, 3) to scores (n, types)."""
    model = rebuild(about, weights).to(device)
    if not sees_pixels(about):
        model = Blind(model)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)

    def run(*inputs: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
        given = [torch.from_numpy(v).to(device) for v in inputs]
        with torch.inference_mode(), torch.autocast(torch.device(device).type, dtype=kind, enabled=precision != "fp32"):
            told = model(*given)
            return tuple(out.float().cpu().numpy() for out in (told if isinstance(told, tuple) else (told,)))

    return run
