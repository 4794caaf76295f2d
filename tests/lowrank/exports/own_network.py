"""A network of the user's own: torch alone, built from arguments, with one convolution in two
places and one attribute that its forward reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OwnNet(nn.Module):
    """(N, 3, H, W) → {"classes": (N, classes), "features": (N, width)}."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.twice = nn.Conv2d(width, width, 3, stride=1, padding=1)
        self.again = self.twice
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.again(torch.relu(self.twice(x))))
        features = x[:, :, :: self.twice.stride[0]].mean((2, 3))
        return {"classes": self.head(features), "features": features}
