"""The small network of the first classifier bundle: plain convolutions, trained from scratch on few cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class SmallNet(nn.Module):
    """Stem and four stages of two 3x3 convolutions, mean over the picture, dropout, one linear layer.

    Input uint8 RGB (n, s, s, 3); output scores before the softmax, (n, types). Scaling of pixels is part of the
    network, so that every engine is fed the same bytes.
    """

    def __init__(self, types: int, widths: tuple[int, ...] = (24, 48, 96, 160), dropout: float = 0.3) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, widths[0], 2)]
        before = widths[0]
        for i, width in enumerate(widths):
            layers += [_conv(before, width, 1 if i == 0 else 2), _conv(width, width, 1)]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(before, types))

    def forward(self, crops: torch.Tensor) -> Any:
        pixels = crops.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return self.head(self.features(pixels).mean(dim=(2, 3)))


def _conv(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.SiLU(inplace=True)
    )


# Architecture name to its builder.
NETWORKS = {"smallnet": SmallNet}
