"""The contract of a task: all that the rest of the project knows of what a network predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.lowrank.tasks.measure import Measure
from pipeline.lowrank.tasks.outputs import Selector, select

# {name of a figure: (n, …) of single examples, or what a metric of torchmetrics gathered from them
# (`metrics.Gathered`)}, of which measures of quality are made.
ExampleScores = Mapping[str, Any]

Inputs = Literal["values", "tokens", "any"]
Labels = Literal[
    "class",
    "classes",
    "class map",
    "value",
    "next token",
    "masked token",
    "target token",
    "token class",
    "input",
    "any",
]

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


@dataclass(frozen=True)
class Given:
    """What is known of a batch beside a network's output.

    inputs: what the network was given: a tensor, or several.
    labels: a tensor (n, …), or several by name; None where the examples have none.
    padding: (n, T) bool, false at padding; None where the batch has none.
    dense: the dense network's output; None where nothing is compared with it.
    """

    inputs: Any
    labels: Any = None
    padding: Tensor | None = None
    dense: Any = None


class Task(ABC):
    """What a network predicts, and so in which loss its errors count.

    A task has a divergence between the dense network's predictions and another's, which is 0 where
    they agree, and a sampled loss: a scalar of the dense network's outputs with random coefficients
    whose gradient's second moment is the Hessian of the divergence (the generalised Gauss–Newton
    matrix; for categories this is the Fisher matrix: Martens 2020, "New insights and
    perspectives"). A unit is what has a loss of its own: an example, or a token.

    name: as in the configuration.
    unit: of the divergence, "nats per token" for example.
    inputs: "values", float (N, …), "tokens", ids (N, T) int64 with PADDING where there is none, or
        "any".
    labels: "class" (N,) int64, "classes" (N, K) of 0 and 1, "class map" (N, …) int64, one at each
        position, "value" (N, …) float, "next token" (N, T) int64, "masked token" (N, T), "target
        token" (N, U) of a second text, "token class" (N, T), the last three and the class map
        negative where there is none; "input": the input itself, "any"; None where examples have no
        labels.
    measures: of quality, the most telling one first.
    watched: the measure that is shown while a network trains.
    """

    name: str
    unit: str
    inputs: Inputs
    labels: Labels | None
    measures: tuple[Measure, ...]
    watched: Measure

    def __init__(self, *, output: Selector | None = None) -> None:
        """output: which part of the network's output the task reads: a key or an index, several of
        them, or a function of the output; None: all of it."""
        self.output = output

    @property
    def supervised(self) -> bool:
        """Whether there is a loss with labels. Else quality is measured against the dense network's
        outputs."""
        return self.labels is not None

    def selected(self, output: Any) -> Any:
        """The part of a network's output that the task reads. Raises LowRankError where the output
        has no such part."""
        return output if self.output is None else select(output, self.output)

    def fitted(self, outputs: Iterable[Any]) -> Task:
        """The task with what it has to know of the dense network's outputs, batch by batch: a
        Gaussian's variance. Other tasks need nothing, and look at none of them."""
        return self

    def unlabelled(self) -> Task:
        """The task for examples without labels: its quality is the agreement with the dense
        network, and there is no loss but the distance to it."""
        return self

    def mask(self, given: Given) -> Tensor | None:
        """(N, T) bool, false where the output has no unit; None where it has one everywhere."""
        return given.padding

    def target(self, given: Given) -> Any:
        """What `loss` and `scores` compare an output with."""
        return given.labels

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

    def agree(self, dense: Tensor, other: Tensor) -> Tensor | None:
        """(units, …) bool, true where two networks' normalised rows have the same answer: the
        class of the largest logit. None where predictions are no categories."""
        return None

    @abstractmethod
    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The scalar sampled loss of the rows, summed over the units. Its random numbers are drawn
        on the CPU, so that they are the same on every device."""

    # What training needs.

    @abstractmethod
    def prediction(self, output: Any) -> Tensor:
        """(N, …): the tensor of a network's output that `distillation` compares. Raises
        LowRankError for an output that the task does not understand."""

    @abstractmethod
    def misfit(self, output: Any, examples: Examples) -> str | None:
        """Says what is wrong with a network's output for one example of zeros, and the remedy, to
        follow "the model gives [1, 7] for one example, "; None where the output fits the data."""

    @abstractmethod
    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        """The scalar mean loss over the units. labels: the `target`. Raises LowRankError where
        there are none."""

    @abstractmethod
    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        """The scalar mean distance of a `prediction` to the dense network's; a `temperature` > 0
        softens both, where the task has probabilities to soften."""

    # What evaluation needs.

    @abstractmethod
    def scores(self, output: Any, labels: Any) -> ExampleScores:
        """Figures of each example of a batch in eval mode, float64: everything that `progress` and
        `quality` need. labels: the `target`."""

    @abstractmethod
    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        """(the watched measure, the loss), both summed over the examples of all batches."""

    @abstractmethod
    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """{name: value} of all measures, and perhaps of figures that belong to them (the interval
        of a perplexity).

        scores, dense: batch by batch, this network's and the dense one's.
        """
