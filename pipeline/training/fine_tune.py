"""Fine-tuning of a compressed network, which takes back the accuracy that it lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from pipeline.data.calibration import statistics_batches
from pipeline.data.files import load_facts, load_split, load_task
from pipeline.data.preprocessing import save_preprocessing
from pipeline.lowrank.adapters.attach import attach_, freeze_, merge_
from pipeline.lowrank.forms.allowed import Allowed
from pipeline.lowrank.forms.files import load, read_network, save
from pipeline.lowrank.forms.shards import weights_sha256
from pipeline.lowrank.network.blocks import BlockOutputs, find_blocks
from pipeline.lowrank.network.calling import answer
from pipeline.lowrank.tasks import Task
from pipeline.training.curve import Curve, OnStep
from pipeline.training.losses import (
    Objective,
    Teacher,
    distillation,
    label_loss,
    with_states,
)
from pipeline.training.options import FineTuneOptions
from pipeline.training.resumption import Resumption
from pipeline.training.train import train, unchanged_curve

_MOST, _BATCH = 512, 64  # examples for the scale of what the dense network gives

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fine_tune(
    folder: Path,
    compressed: Path,
    baseline: Path,
    data: Path,
    options: FineTuneOptions,
    *,
    allow: Iterable[Allowed] = (),
    fabric: Fabric,
    seed: int,
    on_step: OnStep | None = None,
) -> Curve:
    """Writes the compressed network after fine-tuning to `folder`, in the same architecture.

    `options` is the fine_tune section: `parameters` says what is trained (all of them, the
    factors and the weights of narrowed layers, adapters on these, merged afterwards, or none: the
    network is copied),
    `objective` what is minimised (the task's loss with the labels, or with them and the answers
    of the dense network in `baseline`, which alone count where there are no labels, and with
    `states_weight` also the distance of the states after each block; nothing is dropped out where
    the dense network, which answers with all its units, is the teacher). The validation
    loss never gets greater than the compressed network's. A training that was stopped goes on
    where it was, if nothing that it depends on has changed. `allow` is that of `load`.
    """
    model, file = load(compressed, allow=allow), read_network(compressed)
    task, validation = load_task(data), load_split(data, "validation")
    if options.parameters == "none":
        curve = unchanged_curve(model, validation, task, on_step)
    else:
        if options.parameters == "adapters":
            attach_(model, options.adapters, seed)
        elif options.parameters == "factors":
            freeze_(model, options.adapter_others)
        training = load_split(data, "train")
        objective, reference = label_loss(task, options.label_smoothing), None
        if options.objective == "distill":
            dense = load(baseline, allow=allow)
            task = task.fitted(_outputs(dense, data))
            # An answer that is kept from an earlier step has no states.
            keep = not options.states_weight
            teacher = Teacher(
                dense, training, fabric, options.augment, keep=keep, read=task.prediction
            )
            reference = None if task.supervised else dense
            objective = _distillation(
                model, dense, teacher, [*file.layers, *file.narrowed], options, task
            )
        curve = train(
            model,
            training,
            validation,
            options,
            task,
            fabric=fabric,
            seed=seed,
            label="fine-tune",
            on_step=on_step,
            objective=objective,
            descent_points=options.descent_points,
            dense=reference,
            resumption=Resumption(_key(compressed, baseline, data, options, seed), fabric),
        )
        merge_(model)
    if fabric.is_global_zero:
        save(model, folder, file.builder)
        save_preprocessing(folder, load_facts(data).preprocessing)
    return curve


def _outputs(dense: nn.Module, data: Path) -> Iterator[Any]:
    """The dense network's outputs on calibration examples, of which few tasks need any."""
    for batch in statistics_batches(data, _BATCH, most=_MOST):
        yield answer(dense, batch)


def _distillation(
    model: nn.Module,
    dense: nn.Module,
    teacher: Teacher,
    layers: Iterable[str],
    options: FineTuneOptions,
    task: Task,
) -> Objective:
    """The objective with the dense network as the teacher; `layers` are the factorized and
    the narrowed ones."""
    objective = distillation(
        task,
        teacher,
        temperature=options.temperature,
        weight=options.distill_weight,
        label_smoothing=options.label_smoothing,
    )
    _without_dropout(model)
    if weight := options.states_weight:
        blocks = find_blocks(model, list(layers), "fine_tune.states_weight=0")
        objective = with_states(
            objective, BlockOutputs(model, blocks), BlockOutputs(dense, blocks), weight
        )
    return objective


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0


def _key(
    compressed: Path,
    baseline: Path,
    data: Path,
    options: FineTuneOptions,
    seed: int,
) -> list[Any]:
    """Everything that the result depends on, except for how it is computed."""
    folders = [compressed] if options.objective == "labels" else [compressed, baseline]
    weights = [weights_sha256(folder) for folder in folders]
    return [weights, asdict(load_facts(data)), asdict(options), seed]
