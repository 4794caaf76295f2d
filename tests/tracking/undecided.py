"""A network of one's own, whose code needs torch alone."""

from __future__ import annotations

from torch import Tensor, nn


class Undecided(nn.Module):
    """What it does depends on what it reads, which torch.export refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.flatten(1))
        return found if float(x.detach().sum()) > 0 else -found
