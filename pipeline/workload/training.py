"""The one training loop: baseline and fine-tuning, one device or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.workload.augmentation import AUGMENTATIONS
from pipeline.workload.curve import BestState, Curve, OnStep, Recorder, check_finite
from pipeline.workload.descent import DescentProbe, measuring_steps
from pipeline.workload.devices import lay_out
from pipeline.workload.evaluation import evaluate_quality, quality_sums
from pipeline.workload.objectives import Batch, Objective, cross_entropy
from pipeline.workload.progress import Display, SilentDisplay, training_display
from pipeline.workload.splits import Split

# (model, step from 1, total steps), right after the step.
OnState = Callable[[nn.Module, int, int], None]

_VALIDATION_BATCH = 500
_DESCENT_BATCHES = 4
_NO_CLIPPING: dict[str, Any] = {"max_norm": math.inf, "error_if_nonfinite": False}


@dataclass(frozen=True)
class TrainingOptions:
    """SGD with Nesterov momentum under a one-cycle schedule.

    `batch_size` counts the examples of all devices together, `learning_rate` is the peak of
    the cycle, `weight_decay` acts on matrices and kernels only, `augment` names one of
    AUGMENTATIONS.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augment: str = "none"


def train(
    model: nn.Module,
    training: Split,
    validation: Split,
    options: TrainingOptions,
    *,
    fabric: Fabric,
    seed: int,
    label: str = "training",
    on_step: OnStep | None = None,
    objective: Objective | None = None,
    on_state: OnState | None = None,
    descent_points: int = 0,
) -> Curve:
    """Trains `model` in place and leaves it, in eval mode on the CPU, at its best state.

    Best is the least validation loss over the epochs, where epoch 0 is the model as given: the
    result is never worse on the validation split. Only parameters that require gradients are
    trained. What is minimised is `objective(model, batch)`, by default the cross-entropy with
    label smoothing. Shuffling and augmentation depend on (seed, epoch) only. `on_step` gets
    the values of the curve as they come, and `on_state` may look at the network after each
    step, both on the first process. `descent_points` measurements of the descent theorem are
    spread over the steps; they change nothing but the curve.

    Raises LowRankError for impossible options and when a loss is NaN or Inf.
    """
    _check(options, len(training), fabric.world_size)
    loop = _Loop(model, (training, validation), options, fabric, seed)
    told, shown_to = (on_step, on_state) if fabric.is_global_zero else (None, None)
    recorder = Recorder(loop.total_steps, loop.steps_per_epoch, told)
    shown: AbstractContextManager[Display] = (
        training_display(label, options.epochs, loop.total_steps)
        if fabric.is_global_zero
        else nullcontext(SilentDisplay())
    )
    with shown as display:
        minimised = objective or cross_entropy(options.label_smoothing)
        loop.run(minimised, recorder, display, descent_points, shown_to)
    model.cpu().eval()
    lay_out(model, torch.contiguous_format)
    return recorder.curve


def unchanged_curve(model: nn.Module, validation: Split, on_step: OnStep | None = None) -> Curve:
    """The curve of a network that isn't trained: epoch 0 only, and nothing without labels."""
    if not validation.labels.numel():
        return Curve()
    quality = evaluate_quality(model, validation, _VALIDATION_BATCH)
    check_finite(quality["loss"], 0, 0.0)
    recorder = Recorder(0, 1, on_step)
    recorder.epoch(0, 0, quality["loss"], quality["accuracy"])
    return recorder.curve


class _Loop:
    """State of one training; `run` is the loop itself."""

    def __init__(
        self,
        model: nn.Module,
        splits: tuple[Split, Split],
        options: TrainingOptions,
        fabric: Fabric,
        seed: int,
    ) -> None:
        self.model, self.options, self.fabric, self.seed = model, options, fabric, seed
        self.training, self.validation = splits
        self.batch_size = min(options.batch_size, len(self.training))
        # The remainder of an epoch is dropped (shuffling gives it to others the next time), so
        # that all batches, and all devices' shares of them, are of one size.
        self.steps_per_epoch = len(self.training) // self.batch_size
        self.total_steps = options.epochs * self.steps_per_epoch

    def run(
        self,
        objective: Objective,
        recorder: Recorder,
        display: Display,
        descent_points: int,
        on_state: OnState | None,
    ) -> None:
        self.recorder, self.display = recorder, display
        recorder.curve.trained_params = sum(
            p.numel() for p in self.model.parameters() if p.requires_grad
        )
        lay_out(self.model, torch.channels_last)
        optimizer = _optimizer(self.model, self.options)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.options.learning_rate,
            total_steps=self.total_steps + 1,  # it counts its own first step
            cycle_momentum=False,
        )
        wrapped, optimizer = self.fabric.setup(self.model, optimizer)
        best = BestState(self.model, self._validate(0))
        probe = self._descent_probe(objective, descent_points)
        probe.at(0, self.model)
        for epoch in range(1, self.options.epochs + 1):
            wrapped.train()
            for step, batch in self._batches(epoch):
                learning_rate = optimizer.param_groups[0]["lr"]
                loss = objective(wrapped, batch)
                self.fabric.backward(loss)
                # Clips nothing; it knows of loss scaling and sharding, and gives the norm.
                norm = cast(Tensor, self.fabric.clip_gradients(wrapped, optimizer, **_NO_CLIPPING))
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if on_state is not None:
                    on_state(self.model, step, self.total_steps)
                mean = cast(Tensor, self.fabric.all_reduce(loss.detach()))
                told = recorder.step(step, mean, norm, learning_rate)
                if told is not None:
                    display.step(step, told)
                probe.at(step, self.model)
            best.offer(self.model, epoch, self._validate(epoch))
        rates = [self._effective(rate) for rate in recorder.learning_rates]
        recorder.descent(probe.rows(rates, recorder.squared_norms, self.steps_per_epoch))
        best.restore(self.model)
        recorder.curve.best_epoch = best.epoch

    def _descent_probe(self, objective: Objective, points: int) -> DescentProbe:
        """The descent theorem's figures on a few fixed batches, on the first device alone."""
        steps = measuring_steps(self.total_steps, points if self.fabric.is_global_zero else 0)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.training), generator=generator)
        chosen = torch.split(order, self.batch_size)[: _DESCENT_BATCHES if steps else 0]
        batches = [self._batch(part, generator, slice(None)) for part in chosen]
        rate = self._effective(self.options.learning_rate)
        return DescentProbe(batches, objective, rate, steps)

    def _effective(self, learning_rate: float) -> float:
        """The rate of plain descent that momentum amounts to once it has gathered speed."""
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
        images = AUGMENTATIONS[self.options.augment](self.training.stored[chosen], generator)
        inputs = self.training.normalise(images[share]).to(self.fabric.device)
        examples = chosen[share]
        return Batch(inputs, self.training.labels[examples].to(self.fabric.device), examples)

    def _validate(self, epoch: int) -> float:
        """Validation loss, each device taking its share of the examples."""
        # Running statistics differ between devices; the first one's are the network's.
        if self.fabric.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        share = torch.arange(self.fabric.global_rank, len(self.validation), self.fabric.world_size)
        sums = quality_sums(self.model, self.validation, share, _VALIDATION_BATCH)
        total = torch.tensor(sums, dtype=torch.float64, device=self.fabric.device)
        reduced = cast(Tensor, self.fabric.all_reduce(total, reduce_op="sum"))
        correct, loss = reduced.tolist()
        loss, accuracy = loss / len(self.validation), correct / len(self.validation)
        step = epoch * self.steps_per_epoch
        check_finite(loss, step, self.options.learning_rate)
        self.recorder.epoch(epoch, step, loss, accuracy)
        self.display.epoch(epoch, loss, accuracy)
        return float(loss)


def _optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; biases and normalisation are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(
        [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=options.momentum > 0,
    )


def _check(options: TrainingOptions, examples: int, devices: int) -> None:
    for name in ("epochs", "batch_size", "learning_rate"):
        if not getattr(options, name) > 0:
            raise LowRankError(f"{name}={getattr(options, name)}: must be greater than 0")
    if options.augment not in AUGMENTATIONS:
        raise LowRankError(
            f"augment={options.augment}: unknown; choose one of {', '.join(AUGMENTATIONS)}"
        )
    batch_size = min(options.batch_size, examples)
    if batch_size % devices:
        raise LowRankError(
            f"batch_size={batch_size}: not a multiple of the {devices} devices; choose one"
        )
