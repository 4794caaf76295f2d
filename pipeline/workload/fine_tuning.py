"""Repair of a compressed network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from pipeline.lowrank.adapter import AdapterOptions, attach_, merge_
from pipeline.lowrank.checkpoint import load_network, read_network, save_network
from pipeline.lowrank.errors import LowRankError
from pipeline.workload.baseline import training_options
from pipeline.workload.curve import Curve, OnStep
from pipeline.workload.data import load_split
from pipeline.workload.objectives import Objective, Teacher, cross_entropy, distillation
from pipeline.workload.splits import Split
from pipeline.workload.training import train, unchanged_curve

PARAMETERS = ("all", "adapters", "none")
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

    `options` is the fine_tune section: `parameters` says what is trained (all of them, adapters
    on the factors, merged afterwards, or none: the network is copied), `objective` what is
    minimised (the cross-entropy with the labels, or with them and the dense network in
    `baseline`). The validation loss never gets greater than the compressed network's.
    """
    for key, known in (("parameters", PARAMETERS), ("objective", OBJECTIVES)):
        if options[key] not in known:
            raise LowRankError(
                f"fine_tune.{key}={options[key]}: unknown; choose one of {', '.join(known)}"
            )
    model, file = load_network(compressed), read_network(compressed)
    validation = load_split(data, "validation")
    if options["parameters"] == "none":
        curve = unchanged_curve(model, validation, on_step)
    else:
        if options["parameters"] == "adapters":
            attach_(model, adapter_options(options), seed)
        training = load_split(data, "train")
        curve = train(
            model,
            training,
            validation,
            training_options(options),
            fabric=fabric,
            seed=seed,
            label="fine-tune",
            on_step=on_step,
            objective=_objective(options, baseline, training, fabric),
            descent_points=options["descent_points"],
        )
        merge_(model)
    if fabric.is_global_zero:
        save_network(folder, model, file.spec, file.layers)
    return curve


def adapter_options(section: Mapping[str, Any]) -> AdapterOptions:
    """The adapters' options among the keys of a fine_tune section."""
    return AdapterOptions(
        **{k: section[f"adapter_{k}"] for k in AdapterOptions.__dataclass_fields__}
    )


def _objective(
    options: Mapping[str, Any], baseline: Path, training: Split, fabric: Fabric
) -> Objective:
    smoothing = options["label_smoothing"]
    if options["objective"] == "labels":
        return cross_entropy(smoothing)
    return distillation(
        Teacher(load_network(baseline), training, fabric, options["augment"]),
        temperature=options["temperature"],
        weight=options["distill_weight"],
        label_smoothing=smoothing,
    )
