"""The one training loop: baseline and fine-tuning, one device or many."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline.data.splits import Split
from pipeline.evaluation.quality import evaluate_quality, quality_sums
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.running import lay_out
from pipeline.training.augmentation import AUGMENTATIONS
from pipeline.training.curve import Curve, OnStep, Recorder, check_finite
from pipeline.training.loop import (
    VALIDATION_BATCH,
    Around,
    Loop,
    OnState,
    Quality,
    TrainingOptions,
)
from pipeline.training.losses import Objective, cross_entropy
from pipeline.training.optimizers import OPTIMIZERS
from pipeline.training.progress import Display, SilentDisplay, training_display
from pipeline.training.resumption import Resumption


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
    quality: Quality = quality_sums,
    measure: str = "accuracy",
    resumption: Resumption | None = None,
) -> Curve:
    """Trains `model` in place and leaves it, in eval mode on the CPU, at its best state.

    Best is the least validation loss over the epochs, where epoch 0 is the model as given: the
    result is never worse on the validation split. Only parameters that require gradients are
    trained. What is minimised is `objective(model, batch)`, by default the cross-entropy with
    label smoothing. Shuffling and augmentation depend on (seed, epoch) only. `on_step` gets
    the values of the curve as they come, and `on_state` may look at the network after each
    step, both on the first process. `descent_points` measurements of the descent theorem are
    spread over the steps; they change nothing but the curve. `quality` measures the validation,
    and `measure` names its first figure; `resumption` keeps the state, so that a training that
    was stopped goes on where it was.

    Raises LowRankError for impossible options and when a loss is NaN or Inf.
    """
    _check(options, len(training), fabric.world_size)
    steps, first = options.steps_per_epoch(len(training)), fabric.is_global_zero
    total = options.epochs * steps
    recorder = Recorder(total, steps, on_step if first else None, measure)
    shown: AbstractContextManager[Display] = (
        training_display(label, options.epochs, total, measure)
        if first
        else nullcontext(SilentDisplay())
    )
    with shown as display:
        around = Around(
            objective=objective or cross_entropy(options.label_smoothing),
            quality=quality,
            recorder=recorder,
            display=display,
            on_state=on_state if first else None,
            resumption=resumption,
            descent_points=descent_points,
        )
        Loop(model, (training, validation), options, fabric, seed, around).run()
    model.cpu().eval()
    lay_out(model, torch.contiguous_format)
    return recorder.curve


def unchanged_curve(model: nn.Module, validation: Split, on_step: OnStep | None = None) -> Curve:
    """The curve of a network that isn't trained: epoch 0 only, and nothing without labels."""
    if not validation.labels.numel():
        return Curve()
    quality = evaluate_quality(model, validation, VALIDATION_BATCH)
    check_finite(quality["loss"], 0, 0.0)
    recorder = Recorder(0, 1, on_step)
    recorder.epoch(0, 0, quality["loss"], quality["accuracy"])
    return recorder.curve


def _check(options: TrainingOptions, examples: int, devices: int) -> None:
    for name in ("epochs", "batch_size", "learning_rate", "minutes"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise LowRankError(f"{name}={value}: must be greater than 0")
    for name, known in (("augment", AUGMENTATIONS), ("optimizer", OPTIMIZERS)):
        if (value := getattr(options, name)) not in known:
            raise LowRankError(f"{name}={value}: unknown; choose one of {', '.join(known)}")
    batch_size = min(options.batch_size, examples)
    if batch_size % devices:
        raise LowRankError(
            f"batch_size={batch_size}: not a multiple of the {devices} devices; choose one"
        )
