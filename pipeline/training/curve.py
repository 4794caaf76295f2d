"""What a training remembers: its curve, and its best state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError

OnStep = Callable[[dict[str, float], int], None]

_MOST_STEPS = 200


@dataclass
class Curve:
    """`steps`: {"step", "epoch", "train_loss", "gradient_squared_norm", "learning_rate"}, at
    most about 200 of them, loss and ‖gradient of the batch‖² means since the entry before.
    `epochs`: {"epoch", "step", "validation_loss", "validation_accuracy"} with epoch 0 before
    the first step. `descent`: what `descent.descent_rows` gives, empty where it is not asked
    for. Losses in nats. `measure` says what validation_accuracy is: the fraction of right labels,
    or an encoder's mean "cosine" to the dense one's embeddings, whose loss is 1 − cosine."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    descent: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    measure: str = "accuracy"
    trained_params: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The content of curve.json."""
        return asdict(self)


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
        """Takes the figures of step `number` (from 1). The mean loss where an entry was due, as
        it is after the last step."""
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
        values = {
            "train_loss": sum(losses) / len(losses),
            "gradient_squared_norm": sum(squared) / len(squared),
            "learning_rate": learning_rate,
        }
        epoch = number / self._steps_per_epoch
        self.curve.steps.append({"step": number, "epoch": epoch, **values})
        self._tell(values, number)
        return float(values["train_loss"])

    def epoch(self, number: int, step: int, loss: float, accuracy: float) -> None:
        quality = {"validation_loss": loss, "validation_accuracy": accuracy}
        self.curve.epochs.append({"epoch": number, "step": step, **quality})
        self._tell(quality, step)

    @property
    def settled(self) -> bool:
        """Whether no step waits for its entry, so that `state` is whole."""
        return not self._pending

    def state(self) -> dict[str, Any]:
        """What `resume` takes, in plain types."""
        return {
            "steps": self.curve.steps,
            "epochs": self.curve.epochs,
            "learning_rates": self.learning_rates,
            "squared_norms": self.squared_norms,
        }

    def resume(self, state: dict[str, Any]) -> None:
        self.curve.steps, self.curve.epochs = state["steps"], state["epochs"]
        self.learning_rates, self.squared_norms = state["learning_rates"], state["squared_norms"]

    def descent(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self._tell({k: v for k, v in row.items() if k not in ("step", "epoch")}, row["step"])
        self.curve.descent = rows

    def _tell(self, metrics: dict[str, float], step: int) -> None:
        if self._on_step is not None:
            self._on_step(metrics, step)


class BestState:
    """A copy of the state with the least validation loss; ties go to the earlier one."""

    def __init__(self, model: nn.Module, loss: float) -> None:
        self.epoch, self._loss = 0, loss
        self._state = _copy_state(model)

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
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
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
