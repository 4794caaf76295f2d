"""Classification: one of several classes for each example."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.logits import OneClass, rows_of
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS
from pipeline.lowrank.tasks.outputs import TASKS_PAGE


class Classification(OneClass):
    """The network reads values (N, …) and gives logits (N, classes). The library also takes a
    class at each place: of an image (N, classes, H, W), of token ids (N, classes, T)."""

    name = "classification"
    unit = "nats per example"
    inputs = "values"
    labels = "class"
    measures = (ACCURACY, LOSS)

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        found = self.prediction(output)
        if found.dim() == 3 and isinstance(self.selected(output), Tensor):
            _check_order(found, mask)
        return rows_of(found, mask)


def _check_order(logits: Tensor, mask: Tensor | None) -> None:
    """Raises LowRankError where it is not known which of two dimensions the classes are in: token
    ids say how many positions there are."""
    count, classes, positions = logits.shape
    if mask is None or positions != mask.shape[1]:
        raise LowRankError(
            f"the network gives [{count}, {classes}, {positions}], and the task classification "
            "cannot tell classes from positions: take the task segmentation for (N, classes, "
            "positions), and for token ids token_classification, masked_lm or causal_lm with "
            f"(N, classes, tokens); {TASKS_PAGE}"
        )
