"""What can stand before or behind any network: a layer that separates stains, a head of orthogonal classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from detect.images import stain


class StainDeconvolution(nn.Module):
    """RGB to the amounts of three stains, by a matrix that is learnt on (SD-Layer: Duggal et al., MICCAI 2017).

    Optical density (Beer and Lambert) times the inverse of a stain matrix whose rows, the stains' densities, have
    length 1. It begins with haematoxylin, eosin and the rest (Ruifrok and Johnston) and moves with the training.

    Input float32 RGB (n, 3, s, s) from 0 to 255; output (n, 3, s, s), amounts of stain, about 0 to 3.
    """

    def __init__(self) -> None:
        super().__init__()
        begin = np.asarray(stain.HED, np.float64)
        begin = begin / np.linalg.norm(begin, axis=1, keepdims=True)
        self.stains = nn.Parameter(torch.from_numpy(begin.astype(np.float32)))
        # The inverse is what a pixel is multiplied by. It is learnt, not inverted at each step: a matrix that comes
        # near to singular would throw the training off.
        self.unmix = nn.Parameter(torch.from_numpy(np.linalg.inv(begin).astype(np.float32)))
        self.stains.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Amounts."""
        density = -torch.log((pixels + 1.0) / 256.0)
        return functional.conv2d(density, self.unmix.t()[:, :, None, None])


class OrthogonalHead(nn.Module):
    """Orthogonal softmax layer (Li et al., OSLNet, IEEE TIP 2020): the features are dealt out, each to one type.

    The weights of two types have no feature in common, so they are orthogonal from the start and stay so; a small set
    cannot make two types lean on the same feature. Input (n, features), output (n, types).
    """

    def __init__(self, features: int, types: int) -> None:
        super().__init__()
        if features < types:
            raise ValueError(f"{features} features cannot be dealt out to {types} types")
        self.weight = nn.Parameter(torch.empty(types, features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        owner = torch.arange(features) * types // features
        self.register_buffer("mask", functional.one_hot(owner, types).t().float())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores before the softmax."""
        return functional.linear(features, self.weight * self.mask)
