"""A CNN with pointwise and local spatial attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from detect.classify.networks.small import conv, mean_over_picture


class PointwiseAttention(nn.Module):
    """Weights of each channel at each pixel, from the channels of that pixel alone (two 1x1 convolutions)."""

    def __init__(self, width: int, reduction: int = 4) -> None:
        super().__init__()
        narrow = max(4, width // reduction)
        self.gate = nn.Sequential(nn.Conv2d(width, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, width, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape, weighted."""
        return x * self.gate(x)


class LocalSpatialAttention(nn.Module):
    """Weights of each place, the same for all channels, from mean and maximum over channels in a 7x7 neighbourhood
    (the spatial half of CBAM, Woo et al., 2018)."""

    def __init__(self, side: int = 7) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(2, 1, side, padding=side // 2), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape, weighted."""
        seen = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * self.gate(seen)


class AttentionNet(nn.Module):
    """Four stages of two convolutions, each stage followed by both attentions, mean over the picture."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, widths[0], 2, act=nn.ReLU)]
        before = widths[0]
        for i, width in enumerate(widths):
            layers += [conv(before, width, 1 if i == 0 else 2, act=nn.ReLU), conv(width, width, act=nn.ReLU)]
            layers += [PointwiseAttention(width), LocalSpatialAttention()]
            before = width
        self.layers = nn.Sequential(*layers, mean_over_picture())
        self.num_features = before

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features."""
        return self.layers(pixels)
