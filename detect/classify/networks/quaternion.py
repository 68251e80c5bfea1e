"""ResNet-18 of quaternion convolutions: a pixel's colour is one number of four parts, not three numbers.

Gaudet and Maida, Deep Quaternion Networks (IJCNN 2018). The literature's "QCResNet" is read as this, a quaternion
convolutional ResNet: the sources at hand give the name and no layers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from detect.classify.networks.small import mean_over_picture


class QuaternionConv(nn.Module):
    """Hamilton product of a quaternion filter with quaternion channels.

    Channels are in four blocks, real part and i, j, k. A filter has four real kernels where an ordinary one of the
    same width has sixteen, so it has a quarter of the weights. Input (n, inside, h, w), output (n, outside, h, w).
    """

    def __init__(self, inside: int, outside: int, side: int = 3, stride: int = 1) -> None:
        super().__init__()
        if inside % 4 or outside % 4:
            raise ValueError(f"quaternion channels come in fours, not {inside} and {outside}")
        parts = [nn.Parameter(torch.empty(outside // 4, inside // 4, side, side)) for _ in range(4)]
        for part in parts:
            nn.init.kaiming_normal_(part, mode="fan_out", nonlinearity="relu")
            part.data *= 0.5  # four products are summed
        self.parts = nn.ParameterList(parts)
        self.stride, self.padding = stride, side // 2

    def kernel(self) -> torch.Tensor:
        """The real kernel that does the same, (outside, inside, side, side)."""
        r, i, j, k = self.parts
        rows = ((r, -i, -j, -k), (i, r, -k, j), (j, k, r, -i), (k, -j, i, r))
        return torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        return functional.conv2d(x, self.kernel(), stride=self.stride, padding=self.padding)


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            QuaternionConv(inside, outside, 3, stride), nn.BatchNorm2d(outside), nn.ReLU(),
            QuaternionConv(outside, outside), nn.BatchNorm2d(outside),
        )  # fmt: skip
        same = stride == 1 and inside == outside
        self.past = (
            nn.Identity()
            if same
            else nn.Sequential(QuaternionConv(inside, outside, 1, stride), nn.BatchNorm2d(outside))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.past(x))


class QuaternionResNet(nn.Module):
    """The layout of ResNet-18. Red, green and blue are i, j and k; the real part is grey, as the paper learns one."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Conv2d(3, 1, 1)
        widths = (64, 128, 256, 512)
        layers: list[nn.Module] = [QuaternionConv(4, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        before = 64
        for i, width in enumerate(widths):
            layers += [_Block(before, width, 1 if i == 0 else 2), _Block(width, width, 1)]
            before = width
        self.layers = nn.Sequential(*layers, mean_over_picture())
        self.num_features = before

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features."""
        return self.layers(torch.cat((self.grey(pixels), pixels), dim=1))
