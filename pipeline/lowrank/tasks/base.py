"""What a task is: all that is known of what a network predicts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor


class Task(Protocol):
    """What a network predicts, and so in which loss its errors count.

    A task has a divergence between the dense network's predictions and another's, which is 0
    where they agree, and a sampled loss: a scalar of the dense network's outputs with random
    coefficients whose gradient's second moment is the Hessian of the divergence (the generalised
    Gauss–Newton matrix; of categories this is the Fisher matrix: Martens 2020, "New insights and
    perspectives"). A unit is what has a loss of its own: an example, or a token.

    name: as in the configuration. unit: that of the divergence, "nats per token" for example.
    """

    name: str
    unit: str

    @abstractmethod
    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        """(units, width): what the network predicts for each unit.

        output: what the network gave for a batch. mask: (N, T) bool, false at padding, which is
        no unit; None where the batch has none.
        """

    @abstractmethod
    def normalised(self, rows: Tensor) -> Tensor:
        """(units, width) float32, equal for rows that predict the same (logits, for example, are
        known up to a constant)."""

    @abstractmethod
    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        """The scalar divergence of two networks' normalised rows, ≥ 0, summed over the units."""

    @abstractmethod
    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar sampled loss of the rows, summed over the units. Its random numbers are
        drawn on the CPU, so that they are the same on every device."""
