"""The measured distance of a compressed network's predictions from the dense one's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import answer, padding_mask
from pipeline.lowrank.tasks import Classification, Given, Task


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
        chosen = task or Classification()
        self.batches, self.unit = batches, chosen.unit
        self._task = chosen.fitted(answer(dense, batch) for batch in batches)
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
        mask = self._task.mask(Given(batch, padding=padding_mask(batch)))
        return self._task.normalised(self._task.rows(answer(model, batch), mask))
