"""CNN-GRU: convolutions read the picture, a recurrent layer reads what they saw, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from detect.classify.networks.small import conv


class CnnGru(nn.Module):
    """Blocks of convolution with pooling; the map they give is a sequence of its rows; a bidirectional GRU (Cho et
    al., 2014) reads it; a dense layer with dropout.

    The hybrid that papers on leukemia name CNN-GRU. They leave the order of the sequence open; here each row of the
    feature map, all its channels, is one step, from top to bottom. The map is pooled to `across` rows and columns
    first, so that the size of the picture does not set the number of weights.

    Input float32 (n, 3, s, s), output (n, dense).
    """

    def __init__(
        self, widths: Sequence[int] = (32, 64, 128, 128), across: int = 6, hidden: int = 96, dense: int = 128
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [conv(before, width, act=nn.ReLU), nn.MaxPool2d(2)]
            before = width
        self.blocks = nn.Sequential(*layers)
        self.grid = nn.AdaptiveAvgPool2d(across)
        self.gru = nn.GRU(before * across, hidden, batch_first=True, bidirectional=True)
        self.dense = nn.Sequential(nn.Linear(2 * hidden, dense), nn.ReLU(), nn.Dropout(0.3))
        self.num_features = dense

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features."""
        seen = self.grid(self.blocks(pixels))  # (n, channels, rows, columns)
        rows = seen.permute(0, 2, 1, 3).flatten(2)  # (n, rows, channels x columns)
        read, _ = self.gru(rows)
        return self.dense(read.mean(dim=1))
