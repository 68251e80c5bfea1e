"""Small networks, trained from scratch: ours, LeNet-5, ten layers of convolutions, squeeze and excitation.

All take float32 RGB (n, 3, s, s) and give features (n, f); the classifier around them scales pixels and answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def conv(inside: int, outside: int, stride: int = 1, side: int = 3, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, side, stride, side // 2, bias=False), nn.BatchNorm2d(outside), act()
    )


def mean_over_picture() -> nn.Sequential:
    """(n, f, h, w) to (n, f)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class SmallNet(nn.Module):
    """Stem and four stages of two 3x3 convolutions, mean over the picture: the network of the first bundle."""

    def __init__(self, widths: Sequence[int] = (24, 48, 96, 160)) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, widths[0], 2)]
        before = widths[0]
        for i, width in enumerate(widths):
            layers += [conv(before, width, 1 if i == 0 else 2), conv(width, width)]
            before = width
        self.stages = nn.Sequential(*layers)
        self.pool = mean_over_picture()
        self.num_features = before

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features."""
        return self.pool(self.stages(pixels))


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998): two 5x5 convolutions with pooling, then 120 and 84 units.

    Its picture is 32 pixels a side, so a larger one is averaged down to that first. ReLU and max pooling, as every
    later user has it; three channels instead of one.
    """

    SIDE = 32

    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.AdaptiveAvgPool2d(self.SIDE)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        )  # fmt: skip
        self.num_features = 84

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features."""
        return self.layers(self.shrink(pixels))


class TenLayers(nn.Module):
    """Ten layers with weights: eight 3x3 convolutions in four pairs with pooling, and two dense ones, of which the
    last is the classifier's head. The shape that papers on leukemia train from scratch and call "our CNN"."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), dense: int = 256) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [conv(before, width, act=nn.ReLU), conv(width, width, act=nn.ReLU), nn.MaxPool2d(2)]
            before = width
        self.layers = nn.Sequential(*layers, mean_over_picture(), nn.Linear(before, dense), nn.ReLU())
        self.num_features = dense

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features."""
        return self.layers(pixels)


class _Excitation(nn.Module):
    """Weights of the channels, from their means (Hu et al., Squeeze-and-Excitation Networks, 2018)."""

    def __init__(self, width: int, reduction: int = 8) -> None:
        super().__init__()
        narrow = max(4, width // reduction)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, width, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class _Residual(nn.Module):
    """Two convolutions, excited, added to what came in."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inside, outside, stride, act=nn.ReLU), conv(outside, outside, act=nn.Identity), _Excitation(outside)
        )
        same = stride == 1 and inside == outside
        self.past = nn.Identity() if same else conv(inside, outside, stride, side=1, act=nn.Identity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.past(x))


class SqueezeExcite(nn.Module):
    """Four stages of two residual blocks with squeeze and excitation, narrower than ResNet-18."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, widths[0], 2, act=nn.ReLU)]
        before = widths[0]
        for i, width in enumerate(widths):
            layers += [_Residual(before, width, 1 if i == 0 else 2), _Residual(width, width, 1)]
            before = width
        self.layers = nn.Sequential(*layers, mean_over_picture())
        self.num_features = before

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features."""
        return self.layers(pixels)
