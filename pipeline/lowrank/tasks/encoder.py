"""Sentence encoders: an embedding for each text, whose direction is what counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.base import Task


class Encoder(Task):
    """The network reads token ids (N, T), perhaps padded, and gives embeddings (N, width), known
    up to their length. The divergence is 1 − cosine, which is ½‖u − v‖² of the unit vectors u
    and v; the sampled loss is ⟨z, u⟩ with z normal."""

    name = "encoder"
    unit = "1 − cosine"

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 2:
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise LowRankError(
                f"the task encoder reads embeddings (N, width); the network gives {got}: let "
                "it give one embedding for each example, or choose another task"
            )
        return output

    def normalised(self, rows: Tensor) -> Tensor:
        return functional.normalize(rows.float(), dim=-1)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return (dense - other).square().sum() / 2

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator).to(rows.device)
        return (noise * self.normalised(rows)).sum()
