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


class UNet(nn.Module):
    """(N, 1, H, W) → (N, 2, H, W): down, up by a transposed convolution, and the skip between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.last = nn.Conv2d(32, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.first(x))
        up = self.up(torch.relu(self.down(first)))
        last: Tensor = self.last(torch.cat([first, torch.relu(up)], 1))
        return last


class Recurrent(nn.Module):
    """(N, T, 16) → (N, 4) by an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(16, 24, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.rnn(x)[0][:, -1])
        return answer


class Attention(nn.Module):
    """(N, T, 24) → (N, T, 24) by torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return answer


class Experts(nn.Module):
    """(N, 16) → (N, 16): four experts in one parameter, weighted by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 4)
        self.weight = nn.Parameter(torch.randn(4, 16, 16) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.stack([x @ one for one in self.weight], 1)
        weighted: Tensor = (self.router(x).softmax(-1)[..., None] * each).sum(1)
        return weighted
