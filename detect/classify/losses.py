"""What a classifier is punished for. All take soft targets, so that mixed cells have theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from detect.classify.settings import ClassifierSettings

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # scores (n, types), targets (n, types) summing to 1


def weights_of(labels: NDArray[np.int64], types: int) -> torch.Tensor:
    """By type, the inverse of how often it occurs, mean 1 over types; float32 (types,)."""
    counts = np.maximum(np.bincount(labels, minlength=types), 1)
    weight = 1 / counts
    return torch.from_numpy((weight / weight.mean()).astype(np.float32))


def loss_of(settings: ClassifierSettings, labels: NDArray[np.int64], types: int) -> Loss:
    """The loss that a configuration names."""
    weight = weights_of(labels, types) if settings.class_weights == "balanced" else torch.ones(types)
    gamma, smooth = settings.focal_gamma if settings.loss == "focal" else 0.0, settings.label_smoothing

    def loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if settings.loss == "tversky":
            here = (target.sum(dim=0) > 0) * weight.to(scores.device)
            return tversky(scores, target * (1 - smooth) + smooth / types, settings.tversky_alpha, here)
        return focal(scores, target * (1 - smooth) + smooth / types, gamma, weight.to(scores.device))

    return loss


_SMOOTH = 1e-6


def focal(scores: torch.Tensor, target: torch.Tensor, gamma: float, weight: torch.Tensor) -> torch.Tensor:
    """Focal loss (Lin et al., Focal Loss for Dense Object Detection, 2017), weighted mean over cells.

    Cross-entropy where gamma is 0.
    """
    told = functional.log_softmax(scores.float(), dim=1)
    doubt = (1 - told.exp()).clamp(min=_SMOOTH) ** gamma  # its slope at 0 is infinite where gamma is below 1
    each = -(target * weight * doubt * told).sum(dim=1)
    return each.sum() / (target * weight).sum()


def tversky(scores: torch.Tensor, target: torch.Tensor, alpha: float, weight: torch.Tensor) -> torch.Tensor:
    """1 less the Tversky index of each type, weighted mean over the types; give those that are not there no weight.

    Salehi et al., Tversky loss function for image segmentation (2017), over cells instead of pixels. alpha weighs
    what is falsely called a type, 1 less alpha what is missed of it; at a half it is Dice.
    """
    told = functional.softmax(scores.float(), dim=1)
    hit = (told * target).sum(dim=0)
    false, missed = (told * (1 - target)).sum(dim=0), ((1 - told) * target).sum(dim=0)
    index = (hit + _SMOOTH) / (hit + alpha * false + (1 - alpha) * missed + _SMOOTH)
    return ((1 - index) * weight).sum() / weight.sum()
