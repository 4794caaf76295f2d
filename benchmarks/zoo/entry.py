"""A network of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.tasks import Task, get_task


@dataclass(frozen=True)
class Entry:
    """How a tiny network is built and called.

    name: family/architecture.
    make: builds it, with random weights.
    batch: batch(n) is what it takes for n examples.
    task: what it predicts: an object of `lr.tasks`, or its name.
    exact: the number format in which it is compared at full rank; float32 where its kernels have
        no float64.
    routed: whether the input decides which of its layers run, as in a mixture of experts.
    """

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    task: Task | str = "classification"
    exact: torch.dtype = torch.float64
    routed: bool = False

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]

    def build(self) -> nn.Module:
        """The network in eval mode, with the same weights every time, none of which silences it."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.make().eval()
            _wake(model)
            return model

    def batches(self, count: int, size: int) -> list[Any]:
        """`count` batches of `size` examples, the same every time."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return [self.batch(size) for _ in range(count)]

    def get_task(self) -> Task:
        return get_task(self.task) if isinstance(self.task, str) else self.task


@torch.no_grad()
def _wake(model: nn.Module) -> None:
    """Fills what a network has before its training as zeros, or as nearly nothing: heads, scales of
    residual branches. An output that no layer reaches would prove nothing."""
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            parameter.normal_(std=0.05)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith(("weight", "gamma", "scale")):
            parameter.copy_(torch.where(parameter.abs() < 0.01, torch.tensor(0.5), parameter))


def images(size: int, channels: int = 3) -> Callable[[int], Tensor]:
    """Makes batches (n, channels, size, size)."""
    return lambda n: torch.randn(n, channels, size, size)


def vectors(*shape: int) -> Callable[[int], Tensor]:
    """Makes batches (n, *shape)."""
    return lambda n: torch.randn(n, *shape)
