"""Classification: one of several classes for each example."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.lowrank.tasks.logits import OneClass, logits_of, rows_of
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS


class Classification(OneClass):
    """The network reads values (N, …) and gives logits (N, classes). The library also takes logits
    (N, classes, …), with a class at each place."""

    name = "classification"
    unit = "nats per example"
    inputs = "values"
    labels = "class"
    measures = (ACCURACY, LOSS)

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(logits_of(output), mask)
