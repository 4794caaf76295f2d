"""Classification of texts: one of several classes for each sequence of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.lowrank.tasks.logits import Logits, logits_of, rows_of


class SequenceClassification(Logits):
    """The network reads token ids (N, T), perhaps padded, and gives logits (N, classes)."""

    name = "sequence_classification"
    unit = "nats per example"

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return rows_of(logits_of(output))
