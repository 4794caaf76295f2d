"""The contract of a task: all that the rest of the project knows of what a network predicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pipeline.lowrank.tasks.measure import Measure

# {name of a figure: (n, …)} of single examples, of which measures of quality are made.
ExampleScores = Mapping[str, Tensor]

# Of one example, without its place in the batch: of one tensor, or of several by name.
Shape = tuple[int, ...] | dict[str, tuple[int, ...]]
DType = Literal["float32", "int64"]


@dataclass(frozen=True)
class Examples:
    """The kind of a data set's examples.

    name: of the data, for messages.
    shape: of one example's input; of several inputs, by the names of the forward's keywords.
    classes: how many the labels have; None without classes.
    vocabulary: how many tokens there are; None where inputs are values.
    dtype: of what the network reads; None: as the task reads it.
    label_shape: of one example's labels; of several, by name; None where there are none.
    """

    name: str
    shape: Shape
    classes: int | None = None
    vocabulary: int | None = None
    dtype: DType | dict[str, DType] | None = None
    label_shape: Shape | None = None


class Task(Protocol):
    """What a network predicts, and so in which loss its errors count.

    A task has a divergence between the dense network's predictions and another's, which is 0 where
    they agree, and a sampled loss: a scalar of the dense network's outputs with random coefficients
    whose gradient's second moment is the Hessian of the divergence (the generalised Gauss–Newton
    matrix; for categories this is the Fisher matrix: Martens 2020, "New insights and
    perspectives"). A unit is what has a loss of its own: an example, or a token.

    name: as in the configuration.
    unit: of the divergence, "nats per token" for example.
    inputs: "values", float (N, …), or "tokens", ids (N, T) int64 with PADDING where there is none.
    labels: "class" (N,) int64, "next token" (N, T) int64, "value" (N, …) float; None where examples
        have no labels, and quality is measured against the dense network's outputs.
    measures: of quality, the most telling one first.
    watched: the measure that is shown while a network trains.
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
        """(units, width): the network's prediction for each unit.

        output: what the network gave for a batch.
        mask: (N, T) bool, false at padding, which is no unit; None where the batch has none.
        """

    @abstractmethod
    def normalised(self, rows: Tensor) -> Tensor:
        """(units, width) float32, the same for rows that predict the same: logits, for example,
        predict the same when they differ by a constant, so their normalised rows are
        log-probabilities."""

    @abstractmethod
    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        """The scalar divergence of two networks' normalised rows, ≥ 0, summed over the units."""

    @abstractmethod
    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar sampled loss of the rows, summed over the units. Its random numbers are drawn
        on the CPU, so that they are the same on every device."""

    # What training needs.

    @abstractmethod
    def misfit(self, output: Any, examples: Examples) -> str | None:
        """Says what is wrong with a network's output for one example of zeros, and the remedy, to
        follow "the model gives [1, 7] for one example, "; None where the output fits the data."""

    @abstractmethod
    def loss(self, output: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """The scalar mean loss over the units. Raises LowRankError where there are no labels."""

    @abstractmethod
    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        """The scalar mean distance of an output to the dense network's; a `temperature` > 0 softens
        both, where the task has probabilities to soften."""

    # What evaluation needs.

    @abstractmethod
    def scores(self, output: Tensor, labels: Tensor) -> ExampleScores:
        """Figures of each example of a batch in eval mode, float64: everything that `progress` and
        `quality` need."""

    @abstractmethod
    def progress(
        self, scores: Sequence[ExampleScores], dense: ExampleScores | None
    ) -> tuple[float, float]:
        """(the watched measure, the loss), both summed over the examples.

        scores: batch by batch.
        dense: the dense network's scores of the same examples, all together, where there are no
            labels.
        """

    @abstractmethod
    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """{name: value} of all measures, and perhaps of figures that belong to them (the interval
        of a perplexity).

        scores, dense: batch by batch, this network's and the dense one's.
        """
