"""The training loop itself: steps, validations, and the records of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pipeline.data.splits import Split, moved, taken
from pipeline.lowrank.forms.running import lay_out
from pipeline.lowrank.network.calling import call
from pipeline.machine.sharding import become_, gathered, is_shared, whole
from pipeline.training.augmentation import AUGMENTATIONS
from pipeline.training.curve import BestState, Recorder, check_finite
from pipeline.training.descent import DescentProbe, measuring_steps
from pipeline.training.losses import Batch, Objective
from pipeline.training.optimizers import Clock, make_optimizer, one_cycle
from pipeline.training.options import TrainingOptions
from pipeline.training.progress import Display
from pipeline.training.resumption import Resumption

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# (model, step from 1, total steps), right after the step.
OnState = Callable[[nn.Module, int, int], None]
# (model, chosen validation examples) → sums over them: (the watched measure, the loss).
Quality = Callable[[nn.Module, Tensor], tuple[float, float]]

VALIDATION_BATCH = 500
_DESCENT_BATCHES = 4
_NO_CLIPPING: dict[str, Any] = {"max_norm": math.inf, "error_if_nonfinite": False}


@dataclass(frozen=True)
class TrainingParts:
    """Everything that a loop works with: what it minimises and measures, and whom it tells; `train`
    explains each."""

    objective: Objective
    quality: Quality
    recorder: Recorder
    display: Display
    on_state: OnState | None
    resumption: Resumption | None
    descent_points: int


class Loop:
    """State of one training; `run` is the loop itself."""

    def __init__(
        self,
        model: nn.Module,
        splits: tuple[Split, Split],
        options: TrainingOptions,
        fabric: Fabric,
        seed: int,
        parts: TrainingParts,
    ) -> None:
        self.model, self.options, self.fabric, self.seed = model, options, fabric, seed
        self.training, self.validation = splits
        self.parts, self.recorder = parts, parts.recorder
        self.batch_size = min(options.batch_size, len(self.training))
        self.steps_per_epoch = options.steps_per_epoch(len(self.training))
        self.total_steps = options.epochs * self.steps_per_epoch

    def run(self) -> None:
        self.recorder.curve.trained_params = sum(
            p.numel() for p in self.model.parameters() if p.requires_grad
        )
        plain = None
        if is_shared(self.fabric):
            plain = copy.deepcopy(self.fabric.strategy.precision.convert_module(self.model))
        self._set_up()
        self.probe = self._descent_probe()
        minutes, epochs = self.options.minutes, self.options.epochs
        self.clock, self.over = Clock(self.total_steps, minutes, self.fabric), False
        done = self._begin()
        for epoch in range(max(done - 1, 0) // self.steps_per_epoch + 1, epochs + 1):
            done = self._epoch(epoch, done)
            self.best.offer(self.model, epoch, self._validate(epoch, done))
            if self.over:
                break
        rates = [self._effective(rate) for rate in self.recorder.learning_rates]
        self.recorder.descent(self.probe.points(rates, self.recorder.squared_norms))
        if plain is not None:
            become_(self.model, plain)
        self.best.restore(self.model)
        self.recorder.curve.best_epoch = self.best.epoch
        if self.parts.resumption is not None:
            self.parts.resumption.finish(self.fabric)

    def _set_up(self) -> None:
        if not is_shared(self.fabric):  # a part of a kernel has no such layout
            lay_out(self.model, torch.channels_last)
        self.wrapped = self.fabric.setup_module(self.model)
        options = self.options
        optimizer = make_optimizer(  # of the parameters as the devices share them
            self.model,
            options.optimizer,
            options.learning_rate,
            options.momentum,
            options.weight_decay,
        )
        self.optimizer = cast(torch.optim.Optimizer, self.fabric.setup_optimizers(optimizer))

    def _begin(self) -> int:
        """Returns the number of steps that an interrupted training has done; 0 for a new one."""
        resumption = self.parts.resumption
        kept = resumption and resumption.load(
            self.fabric, self.wrapped, self.optimizer, self.total_steps
        )
        if not kept or resumption is None:
            self.best = BestState(self.model, self._validate(0, 0))
            self.probe.at(0, self.model)
            return 0
        self.best = BestState(self.model, math.inf)
        try:
            for part in ("best", "recorder", "probe", "clock"):
                getattr(self, part).resume(kept[part])
        except Exception as error:  # of an older version, say
            raise resumption.unusable(error) from error
        return int(kept["done"])

    def _epoch(self, epoch: int, done: int) -> int:
        """Trains for an epoch, without the steps that are `done`, and gives the last step."""
        self.wrapped.train()
        for step, batch in self._batches(epoch):
            if step <= done:
                continue
            self._step(step, batch)
            done = step
            if self.over:
                break
        return done

    def _step(self, step: int, batch: Batch) -> None:
        before = self.clock.position(step - 1)
        rate = one_cycle(before, self.total_steps, self.options.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.parts.objective(partial(call, self.wrapped), batch)
        self.fabric.backward(loss)
        # Clips nothing; it knows of loss scaling and sharding, and gives the norm.
        norm = self.fabric.clip_gradients(self.wrapped, self.optimizer, **_NO_CLIPPING)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.parts.on_state is not None:
            self.parts.on_state(self.model, step, self.total_steps)
        mean = cast(Tensor, self.fabric.all_reduce(loss.detach()))
        position = self.clock.position(step)
        self.over = position >= self.total_steps
        told = self.recorder.step(step, mean, whole(norm), rate, self.over)
        if told is not None:
            self.parts.display.step(round(position), told)
        self.probe.at(step, self.model)
        if self.parts.resumption is not None and self.recorder.settled:
            self.parts.resumption.offer(
                self.fabric, self.wrapped, self.optimizer, lambda: self._state(step)
            )

    def _state(self, done: int) -> dict[str, Any]:
        return {
            "done": done,
            "best": self.best.state(),
            "recorder": self.recorder.state(),
            "probe": self.probe.state(),
            "clock": self.clock.seconds,
        }

    def _descent_probe(self) -> DescentProbe:
        """The descent theorem's figures on a few fixed batches, on the first device alone."""
        points = self.parts.descent_points if self.fabric.is_global_zero else 0
        steps = measuring_steps(self.total_steps, points)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.training), generator=generator)
        chosen = torch.split(order, self.batch_size)[: _DESCENT_BATCHES if steps else 0]
        batches = [self._batch(part, generator, slice(None)) for part in chosen]
        rate = self._effective(self.options.learning_rate)
        return DescentProbe(batches, self.parts.objective, rate, steps, self.steps_per_epoch)

    def _effective(self, learning_rate: float) -> float:
        """The learning rate of plain descent that goes as far as this rate does with momentum at
        speed."""
        return learning_rate / (1 - self.options.momentum)

    def _batches(self, epoch: int) -> Iterator[tuple[int, Batch]]:
        """(step, this device's share of the batch) of an epoch, shuffled by (seed, epoch)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.training), generator=generator)
        share = slice(self.fabric.global_rank, None, self.fabric.world_size)
        for index in range(self.steps_per_epoch):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            step = (epoch - 1) * self.steps_per_epoch + index + 1
            yield step, self._batch(chosen, generator, share)

    def _batch(self, chosen: Tensor, generator: torch.Generator, share: slice) -> Batch:
        """The `share` of a batch; augmented as a whole, so that it doesn't depend on the
        number of devices."""
        stored, labels = taken(self.training.stored, chosen), self.training.labels
        if isinstance(stored, Tensor):  # several inputs belong together: none is varied alone
            stored = AUGMENTATIONS[self.options.augment](stored, generator)
        inputs = moved(self.training.normalise(taken(stored, share)), self.fabric.device)
        examples = chosen[share]
        there = None if labels is None else moved(taken(labels, examples), self.fabric.device)
        return Batch(inputs, there, examples)

    def _validate(self, epoch: int, step: int) -> float:
        """Validation loss, each device taking its share of the examples."""
        # Running statistics differ between devices; the first one's are the network's.
        if self.fabric.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        share = torch.arange(self.fabric.global_rank, len(self.validation), self.fabric.world_size)
        with gathered(self.model):
            sums = self.parts.quality(self.model, share)
        total = torch.tensor(sums, dtype=torch.float64, device=self.fabric.device)
        reduced = cast(Tensor, self.fabric.all_reduce(total, reduce_op="sum"))
        watched, loss = (value / len(self.validation) for value in reduced.tolist())
        check_finite(loss, step, self.options.learning_rate)
        self.recorder.epoch(epoch, step, loss, watched)
        self.parts.display.epoch(epoch, loss, watched)
        return float(loss)
