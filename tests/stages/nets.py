"""Networks and a loss as users have them, for chains of every task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TwoInputs(nn.Module):
    """Keywords in, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(12, 16), nn.Linear(5, 16)
        self.body, self.out = nn.Linear(16, 24), nn.Linear(24, 1)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        state = self.body(torch.tanh(self.left(a) + self.right(b)))
        return {"y": self.out(state.relu()), "state": state}


class Pixels(nn.Module):
    """A small U: one level down and up, with a skip; logits at each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 12, 3, padding=1)
        self.down = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.out = nn.Conv2d(24, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        first = self.enter(image).relu()
        up = self.up(self.down(first).relu())
        found: Tensor = self.out(torch.cat([first, up.relu()], 1))
        return found


class Auto(nn.Module):
    """An autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 8), nn.Linear(8, 32), nn.Linear(32, 20)
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found


def heavy_tails(output: Any, batch: Any) -> Tensor:
    """A loss of one's own, of the chosen output and the batch."""
    assert set(batch.inputs) == {"a", "b"}
    loss: Tensor = (output - batch.labels.view_as(output)).abs().add(1).log().mean()
    return loss


class Small(nn.Sequential):
    """Twelve numbers in, two classes out."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 2))
