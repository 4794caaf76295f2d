"""One block and what it is to give: the error of its output, and its training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.metrics import cholesky
from pipeline.lowrank.analysis.moments import check_sums, gram
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.options import StateError
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.blocks import state_of
from pipeline.lowrank.network.calling import call, evaluating, padding_mask, with_gradients
from pipeline.lowrank.tasks import Given, Task

_FLOOR = 1e-3  # of the mean size of a state: what an error is relative to at least
_DAMPING = 0.1  # of the mean diagonal of G, as in the metric fisher
_TINY = 1e-30


class Lesson:
    """A block, and how far its output is from what it is to give: error(i) for batch i.

    rate: the peak of the learning rate.
    """

    def __init__(
        self, block: nn.Module, error: Callable[[int], Tensor], batches: int, rate: float
    ) -> None:
        self.block, self._error, self._batches, self._rate = block, error, batches, rate
        self._trained = [p for p in block.parameters() if p.requires_grad]

    @torch.no_grad()
    def teaches(self) -> bool:
        """Whether there is an error, and anything to train."""
        errors = (float(self._error(index)) for index in range(self._batches))
        return bool(self._trained) and any(error > 0 for error in errors)

    def seconds(self) -> float:
        """How long a step takes; nothing is changed."""
        start = time.monotonic()
        with self._training():
            torch.autograd.backward(self._error(0))
        return time.monotonic() - start

    def learn(self, count: int, generator: torch.Generator) -> None:
        """Trains the block by AdamW under a one-cycle schedule; the batches come in an order that
        is drawn anew for each pass over them."""
        optimizer = torch.optim.AdamW(self._trained, lr=self._rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self._rate, total_steps=count)
        with self._training():
            for index in islice(self._order(generator), count):
                optimizer.zero_grad()
                torch.autograd.backward(self._error(index))
                optimizer.step()
                schedule.step()

    def _order(self, generator: torch.Generator) -> Iterator[int]:
        while True:
            yield from torch.randperm(self._batches, generator=generator).tolist()

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Gradients are kept until its end; factors are multiplied out meanwhile, which is faster,
        and everything else is in eval mode."""
        with torch.enable_grad(), evaluating(self.block):
            for layer in self.block.modules():
                if isinstance(layer, Factorized):
                    layer.train()
            try:
                yield
            finally:
                for parameter in self._trained:
                    parameter.grad = None


def squared_error(
    target: Tensor, mask: Tensor | None, error: StateError, root: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """The squared error of a state, a mean over tokens or images: relative to the size of each, to
    all of them together ("plain"), or weighed by G ("fisher"), in nats.

    target: (N, C) or (N, T, C), tokens of C channels, or images (N, C, H, W, …).
    mask: (N, T), false at padding, which counts nothing.
    root: (C, C) R with R·Rᵀ = G; for "fisher" alone.
    """
    target = target.float()
    size = target.square()
    axes = (-1,) if size.dim() <= 3 else tuple(range(1, size.dim()))
    size = size.sum(axes, keepdim=True)
    counted = torch.ones_like(size)
    if mask is not None and mask.shape == target.shape[:-1]:
        counted = mask[..., None].to(size)
    total, count = (size * counted).sum(), counted.sum()
    if root is not None:
        weights = counted / count / 2
    elif error == "plain":
        weights = counted / total.clamp_min(_TINY)
    else:
        weights = counted / (size + _FLOOR * total / count).clamp_min(_TINY) / count

    def found(state: Tensor) -> Tensor:
        change = state.float() - target
        if root is not None:
            change = (_channels_last(change) @ root).movedim(-1, _channels(change))
        return (change.square() * weights).sum()

    return found


def _channels(state: Tensor) -> int:
    return -1 if state.dim() <= 3 else 1


def _channels_last(state: Tensor) -> Tensor:
    return state.movedim(_channels(state), -1)


def roots(
    model: nn.Module, blocks: Sequence[str], batches: Sequence[Any], task: Task, seed: int
) -> list[Tensor]:
    """For each block R (C, C) float32 with R·Rᵀ = G, damped: the mean over positions of g·gᵀ, g the
    gradient of the task's sampled loss at the block's output.

    Raises LowRankError where no gradient reaches a block.
    """
    sums: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    with with_gradients(model, True), torch.enable_grad():
        for batch in batches:
            states: dict[str, Tensor] = {}
            handles = [
                model.get_submodule(block).register_forward_hook(partial(_keep, states, block))
                for block in blocks
            ]
            try:
                output = call(model, batch)
            finally:
                for handle in handles:
                    handle.remove()
            units = task.mask(Given(batch, padding=padding_mask(batch)))
            loss = task.sampled_loss(task.rows(output, units), generator)
            found = torch.autograd.grad(loss, list(states.values()), allow_unused=True)
            for block, gradient in zip(states, found, strict=True):
                if gradient is None:
                    raise LowRankError(
                        f"no gradient reaches {block}: set refit.error=relative, or plain"
                    )
                rows = _channels_last(gradient).flatten(0, -2)[None]
                sums[block] = sums.get(block, 0.0) + gram(rows)[0] / rows.shape[1] / len(batches)
    return [_root(block, sums[block]) for block in blocks]


def _root(block: str, outputs: Tensor) -> Tensor:
    check_sums(block, outputs)
    floor = _DAMPING * outputs.diagonal().mean() + _TINY
    return cholesky(outputs, floor, block).float()


def _keep(
    states: dict[str, Tensor], block: str, _: nn.Module, __: tuple[Any, ...], output: Any
) -> None:
    states[block] = state_of(output)
