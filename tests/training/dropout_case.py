"""A network with dropout, for tests."""

from __future__ import annotations

from torch import Tensor, nn


class Dropping(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(rate), nn.Linear(32, 10)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self.layers(inputs)
        return answer
