"""What the tasks that predict one of several classes share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.base import Task


class Logits(Task):
    """Predictions are logits, known up to a constant a row. The divergence is KL(dense ‖ other)
    in nats; the sampled loss is the cross-entropy with labels drawn from the prediction itself."""

    def normalised(self, rows: Tensor) -> Tensor:
        return rows.float().log_softmax(-1)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return functional.kl_div(other, dense, log_target=True, reduction="sum")

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            probabilities = rows.float().softmax(-1).cpu()
            labels = torch.multinomial(probabilities, 1, generator=generator).flatten()
        return functional.cross_entropy(rows.float(), labels.to(rows.device), reduction="sum")


def logits_of(output: Any) -> Tensor:
    """(N, classes, …) logits of a network's output: a tensor has its classes in dimension 1, as
    torch's cross-entropy reads it, and the `.logits` of an object of transformers have them last.

    Raises LowRankError where the output is neither.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise LowRankError(
            f"the network gives {type(output).__name__}, which has no logits: let it give a tensor "
            "(N, classes, …), or choose the task that suits it"
        )
    return logits.movedim(-1, 1)


def rows_of(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """(N, classes, …) → (units, classes); positions that the mask marks false are left out where
    there is a prediction for each of its positions."""
    rows = logits.movedim(1, -1).flatten(0, -2)
    return rows if mask is None or mask.numel() != len(rows) else rows[mask.flatten()]
