"""What a network's outputs predict, and so in which loss its errors count.

Each kind has a divergence between the dense network's predictions and another's, 0 where they
agree, and a sampled loss: a scalar of the dense network's outputs with random coefficients whose
gradient's second moment is the Hessian of the divergence (the generalised Gauss–Newton matrix;
of categories this is the Fisher matrix: Martens 2020, "New insights and perspectives").
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError


class Predictions(Protocol):
    """rows: (units, width), what the network gives for each unit of loss."""

    @abstractmethod
    def normalised(self, rows: Tensor) -> Tensor:
        """float32, the same for outputs that predict the same."""

    @abstractmethod
    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        """Sum over the units, ≥ 0, of two networks' normalised outputs."""

    @abstractmethod
    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Sum over the units; random numbers are drawn on the CPU."""


class Categories(Predictions):
    """Logits, up to a constant a row. Divergence: KL(dense ‖ other) in nats; the sampled loss is
    the cross-entropy with labels drawn from the prediction itself."""

    def normalised(self, rows: Tensor) -> Tensor:
        return rows.float().log_softmax(-1)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return functional.kl_div(other, dense, log_target=True, reduction="sum")

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            probabilities = rows.float().softmax(-1).cpu()
            labels = torch.multinomial(probabilities, 1, generator=generator).flatten()
        return functional.cross_entropy(rows.float(), labels.to(rows.device), reduction="sum")


class Directions(Predictions):
    """Embeddings, up to their length. Divergence: 1 − cosine, which is ½‖u − v‖² of the unit
    vectors u, v; the sampled loss is ⟨z, u⟩ with z normal."""

    def normalised(self, rows: Tensor) -> Tensor:
        return functional.normalize(rows.float(), dim=-1)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return (dense - other).square().sum() / 2

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator).to(rows.device)
        return (noise * self.normalised(rows)).sum()


PREDICTIONS: dict[str, Predictions] = {"categories": Categories(), "directions": Directions()}


def get_predictions(name: str) -> Predictions:
    """Raises LowRankError for an unknown name."""
    if name not in PREDICTIONS:
        raise LowRankError(f"predictions {name!r}: unknown; choose one of {', '.join(PREDICTIONS)}")
    return PREDICTIONS[name]
