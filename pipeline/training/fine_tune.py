"""Repair of a compressed network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from pipeline.data.files import load_meta, load_split, load_task
from pipeline.data.splits import Split
from pipeline.evaluation.quality import embeddings, fidelity_sums, quality_sums
from pipeline.lowrank.adapters.attach import AdapterOptions, attach_, freeze_, merge_
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.files import load, read_network, save
from pipeline.lowrank.network.blocks import Outputs, find_blocks
from pipeline.machine.checksums import file_sha256
from pipeline.training.baseline import training_options
from pipeline.training.curve import Curve, OnStep
from pipeline.training.loop import VALIDATION_BATCH, Quality
from pipeline.training.losses import (
    Objective,
    Teacher,
    cross_entropy,
    distillation,
    embedding_distillation,
    with_states,
)
from pipeline.training.resumption import Resumption
from pipeline.training.train import train, unchanged_curve

PARAMETERS = ("all", "factors", "adapters", "none")
OBJECTIVES = ("labels", "distill")


def fine_tune(
    folder: Path,
    compressed: Path,
    baseline: Path,
    data: Path,
    options: Mapping[str, Any],
    *,
    fabric: Fabric,
    seed: int,
    on_step: OnStep | None = None,
) -> Curve:
    """Writes the compressed network after fine-tuning to `folder`, in the same architecture.

    `options` is the fine_tune section: `parameters` says what is trained (all of them, the
    factors, adapters on the factors, merged afterwards, or none: the network is copied),
    `objective` what is minimised (the cross-entropy with the labels, or with them and the dense
    network in `baseline`, or an encoder's distance to the dense embeddings, and with
    `states_weight` also the distance of the states after each block; nothing is dropped out where
    the dense network, which answers with all its units, is the teacher). The validation
    loss never gets greater than the compressed network's. A training that was stopped goes on
    where it was, if nothing that it depends on has changed.
    """
    for key, known in (("parameters", PARAMETERS), ("objective", OBJECTIVES)):
        if options[key] not in known:
            raise LowRankError(
                f"fine_tune.{key}={options[key]}: unknown; choose one of {', '.join(known)}"
            )
    model, file = load(compressed), read_network(compressed)
    validation = load_split(data, "validation")
    if options["parameters"] == "none":
        curve = unchanged_curve(model, validation, on_step)
    else:
        if options["parameters"] == "adapters":
            attach_(model, adapter_options(options), seed)
        elif options["parameters"] == "factors":
            freeze_(model, options["adapter_others"])
        training = load_split(data, "train")
        folders, splits = (baseline, data), (training, validation)
        objective, quality = _aim(model, file.layers, options, folders, splits, fabric)
        curve = train(
            model,
            training,
            validation,
            training_options(options),
            fabric=fabric,
            seed=seed,
            label="fine-tune",
            on_step=on_step,
            objective=objective,
            descent_points=options["descent_points"],
            quality=quality,
            measure="accuracy" if quality is quality_sums else "cosine",
            resumption=Resumption(_key(compressed, baseline, data, options, seed), fabric),
        )
        merge_(model)
    if fabric.is_global_zero:
        save(model, folder, file.builder)
    return curve


def adapter_options(section: Mapping[str, Any]) -> AdapterOptions:
    """The adapters' options among the keys of a fine_tune section."""
    return AdapterOptions(
        **{k: section[f"adapter_{k}"] for k in AdapterOptions.__dataclass_fields__}
    )


def _aim(
    model: nn.Module,
    layers: Iterable[str],
    options: Mapping[str, Any],
    folders: tuple[Path, Path],
    splits: tuple[Split, Split],
    fabric: Fabric,
) -> tuple[Objective, Quality]:
    """What is minimised, and what is measured on the validation split; the folders are those of
    the dense network and of the data."""
    smoothing, (training, validation) = options["label_smoothing"], splits
    if options["objective"] == "labels":
        return cross_entropy(smoothing), quality_sums
    dense, weight = load(folders[0]), options["states_weight"]
    quality: Quality = quality_sums
    # Of an answer that is kept from an earlier step there are no states.
    teacher = Teacher(dense, training, fabric, options["augment"], keep=not weight)
    if load_task(folders[1]).name == "encoder":
        reference = embeddings(dense, validation, VALIDATION_BATCH)
        quality = partial(fidelity_sums, reference)
        objective = embedding_distillation(teacher)
    else:
        objective = _distillation(teacher, options)
    _without_dropout(model)
    if weight:
        blocks = find_blocks(model, list(layers), "fine_tune.states_weight=0")
        objective = with_states(objective, Outputs(model, blocks), Outputs(dense, blocks), weight)
    return objective, quality


def _distillation(teacher: Teacher, options: Mapping[str, Any]) -> Objective:
    return distillation(
        teacher,
        temperature=options["temperature"],
        weight=options["distill_weight"],
        label_smoothing=options["label_smoothing"],
    )


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0


def _key(
    compressed: Path,
    baseline: Path,
    data: Path,
    options: Mapping[str, Any],
    seed: int,
) -> list[Any]:
    """All that the result depends on, but for how it is computed."""
    folders = [compressed] if options["objective"] == "labels" else [compressed, baseline]
    weights = [file_sha256(folder / "model.safetensors") for folder in folders]
    return [weights, load_meta(data), dict(options), seed]
