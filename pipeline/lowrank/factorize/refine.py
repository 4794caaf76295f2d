"""Trained refinement: block by block, a compressed block learns to give what the dense one gives.

Block b of the compressed network, f̂, reads x', which the blocks before it have spoilt, and all its
parameters (norms and biases too) are trained towards min E‖f(x) − f̂(x')‖², f(x) being the dense
block's output on the dense network's own stream x. A step of one block takes a fraction of the time
that a step of the whole network takes, so that each block gets some hundred of them (AA-SVD, arXiv
2604.02119, does so with factors). The error is relative to each token's own size by default: a few
tokens of huge norm own the plain one, and what follows normalises them anyway. Or it is weighed by
G, the second moment of the loss's gradients there, which says what the rest of the network does
with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.factorize.lesson import Lesson, roots, squared_error
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.factorize.progress import Progress
from pipeline.lowrank.factorize.report import RefinedBlock, RefineReport, RefitDivergence
from pipeline.lowrank.network.blocks import BlockStates, find_walk
from pipeline.lowrank.network.calling import beside, device_of, evaluating, padding_mask
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.tasks import Task


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
        streams = _Streams(dense, compressed, layers, batches, chosen, divergence.task, seed)
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
        task: Task,
        seed: int,
    ) -> None:
        """blocks: their names. task, seed: for gradients, where errors are weighed by them."""
        self._model, self._chosen, batches = compressed, chosen, beside(dense, batches)
        self.blocks, calls = find_walk(dense, layers, batches, "refit.steps=0")
        self._masks = [padding_mask(batch) for batch in batches]
        with self._format():
            self._dense = BlockStates(dense, self.blocks, batches, calls)
            self._own = BlockStates(compressed, self.blocks, batches, calls)
            weighed = chosen.error == "fisher"
            self._roots = roots(dense, self.blocks, batches, task, seed) if weighed else []
        self.begun = [*self._own.states, *(m for m in self._masks if m is not None)]

    def lesson(self, place: int) -> Lesson:
        """What the block at `place` is to learn; the dense network's states move behind it."""
        with self._format():
            self._dense.go_on(place)
        root = self._roots[place] if self._roots else None
        errors = [
            squared_error(target, mask, self._chosen.error, root)
            for target, mask in zip(self._dense.states, self._masks, strict=True)
        ]

        def error(index: int) -> Tensor:
            with self._format():
                state = self._own.output(place, index)
            return errors[index](state)

        block = self._model.get_submodule(self.blocks[place])
        return Lesson(block, error, len(errors), self._chosen.learning_rate)

    def leave(self, place: int) -> None:
        """The compressed network's states move behind the block, too."""
        with self._format():
            self._own.go_on(place)

    def _format(self) -> torch.autocast:
        """To be left before a parameter changes: it keeps what it has rounded."""
        return torch.autocast(
            device_of(self._model).type, torch.bfloat16, enabled=self._chosen.bf16
        )


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

    def steps(self, lesson: Lesson, blocks: int) -> int:
        """The steps of the next of so many blocks that are left."""
        if self._limit is None:
            return self._steps
        share = (self._limit - self.seconds) / blocks - self._check
        return min(self._steps, max(0, int(share / lesson.seconds()))) if share > 0 else 0
