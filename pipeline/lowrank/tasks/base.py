"""What a task is: all that is known of what a network predicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pipeline.lowrank.tasks.measure import Measure

# {what: (n, …)}: figures of single examples, of which measures of quality are made.
ExampleScores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Examples:
    """What a data set's examples are. name: of the data, for messages; shape: of one example's
    input; classes: how many its labels have, or None; vocabulary: how many tokens there are, or
    None where inputs are values."""

    name: str
    shape: tuple[int, ...]
    classes: int | None = None
    vocabulary: int | None = None


class Task(Protocol):
    """What a network predicts, and so in which loss its errors count.

    A task has a divergence between the dense network's predictions and another's, which is 0
    where they agree, and a sampled loss: a scalar of the dense network's outputs with random
    coefficients whose gradient's second moment is the Hessian of the divergence (the generalised
    Gauss–Newton matrix; of categories this is the Fisher matrix: Martens 2020, "New insights and
    perspectives"). A unit is what has a loss of its own: an example, or a token.

    name: as in the configuration. unit: that of the divergence, "nats per token" for example.
    inputs: float "values" (N, …), or "tokens": ids (N, T) int64, PADDING where there is none.
    labels: "class" (N,) int64, "next token" (N, T) int64, "value" (N, …) float, or None where
    examples have no labels: quality is then measured against the dense network's outputs.
    measures: of quality, the most telling first. watched: the one that is shown while a
    network trains.
    """

    name: str
    unit: str
    inputs: Literal["values", "tokens"]
    labels: Literal["class", "next token", "value"] | None
    measures: tuple[Measure, ...]
    watched: Measure

    # What the metric, the contest of plans and the refit need.

    @abstractmethod
    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        """(units, width): what the network predicts for each unit.

        output: what the network gave for a batch. mask: (N, T) bool, false at padding, which is
        no unit; None where the batch has none.
        """

    @abstractmethod
    def normalised(self, rows: Tensor) -> Tensor:
        """(units, width) float32, equal for rows that predict the same (logits, for example, are
        known up to a constant)."""

    @abstractmethod
    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        """The scalar divergence of two networks' normalised rows, ≥ 0, summed over the units."""

    @abstractmethod
    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar sampled loss of the rows, summed over the units. Its random numbers are
        drawn on the CPU, so that they are the same on every device."""

    # What training needs.

    @abstractmethod
    def misfit(self, output: Any, examples: Examples) -> str | None:
        """What is wrong with what a network gave for one example of zeros, and the remedy, to
        follow "the model gives [1, 7] for one example, "; None where it fits the data."""

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """The scalar mean loss over the units. Raises LowRankError where there are no labels."""

    @abstractmethod
    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        """The scalar mean distance of an output to the dense network's; `temperature` > 0 softens
        both where there is something to soften."""

    # What evaluation needs.

    @abstractmethod
    def scores(self, output: Tensor, labels: Tensor) -> ExampleScores:
        """Of each example of a batch in eval mode, float64: all that the two functions below
        need."""

    @abstractmethod
    def progress(
        self, scores: Sequence[ExampleScores], dense: ExampleScores | None
    ) -> tuple[float, float]:
        """(the watched measure, the loss), both summed over the examples. scores: batch by batch;
        dense: of the same examples all together, the dense network's, where there are no labels.
        """

    @abstractmethod
    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """{name: value} of all measures, and perhaps of what belongs to them (the interval of a
        perplexity). scores, dense: batch by batch, this network's and the dense one's."""
