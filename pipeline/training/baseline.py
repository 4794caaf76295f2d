"""The dense network that everything is compared with: trained here, the user's own, or
pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pipeline.data.files import load_facts, load_split, load_task
from pipeline.data.preprocessing import save_preprocessing
from pipeline.evaluation.quality import check_fit
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.files import save
from pipeline.lowrank.forms.weights import load_weights, save_weights
from pipeline.machine.checksums import check_sha256, file_sha256
from pipeline.models.huggingface import self_contained
from pipeline.training.curve import Curve, OnStep
from pipeline.training.imported import check_imported
from pipeline.training.options import BaselineOptions
from pipeline.training.snapshots import INIT, Snapshots, states_in
from pipeline.training.train import train, unchanged_curve

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_baseline(
    folder: Path,
    data: Path,
    spec: Mapping[str, Any],
    options: BaselineOptions,
    *,
    fabric: Fabric,
    seed: int,
    on_step: OnStep | None = None,
) -> Curve:
    """Writes a network folder, with the data's preprocessing; with source=train also
    init.safetensors, the weights at the start, and snapshots/, the matrices at `snapshots` moments
    between start and end.
    source=checkpoint loads `weights` into the model; source=pretrained keeps it as it was built.

    `spec` is the model section, `options` the baseline section. Call it right after the
    generators were seeded (`make_fabric` does): the initial weights come from torch's own.
    Raises LowRankError for options, weights and models that don't fit the data or each other.
    """
    model, task, facts = build_model(spec), load_task(data), load_facts(data)
    examples = facts.examples
    check_fit(model, examples, task)
    if options.source == "checkpoint":
        import_weights(model, options.weights, options.sha256)
        check_fit(model, examples, task)
    if options.source != "train":
        curve = unchanged_curve(model, load_split(data, "validation"), task, on_step)
        check_imported(model, facts, curve, options, task)
    else:
        if fabric.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(model, folder / INIT)
        curve = train(
            model,
            load_split(data, "train"),
            load_split(data, "validation"),
            options,
            task,
            fabric=fabric,
            seed=seed,
            label="baseline",
            on_step=on_step,
            on_state=Snapshots(folder, options.snapshots),
        )
    if fabric.is_global_zero:
        states = states_in(folder) if options.source == "train" else []
        save(model, folder, self_contained(spec, model), beside=states)
        save_preprocessing(folder, facts.preprocessing)
    return curve


def import_weights(model: nn.Module, weights: str | None, sha256: str | None) -> None:
    """Loads the user's checkpoint, after its checksum where one is given."""
    if weights is None:
        raise LowRankError(
            "baseline.weights is null: source=checkpoint needs the path of your weights; set "
            "baseline.weights"
        )
    path = Path(weights)
    if sha256 is not None:
        if not path.is_file():
            raise LowRankError(f"baseline.weights={weights}: no such file; correct the path")
        check_sha256(
            weights, file_sha256(path), sha256, "get the file again, or correct baseline.sha256"
        )
    load_weights(model, path)
