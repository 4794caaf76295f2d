"""The one training loop: baseline and fine-tuning, one device or many."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.data.splits import Split
from pipeline.evaluation.quality import progress_sums
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.running import lay_out
from pipeline.lowrank.tasks import Task
from pipeline.training.curve import Curve, OnStep, Recorder, check_finite
from pipeline.training.loop import VALIDATION_BATCH, Loop, OnState, TrainingParts
from pipeline.training.losses import Objective, label_loss
from pipeline.training.options import TrainingOptions
from pipeline.training.progress import Display, SilentDisplay, training_display
from pipeline.training.resumption import Resumption

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    model: nn.Module,
    training: Split,
    validation: Split,
    options: TrainingOptions,
    task: Task,
    *,
    fabric: Fabric,
    seed: int,
    label: str = "training",
    on_step: OnStep | None = None,
    objective: Objective | None = None,
    on_state: OnState | None = None,
    descent_points: int = 0,
    dense: nn.Module | None = None,
    resumption: Resumption | None = None,
) -> Curve:
    """Trains `model` in place and leaves it, in eval mode on the CPU, at its best state.

    Best is the least validation loss over the epochs, where epoch 0 is the model as given: the
    result is never worse on the validation split. Only parameters that require gradients are
    trained. What is minimised is `objective(model, batch)`, by default the task's loss with the
    labels. Shuffling and augmentation depend on (seed, epoch) only. `on_step` gets the values of
    the curve as they come, and `on_state` may look at the network after each step, both on the
    first process. `descent_points` measurements of the descent theorem are spread over the steps;
    they change nothing but the curve. dense: the dense network, which tells how good a state is
    where there are no labels. `resumption` keeps the state, so that a training that was stopped
    goes on where it was.

    Raises LowRankError for a batch that the devices cannot share, for a task without labels where
    `dense` is missing, and when a loss is NaN or Inf.
    """
    _check_batch(options, len(training), fabric.world_size)
    steps, first = options.steps_per_epoch(len(training)), fabric.is_global_zero
    total = options.epochs * steps
    recorder = Recorder(total, steps, on_step if first else None, task.watched.name)
    shown: AbstractContextManager[Display] = (
        training_display(label, options.epochs, total, task.watched)
        if first
        else nullcontext(SilentDisplay())
    )

    def quality(network: nn.Module, chosen: Tensor) -> tuple[float, float]:
        return progress_sums(network, validation, chosen, task, VALIDATION_BATCH, dense)

    with shown as display:
        parts = TrainingParts(
            objective=objective or label_loss(task, options.label_smoothing),
            quality=quality,
            recorder=recorder,
            display=display,
            on_state=on_state if first else None,
            resumption=resumption,
            descent_points=descent_points,
        )
        Loop(model, (training, validation), options, fabric, seed, parts).run()
    model.cpu().eval()
    lay_out(model, torch.contiguous_format)
    return recorder.curve


def unchanged_curve(
    model: nn.Module, validation: Split, task: Task, on_step: OnStep | None = None
) -> Curve:
    """The curve of a network that isn't trained: epoch 0 only, and nothing without labels."""
    if not task.supervised:
        return Curve()
    everything = torch.arange(len(validation))
    sums = progress_sums(model, validation, everything, task, VALIDATION_BATCH)
    watched, loss = (value / len(validation) for value in sums)
    check_finite(loss, 0, 0.0)
    recorder = Recorder(0, 1, on_step, task.watched.name)
    recorder.epoch(0, 0, loss, watched)
    return recorder.curve


def _check_batch(options: TrainingOptions, examples: int, devices: int) -> None:
    batch_size = min(options.batch_size, examples)
    if batch_size % devices:
        raise LowRankError(
            f"batch_size={batch_size}: not a multiple of the {devices} devices; choose one"
        )
