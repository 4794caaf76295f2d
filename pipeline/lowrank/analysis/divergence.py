"""The measured distance of a compressed network's predictions from the dense one's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import answer, beside, padding_mask
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.tasks import Classification, Given, Task


@dataclass(frozen=True)
class Distance:
    """How far a network's predictions are from the dense network's.

    divergence: the mean per unit, in the task's unit; inf where predictions hold NaN or Inf.
    agreement: the share of units that have the dense network's answer, its most likely class or
        token; None where predictions are no categories.
    """

    divergence: float
    agreement: float | None = None


class Apart:
    """Adds up, batch by batch, how far a network's predictions are from the dense network's."""

    def __init__(self, task: Task) -> None:
        self._task, self._divergence, self._units = task, 0.0, 0
        self._same: float | None = None

    def add(self, dense: Tensor, other: Tensor) -> None:
        """dense, other: both networks' normalised rows (units, width) of one batch."""
        self._divergence += float(self._task.divergence(dense, other))
        self._units += len(dense)
        agreeing = self._task.agree(dense, other)
        if agreeing is not None:
            each = agreeing.double().flatten(1).mean(1) if agreeing.dim() > 1 else agreeing
            self._same = (self._same or 0.0) + float(each.sum())

    def distance(self) -> Distance:
        """The means over all units that were added."""
        mean = self._divergence / self._units
        return Distance(
            mean if math.isfinite(mean) else math.inf,
            None if self._same is None else self._same / self._units,
        )


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
        self.batches, self.unit = beside(dense, batches), chosen.unit
        self.task = chosen.fitted(answer(dense, batch) for batch in self.batches)
        self._dense = [self._normalised(dense, batch) for batch in self.batches]

    def of(self, model: nn.Module) -> float:
        """The mean divergence of this model's predictions per unit (an example, or a token that is
        not padding), ≥ 0; inf where they hold NaN or Inf."""
        return self.distance(model).divergence

    def distance(self, model: nn.Module) -> Distance:
        """The same, and how often the model has the dense network's answer."""
        apart = Apart(self.task)
        for batch, dense in zip(steps(self.batches, "divergence"), self._dense, strict=True):
            apart.add(dense, self._normalised(model, batch))
        return apart.distance()

    def _normalised(self, model: nn.Module, batch: Any) -> Tensor:
        """(units, width) predictions in eval mode, without padding."""
        given = Given(batch, padding=padding_mask(batch))
        return normalised(self.task, answer(model, batch), given)


def normalised(task: Task, output: Any, given: Given) -> Tensor:
    """(units, width) predictions of a network for a batch, without padding."""
    return task.normalised(task.rows(output, task.mask(given)))
