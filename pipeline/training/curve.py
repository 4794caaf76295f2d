"""The curve of a training, and its best state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import load_record
from pipeline.machine.sharding import whole

OnStep = Callable[[dict[str, float], int], None]

CURVE = "curve.json"
_MOST_STEPS = 200


@dataclass(frozen=True)
class StepPoint:
    """The training up to a step: loss (nats) and ‖gradient of the batch‖² are means since the
    point before; `epoch` is a fraction."""

    step: int
    epoch: float
    train_loss: float
    gradient_squared_norm: float
    learning_rate: float


@dataclass(frozen=True)
class EpochPoint:
    """The validation split after an epoch; epoch 0 is before the first step. Losses in nats."""

    epoch: int
    step: int
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class SubsetPoint:
    """Figures that `DescentProbe` measures on its batches after a step. `smoothness` is an estimate
    from below, ‖∇L(w − η∇L) − ∇L(w)‖ / ‖η∇L‖."""

    step: int
    epoch: float
    subset_loss: float
    subset_gradient_squared_norm: float
    smoothness: float


@dataclass(frozen=True)
class DescentPoint(SubsetPoint):
    """Measured figures of a step, and the loss by each of the three formulas of
    `training.descent`."""

    printed_false: float
    descent: float
    descent_sgd: float


Point = StepPoint | EpochPoint | DescentPoint


@dataclass
class Curve:
    """The content of curve.json. `steps`: at most about 200 points. `descent`: empty where it is
    not asked for. `measure` says what validation_accuracy is: the fraction of right labels, or
    an encoder's mean "cosine" to the dense one's embeddings, whose loss is 1 − cosine."""

    steps: list[StepPoint] = field(default_factory=list)
    epochs: list[EpochPoint] = field(default_factory=list)
    descent: list[DescentPoint] = field(default_factory=list)
    best_epoch: int = 0
    measure: str = "accuracy"
    trained_params: int = 0

    @property
    def points(self) -> list[Point]:
        return [*self.steps, *self.epochs, *self.descent]

    @property
    def best(self) -> EpochPoint | None:
        """The validation of the state that was kept; None where the training had no validation."""
        return next((point for point in self.epochs if point.epoch == self.best_epoch), None)


def read_curve(folder: Path) -> Curve:
    """The curve beside the network that a training wrote. Raises LowRankError without one."""
    return load_record(folder / CURVE, Curve, "run dvc repro")


def values_at(point: Point) -> dict[str, float]:
    """{name: value} of the figures of a point: all fields but its step and epoch."""
    return {key: value for key, value in vars(point).items() if key not in ("step", "epoch")}


class Recorder:
    """Collects the curve and passes it on as it grows.

    Losses stay on their device until an entry is due, so that a GPU isn't waited for at every
    step; a NaN is still reported with its own step.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        on_step: OnStep | None,
        measure: str = "accuracy",
    ) -> None:
        self.curve = Curve(measure=measure)
        self._every = max(1, math.ceil(total_steps / _MOST_STEPS))
        self._total, self._steps_per_epoch = total_steps, steps_per_epoch
        self._on_step = on_step
        self._pending: list[Tensor] = []
        self.learning_rates: list[float] = []  # of every step
        self.squared_norms: list[float] = []  # of every step's gradient

    def step(
        self,
        number: int,
        loss: Tensor,
        gradient_norm: Tensor,
        learning_rate: float,
        last: bool = False,
    ) -> float | None:
        """Takes the figures of step `number` (from 1). Returns the mean loss where an entry of the
        curve was due, as it is after the last step; else None."""
        self.learning_rates.append(learning_rate)
        self._pending.append(torch.stack([loss.detach(), gradient_norm.to(loss)]))
        if number % self._every and number != self._total and not last:
            return None
        losses, norms = torch.stack(self._pending).double().T.tolist()
        self._pending.clear()
        for index, value in enumerate(losses):
            check_finite(value, number - len(losses) + 1 + index, learning_rate)
        # A loss scaler (16-mixed) skips the steps at which the gradient overflowed; they count 0.
        squared = [norm**2 if math.isfinite(norm) else 0.0 for norm in norms]
        self.squared_norms += squared
        point = StepPoint(
            step=number,
            epoch=number / self._steps_per_epoch,
            train_loss=sum(losses) / len(losses),
            gradient_squared_norm=sum(squared) / len(squared),
            learning_rate=learning_rate,
        )
        self.curve.steps.append(point)
        self._tell(point)
        return point.train_loss

    def epoch(self, number: int, step: int, loss: float, accuracy: float) -> None:
        point = EpochPoint(number, step, loss, accuracy)
        self.curve.epochs.append(point)
        self._tell(point)

    @property
    def settled(self) -> bool:
        """Whether no step waits for its entry, so that `state` is whole."""
        return not self._pending

    def state(self) -> dict[str, Any]:
        """The state for `resume`, in plain types."""
        return {
            "steps": [asdict(point) for point in self.curve.steps],
            "epochs": [asdict(point) for point in self.curve.epochs],
            "learning_rates": self.learning_rates,
            "squared_norms": self.squared_norms,
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.curve.steps = [StepPoint(**point) for point in state["steps"]]
        self.curve.epochs = [EpochPoint(**point) for point in state["epochs"]]
        self.learning_rates, self.squared_norms = state["learning_rates"], state["squared_norms"]

    def descent(self, points: list[DescentPoint]) -> None:
        for point in points:
            self._tell(point)
        self.curve.descent = points

    def _tell(self, point: Point) -> None:
        if self._on_step is not None:
            self._on_step(values_at(point), point.step)


class BestState:
    """A copy of the state with the least validation loss; of equal ones the earlier is kept."""

    def __init__(self, model: nn.Module, loss: float) -> None:
        self.epoch, self._loss = 0, loss
        self._state = _copy_state(model)

    def state(self) -> dict[str, Any]:
        """The state for `resume`."""
        return {"epoch": self.epoch, "loss": self._loss, "state": self._state}

    def resume(self, state: dict[str, Any]) -> None:
        self.epoch, self._loss, self._state = (state[k] for k in ("epoch", "loss", "state"))

    def offer(self, model: nn.Module, epoch: int, loss: float) -> None:
        if loss < self._loss:
            self.epoch, self._loss = epoch, loss
            self._state = _copy_state(model)

    def restore(self, model: nn.Module) -> None:
        model.load_state_dict(self._state)


def check_finite(loss: float, step: int, learning_rate: float) -> None:
    """Raises LowRankError for a loss that is NaN or Inf."""
    if not math.isfinite(loss):
        raise LowRankError(
            f"the loss became {loss} at step {step} (learning rate {learning_rate:.3g}); lower "
            "learning_rate, or check the weights that training started from"
        )


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(v).detach().cpu().clone() for name, v in model.state_dict().items()}
