"""Classification of texts: one of several classes for each sequence of tokens."""

from __future__ import annotations

from pipeline.lowrank.tasks.logits import OneClass
from pipeline.lowrank.tasks.measure import ACCURACY, LOSS


class SequenceClassification(OneClass):
    """The network reads token ids (N, T), perhaps padded, and gives logits (N, classes)."""

    name = "sequence_classification"
    unit = "nats per example"
    inputs = "tokens"
    labels = "class"
    measures = (ACCURACY, LOSS)
