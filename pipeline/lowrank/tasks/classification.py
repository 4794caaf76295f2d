"""Classification: one of several classes for each example."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.lowrank.tasks.logits import Logits, logits_of, rows_of


class Classification(Logits):
    """The network gives logits (N, classes), or (N, classes, …) for a class at each place."""

    name = "classification"
    unit = "nats per example"

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(logits_of(output), mask)
