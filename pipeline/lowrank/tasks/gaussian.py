"""The part that all tasks share whose predictions are numbers with a normal distribution."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.agreement import no_labels
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Given, Inputs, Task
from pipeline.lowrank.tasks.measure import Measure
from pipeline.lowrank.tasks.metrics import gather, measured
from pipeline.lowrank.tasks.outputs import Selector, flattened, one_tensor

R2 = Measure("r2", "R²", "maximize", "", "four digits")
RMSE = Measure("rmse", "root of squared error", "minimize", "", "short")
MAE = Measure("mae", "absolute error", "minimize", "", "short")
MSE = Measure("mse", "squared error", "minimize", "", "short")


class Gaussian(Task):
    """Predictions are numbers y, those of an example being one unit, with normal noise of variance
    σ². The divergence is KL = ½‖y − y'‖²/σ² in nats, the sampled loss ⟨z, y⟩/σ with z normal, whose
    second moment is 1/σ², the Hessian (Gauss–Newton).

    σ² is `variance`, where it is given. Else each tensor of the output has the summed variance of
    its numbers over the calibration examples, in the dense network (its mean square, where all
    examples give the same): a divergence of 0.005 then says that 1 % of the variance of the output
    is lost, whatever its scale and size. `fitted` finds it; without it σ² is 1.
    """

    unit = "nats per example"
    inputs: Inputs = "any"
    measures: tuple[Measure, ...] = (R2, RMSE, MAE, MSE)
    watched = MSE

    def __init__(self, *, variance: float | None = None, output: Selector | None = None) -> None:
        """variance: σ² of each number; None: that of the dense network's outputs."""
        super().__init__(output=output)
        if variance is not None and not variance > 0:
            raise LowRankError(f"task.variance={variance:g}: must be positive; null measures it")
        self.variance = variance
        self._scale: Tensor | None = None

    def tensors(self, output: Any) -> list[Tensor]:
        """The tensors (N, …) of a network's output that the task reads."""
        return [self.prediction(output)]

    def fitted(self, outputs: Iterable[Any]) -> Self:
        task = copy.copy(self)
        if self.variance is None:
            task._scale = _scales(self.tensors(output) for output in outputs)
        return task

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return flattened(self.tensors(output))

    def normalised(self, rows: Tensor) -> Tensor:
        return self._standard(rows).float()

    def _standard(self, rows: Tensor) -> Tensor:
        if self.variance is not None:
            return rows / math.sqrt(self.variance)
        scale = self._scale
        return rows if scale is None else rows / scale.to(rows)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return (dense - other).square().sum() / 2

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator).to(rows.device)
        return (noise * self._standard(rows).float()).sum()

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        return functional.mse_loss(output, dense)


class Values(Gaussian):
    """A task whose output is one tensor of numbers with a true value for each of them."""

    def prediction(self, output: Any) -> Tensor:
        found = one_tensor(
            self.selected(output),
            self.name,
            "name the part that predicts with output=…, or take the task custom",
        )
        return found[:, None] if found.dim() == 1 else found

    def unlabelled(self) -> Task:
        return Fidelity(self)

    def misfit(self, output: Any, examples: Examples) -> str | None:
        found, wanted = self.selected(output), self.wanted(examples)
        try:
            shape = self.prediction(found if self.output is None else output).shape
        except LowRankError:
            return (
                "it must give one tensor of numbers; name it with task.output, or take another task"
            )
        if shape[0] == 1 and (wanted is None or math.prod(shape[1:]) == math.prod(wanted)):
            return None
        return f"it must give [1, {', '.join(map(str, wanted or ('…',)))}], a number for each value"

    def wanted(self, examples: Examples) -> tuple[int, ...] | None:
        """The shape of one example's true values; None where that is not known."""
        shape = examples.label_shape
        return None if isinstance(shape, dict) else shape

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        if label_smoothing:
            raise LowRankError(
                f"label_smoothing={label_smoothing:g}: the task {self.name} has no classes; set it "
                "to 0"
            )
        if labels is None:
            raise no_labels(self.name)
        predicted, true = self._pairs(output, labels)
        return functional.mse_loss(predicted, true)

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        """For each example: mean squared and absolute error; and what R² needs of the batch."""
        from torchmetrics import R2Score

        if labels is None:
            raise no_labels(self.name)
        predicted, true = (one.double().cpu() for one in self._pairs(output, labels))
        apart = predicted - true
        every = R2Score(multioutput="variance_weighted").set_dtype(torch.float64)
        return {
            "mse": apart.square().mean(1),
            "mae": apart.abs().mean(1),
            "r2": gather(every, predicted, true),
        }

    def _pairs(self, output: Any, labels: Any) -> tuple[Tensor, Tensor]:
        predicted = flattened([self.prediction(output)])
        true = labels.to(predicted.dtype).reshape(len(predicted), -1)
        if true.shape != predicted.shape:
            raise LowRankError(
                f"the task {self.name}: the network gives {predicted.shape[1]} numbers an example, "
                f"and the labels have {true.shape[1]}; the two must be of one shape"
            )
        return predicted, true

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        total = sum(float(one["mse"].sum()) for one in scores)
        return total, total

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """r2 (of several numbers, the share of their summed variance that is explained), mse and
        mae (means over numbers and examples), and rmse, the root of mse."""
        found = measured(scores, ("mse", "mae", "r2"))
        return {**found, "rmse": found["mse"] ** 0.5}


class Fidelity(Values):
    """A task of numbers for examples without labels: the dense network's numbers are the truth."""

    labels = None

    def __init__(self, task: Values) -> None:
        super().__init__(variance=task.variance, output=task.output)
        self.task, self.name, self.inputs = task, task.name, task.inputs
        self.measures = tuple(_to_dense(measure) for measure in task.measures)
        self.watched = _to_dense(task.watched)

    def target(self, given: Given) -> Any:
        return None if given.dense is None else self.prediction(given.dense)

    def wanted(self, examples: Examples) -> None:
        return None

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        raise no_labels(self.name)


def _to_dense(measure: Measure) -> Measure:
    return replace(measure, label=f"{measure.label}, to dense")


def _scales(outputs: Iterable[list[Tensor]]) -> Tensor | None:
    """(numbers,) float64 σ of each number: the root of the summed variance, over all batches, of
    the tensor that it stands in; of the mean square where that is 0, and 1 for zeros."""
    count, centre = 0, None
    for tensors in outputs:
        rows = flattened(tensors).detach().double()
        if centre is None:  # sums of deviations from it: a large mean takes no digits away
            centre = rows.mean(0)
            widths = [one[0].numel() for one in tensors]
            total, squares = torch.zeros_like(centre), torch.zeros_like(centre)
        total += (rows - centre).sum(0)
        squares += (rows - centre).square().sum(0)
        count += len(rows)
    if centre is None:
        return None
    mean = total / count
    parts = []
    for variance, level in zip(
        torch.split(squares / count - mean.square(), widths),
        torch.split(centre + mean, widths),
        strict=True,
    ):
        found = float(variance.clamp(min=0).sum())
        energy = float(level.square().sum())
        steady = found <= 1e-12 * energy
        parts.append(torch.full_like(variance, ((energy if steady else found) or 1.0) ** 0.5))
    return torch.cat(parts)
