"""The one training loop: baseline and fine-tuning, one device or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.workload.augmentation import AUGMENTATIONS
from pipeline.workload.curve import BestState, Curve, OnStep, Recorder, check_finite
from pipeline.workload.evaluation import evaluate_quality, quality_sums
from pipeline.workload.progress import Display, SilentDisplay, training_display
from pipeline.workload.splits import Split

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
# (model, step from 1, total steps), right after the step.
OnState = Callable[[nn.Module, int, int], None]

_VALIDATION_BATCH = 500


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
) -> Curve:
    """Trains `model` in place and leaves it, in eval mode on the CPU, at its best state.

    Best is the least validation loss over the epochs, where epoch 0 is the model as given: the
    result is never worse on the validation split. What is minimised is `objective(model,
    inputs, labels)`, by default the cross-entropy with label smoothing. Shuffling and
    augmentation depend on (seed, epoch) only. `on_step` gets the values of the curve as they
    come, and `on_state` may look at the network after each step, both on the first process.

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
        loop.run(objective or _cross_entropy(options.label_smoothing), recorder, display, shown_to)
    model.cpu().eval()
    _lay_out(model, torch.contiguous_format)
    return recorder.curve


def unchanged_curve(model: nn.Module, validation: Split, on_step: OnStep | None = None) -> Curve:
    """The curve of a network that isn't trained: epoch 0 only."""
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
        on_state: OnState | None = None,
    ) -> None:
        self.recorder, self.display = recorder, display
        # A fifth faster on CPUs, more on GPUs' tensor cores.
        _lay_out(self.model, torch.channels_last)
        optimizer = _optimizer(self.model, self.options)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.options.learning_rate,
            total_steps=self.total_steps + 1,  # it counts its own first step
            cycle_momentum=False,
        )
        wrapped, optimizer = self.fabric.setup(self.model, optimizer)
        best = BestState(self.model, self._validate(0))
        for epoch in range(1, self.options.epochs + 1):
            wrapped.train()
            for step, inputs, labels in self._batches(epoch):
                learning_rate = optimizer.param_groups[0]["lr"]
                loss = objective(wrapped, inputs, labels)
                self.fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if on_state is not None:
                    on_state(self.model, step, self.total_steps)
                mean = cast(Tensor, self.fabric.all_reduce(loss.detach()))
                told = recorder.step(step, mean, learning_rate)
                if told is not None:
                    display.step(step, told)
            best.offer(self.model, epoch, self._validate(epoch))
        best.restore(self.model)
        recorder.curve.best_epoch = best.epoch

    def _batches(self, epoch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(step, inputs, labels) of an epoch, shuffled by (seed, epoch)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.training), generator=generator)
        for index in range(self.steps_per_epoch):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            step = (epoch - 1) * self.steps_per_epoch + index + 1
            yield step, *self._batch(chosen, generator)

    def _batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This device's share of a batch; augmented as a whole, so that it doesn't depend on
        the number of devices."""
        images = AUGMENTATIONS[self.options.augment](self.training.stored[chosen], generator)
        share = slice(self.fabric.global_rank, None, self.fabric.world_size)
        inputs = self.training.normalise(images[share]).to(self.fabric.device)
        return inputs, self.training.labels[chosen[share]].to(self.fabric.device)

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


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Brings the kernels of 2-D convolutions into a memory format. (nn.Module.to would refuse
    those of 3-D ones, and 1×1 kernels are the same in both.)"""
    for parameter in model.parameters():
        if parameter.dim() == 4 and parameter[0, 0].numel() > 1:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


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


def _cross_entropy(label_smoothing: float) -> Objective:
    def objective(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs), labels, label_smoothing=label_smoothing)

    return objective


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
