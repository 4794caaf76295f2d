"""Classification of texts: one of several classes for each sequence of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.lowrank.tasks.logits import OneClass, logits_of, rows_of
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS


class SequenceClassification(OneClass):
    """The network reads token ids (N, T), perhaps padded, and gives logits (N, classes)."""

    name = "sequence_classification"
    unit = "nats per example"
    inputs = "tokens"
    labels = "class"
    measures = (ACCURACY, LOSS)

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(logits_of(output))
