"""Repair of a compressed network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from pipeline.lowrank.checkpoint import load_network, read_network, save_network
from pipeline.lowrank.errors import LowRankError
from pipeline.workload.baseline import training_options
from pipeline.workload.curve import Curve, OnStep
from pipeline.workload.data import load_split
from pipeline.workload.training import train, unchanged_curve

METHODS = ("full", "none")


def fine_tune(
    folder: Path,
    compressed: Path,
    data: Path,
    options: Mapping[str, Any],
    *,
    fabric: Fabric,
    seed: int,
    on_step: OnStep | None = None,
) -> Curve:
    """Writes the compressed network after fine-tuning to `folder`, in the same architecture.

    `options` is the fine_tune section. `full` trains all parameters, `none` copies the network;
    neither ever gives a greater validation loss than the compressed network has.
    """
    method = options["method"]
    if method not in METHODS:
        raise LowRankError(
            f"fine_tune.method={method}: unknown; choose one of {', '.join(METHODS)}"
        )
    told = on_step if fabric.is_global_zero else None
    model, file = load_network(compressed), read_network(compressed)
    validation = load_split(data, "validation")
    if method == "none":
        curve = unchanged_curve(model, validation, told)
    else:
        curve = train(
            model,
            load_split(data, "train"),
            validation,
            training_options(options),
            fabric=fabric,
            seed=seed,
            label="fine-tune",
            on_step=told,
        )
    if fabric.is_global_zero:
        save_network(folder, model, file.spec, file.layers)
    return curve
