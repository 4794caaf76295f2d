"""Trained refinement: block by block, a compressed block learns to give what the dense one gives.

Block b of the compressed network, f̂, reads x', which the blocks before it have spoilt, and all its
parameters (norms and biases too) are trained towards min E‖f(x) − f̂(x')‖², f(x) being the dense
block's output on the dense network's own stream x. A step of one block takes a fraction of the time
that a step of the whole network takes, so that each block gets some hundred of them (AA-SVD, arXiv
2604.02119, does so with factors). The error is relative to each token's own size by default: a few
tokens of huge norm own the plain one, and what follows normalises them anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.options import RefitOptions, StateError
from pipeline.lowrank.factorize.progress import Progress
from pipeline.lowrank.factorize.report import RefinedBlock, RefineReport, RefitDivergence
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.blocks import BlockStates, find_walk
from pipeline.lowrank.network.calling import beside, device_of, evaluating, padding_mask
from pipeline.lowrank.network.progress import steps

_FLOOR = 1e-3  # of the mean size of a state: what an error is relative to at least
_TINY = 1e-30


def refine_(
    dense: nn.Module,
    compressed: nn.Module,
    batches: Sequence[Any],
    divergence: Divergence,
    chosen: RefitOptions,
    *,
    layers: Sequence[str],
    seed: int = 0,
    folder: Path | None = None,
) -> RefineReport:
    """Trains the blocks of `compressed` one after the other, in place. A block that does not bring
    the network closer to the dense one on held-out data becomes what it was; frozen parameters
    stay. Nothing is dropped out, and statistics of BatchNorm stay.

    dense: the network that was compressed.
    batches: what the networks take; each step of a block reads one of them.
    divergence: from the dense network, on data that is held out.
    chosen: steps, rate, error, minutes and number format.
    layers: the names of the layers that were factorized or narrowed, by which blocks are found.
    seed: of the order of the batches.
    folder: where the blocks that are done are kept, in a file. The same refinement, if it was
        stopped, goes on behind them and, without a limit of time, ends with the same numbers. The
        file is removed at the end.

    Raises LowRankError where the network has no blocks that follow one another.
    """
    with evaluating(dense), evaluating(compressed):
        start = time.monotonic()
        without = divergence.of(compressed)
        check = time.monotonic() - start
        streams = _Streams(dense, compressed, layers, batches, chosen)
        blocks = streams.blocks
        progress = Progress(folder, compressed, [*streams.begun, repr(chosen), seed, without])
        progress.resume_(compressed, blocks)
        least = min([without, *(b.divergence for b in progress.blocks.values() if b.kept)])
        clock = _Clock(chosen, check, progress.seconds + time.monotonic() - start)
        for place, name in enumerate(steps(blocks, "refine")):
            lesson = streams.lesson(place)
            if place >= progress.done:
                count = clock.steps(lesson, len(blocks) - place)
                if count and lesson.teaches():
                    before = {k: v.clone() for k, v in lesson.block.state_dict().items()}
                    lesson.learn(count, torch.Generator().manual_seed(seed + place))
                    now = divergence.of(compressed)
                    progress.blocks[name] = RefinedBlock(count, now, kept=now < least)
                    if now >= least:
                        lesson.block.load_state_dict(before)
                    least = min(least, now)
                progress.keep(compressed, blocks, clock.seconds)
            streams.leave(place)
    progress.finish()
    return RefineReport(progress.blocks, RefitDivergence(without, least))


class _Streams:
    """The states of both networks before a block; at the start those before the first one."""

    def __init__(
        self,
        dense: nn.Module,
        compressed: nn.Module,
        layers: Sequence[str],
        batches: Sequence[Any],
        chosen: RefitOptions,
    ) -> None:
        """blocks: their names."""
        self._model, self._chosen, batches = compressed, chosen, beside(dense, batches)
        self.blocks, calls = find_walk(dense, layers, batches, "refit.steps=0")
        self._masks = [padding_mask(batch) for batch in batches]
        with self._format():
            self._dense = BlockStates(dense, self.blocks, batches, calls)
            self._own = BlockStates(compressed, self.blocks, batches, calls)
        self.begun = [*self._own.states, *(m for m in self._masks if m is not None)]

    def lesson(self, place: int) -> _Lesson:
        """What the block at `place` is to learn; the dense network's states move behind it."""
        with self._format():
            self._dense.go_on(place)
        weights = [
            _weights(target, mask, self._chosen.error)
            for target, mask in zip(self._dense.states, self._masks, strict=True)
        ]

        def error(index: int) -> Tensor:
            with self._format():
                state = self._own.output(place, index)
            change = state.float() - self._dense.states[index].float()
            return (change.square() * weights[index]).sum()

        block = self._model.get_submodule(self.blocks[place])
        return _Lesson(block, error, len(weights), self._chosen.learning_rate)

    def leave(self, place: int) -> None:
        """The compressed network's states move behind the block, too."""
        with self._format():
            self._own.go_on(place)

    def _format(self) -> torch.autocast:
        """To be left before a parameter changes: it keeps what it has rounded."""
        return torch.autocast(
            device_of(self._model).type, torch.bfloat16, enabled=self._chosen.bf16
        )


def _weights(target: Tensor, mask: Tensor | None, error: StateError) -> Tensor:
    """By how much each number of a state counts in the squared error, which then is a mean over
    tokens or images, relative to the size of each, or to all of them together ("plain").

    target: (N, C) or (N, T, C), tokens of C channels, or images of four dimensions or more.
    mask: (N, T), false at padding, which counts nothing.

    Returns a tensor that is broadcast to the target.
    """
    size = target.float().square()
    axes = (-1,) if size.dim() <= 3 else tuple(range(1, size.dim()))
    size = size.sum(axes, keepdim=True)
    counted = torch.ones_like(size)
    if mask is not None and mask.shape == target.shape[:-1]:
        counted = mask[..., None].to(size)
    total, count = (size * counted).sum(), counted.sum()
    if error == "plain":
        return counted / total.clamp_min(_TINY)
    return counted / (size + _FLOOR * total / count).clamp_min(_TINY) / count


class _Lesson:
    """A block, and how far its output is from what it is to give: error(i) for batch i."""

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


class _Clock:
    """How many steps a block gets: all of them, or those that its share of the time allows."""

    def __init__(self, chosen: RefitOptions, check: float, seconds: float) -> None:
        """check: the seconds that a measurement of the network takes; seconds: used so far."""
        self._steps, self._check = chosen.steps, check
        self._limit = None if chosen.minutes is None else 60 * chosen.minutes
        self._start = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """What was used so far, also before an interruption."""
        return time.monotonic() - self._start

    def steps(self, lesson: _Lesson, blocks: int) -> int:
        """The steps of the next of so many blocks that are left."""
        if self._limit is None:
            return self._steps
        share = (self._limit - self.seconds) / blocks - self._check
        return min(self._steps, max(0, int(share / lesson.seconds()))) if share > 0 else 0
