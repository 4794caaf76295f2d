"""Optimizers, and the schedule of the learning rate."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.training.muon import MuonWithAdamW

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_WARM_UP = 0.3  # of the cycle
_FIRST, _LAST = 1 / 25, 1 / 25e4  # of the peak


def make_optimizer(
    model: nn.Module, name: str, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer of the parameters that require gradients; biases and normalisation are not
    decayed.

    name: "sgd" has Nesterov momentum; "adamw" has β₁ = momentum, β₂ = 0.99 (short trainings) and
        decoupled decay; "muon" is MuonWithAdamW.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if name == "muon":
        return MuonWithAdamW(trained, learning_rate, momentum, weight_decay)
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(momentum, 0.99))
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0)


def one_cycle(position: float, total: int, peak: float) -> float:
    """The learning rate after `position` of `total` steps: it rises from peak/25 to `peak` in the
    first three tenths and then falls to peak/250,000, both along half a cosine (Smith & Topin 2018;
    the same numbers as torch.optim.lr_scheduler.OneCycleLR over total + 1 steps)."""
    turn = _WARM_UP * (total + 1) - 1
    if 0 < turn >= position:
        return _cosine(peak * _FIRST, peak, position / turn)
    return _cosine(peak, peak * _LAST, (position - turn) / (total - turn))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1 + math.cos(math.pi * share))


class Clock:
    """Says how far a training is, in steps: the steps that are done, or more where its time runs
    out first.

    minutes: all the time that the training may take; None without limit. The position then follows
        the first process's clock.

    `seconds` is the time that was used, also before an interruption.
    """

    def __init__(self, total: int, minutes: float | None, fabric: Fabric) -> None:
        self._total, self._fabric = total, fabric
        self._limit = None if minutes is None else 60 * minutes
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def resume(self, seconds: float) -> None:
        """Adds the seconds that the interrupted training, which this one continues, has used."""
        self._start = time.monotonic() - seconds

    def position(self, done: int) -> float:
        """A number between `done` and the total number of steps; the total when the time is up."""
        if self._limit is None:
            return done
        seconds: float = self._fabric.broadcast(self.seconds)
        return max(done, min(seconds / self._limit, 1.0) * self._total)
