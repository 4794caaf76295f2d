"""The measured distance of a compressed network's predictions from the dense one's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import call, evaluating, padding_mask
from pipeline.lowrank.tasks import Classification, Task


class Divergence:
    """Measures how far networks' predictions are from the dense network's, which are computed once.

    dense: the network to compare with.
    batches: what the model takes; no labels are needed, and no statistic should have seen them.
    task: what the model predicts (default: `Classification()`, whose divergence is KL(dense ‖
        other) in nats). Its `unit` is that of the figures.

    Raises LowRankError for no batches.
    """

    def __init__(self, dense: nn.Module, batches: Sequence[Any], task: Task | None = None) -> None:
        if not len(batches):
            raise LowRankError(
                "no calibration data is held out for measuring plans: raise data.held_out or "
                "data.calibration, or do without: rank_select.contest_examples=0 refit=none"
            )
        self.batches, self._task = batches, task or Classification()
        self.unit = self._task.unit
        self._dense = [self._normalised(dense, batch) for batch in batches]

    def of(self, model: nn.Module) -> float:
        """The mean divergence of this model's predictions per unit (an example, or a token that is
        not padding), ≥ 0; inf where they hold NaN or Inf."""
        total, units = 0.0, 0
        for batch, dense in zip(self.batches, self._dense, strict=True):
            other = self._normalised(model, batch)
            total += float(self._task.divergence(dense, other))
            units += len(dense)
        mean = total / units
        return mean if math.isfinite(mean) else math.inf

    def _normalised(self, model: nn.Module, batch: Any) -> Tensor:
        """(units, width) predictions in eval mode, without padding."""
        with torch.no_grad(), evaluating(model):
            output = call(model, batch)
        return self._task.normalised(self._task.rows(output, padding_mask(batch)))
