"""Splits on disk: made once by `prepare_data`, read by `load_split` and `load_meta`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.workload.sources import SOURCES, RawData, check_examples
from pipeline.workload.splits import Split, stratified_indices

SPLITS = ("train", "calibration", "validation", "test")


def prepare_data(
    folder: Path,
    *,
    name: str,
    path: str | None,
    sha256: str | None,
    train: int | None,
    calibration: int,
    validation: int,
    test: int,
    seed: int,
) -> dict[str, Any]:
    """Reads a source and writes four disjoint, stratified splits and data.json to `folder`.

    `train` None takes all examples that the others leave; `test` is ignored where the source
    has its own test split. The same arguments give the same files, bit for bit. Nothing is
    written before everything is checked. Returns the content of data.json.

    Raises LowRankError for missing, corrupted or invalid data and for impossible sizes.
    """
    if name not in SOURCES:
        raise LowRankError(f"data.name={name}: unknown; choose one of {', '.join(sorted(SOURCES))}")
    sizes = {"calibration": calibration, "validation": validation, "test": test, "train": train}
    for split, size in sizes.items():
        if size is not None and size < 1:
            raise LowRankError(
                f"data.{split}={size}: the {split} set would be empty; give it at least 1 example"
            )
    raw = SOURCES[name](path, sha256)
    check_examples(raw)
    splits = _split(raw, sizes, seed)
    mean, std = channel_statistics(splits["train"]["inputs"])
    meta = {
        "name": name,
        "classes": raw.classes,
        "class_names": raw.class_names,
        "input_shape": list(raw.inputs.shape[1:]),
        "mean": mean,
        "std": std,
        "sizes": {split: len(splits[split]["labels"]) for split in SPLITS},
        "sha256": raw.sha256,
        "source": raw.source,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        save_file(splits[split], folder / f"{split}.safetensors")
    (folder / "data.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    return meta


def load_meta(folder: Path) -> dict[str, Any]:
    """The content of data.json: names, shapes, mean and std, sizes, checksums."""
    try:
        meta: dict[str, Any] = json.loads((folder / "data.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise LowRankError(
            f"{folder}: no prepared data ({error}); run the stage prepare"
        ) from error
    return meta


def load_split(folder: Path, split: str) -> Split:
    """One split of prepared data; inputs are normalised when they are asked for."""
    if split not in SPLITS:
        raise LowRankError(f"split {split!r}: unknown; choose one of {', '.join(SPLITS)}")
    meta = load_meta(folder)
    path = folder / f"{split}.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LowRankError(f"{path}: cannot be read ({error}); run the stage prepare") from error
    return Split(tensors["inputs"], tensors["labels"], meta["mean"], meta["std"])


def channel_statistics(inputs: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel (dimension 1); uint8 counts as x/255.

    A channel without variation gets the deviation 1, so that it is only centred.
    """
    means, deviations = [], []
    for channel in inputs.transpose(0, 1):
        if inputs.dtype == torch.uint8:  # exact, and without eight bytes a pixel
            counts = torch.bincount(channel.flatten(), minlength=256).double()
            levels = torch.arange(256, dtype=torch.float64) / 255
            weights = counts / counts.sum()
            mean = float(weights @ levels)
            deviation = float(weights @ (levels - mean) ** 2) ** 0.5
        else:
            values = channel.double()
            mean, deviation = float(values.mean()), float(values.std(correction=0))
        means.append(mean)
        deviations.append(deviation if deviation > 0 else 1.0)
    return means, deviations


def _split(
    raw: RawData, sizes: Mapping[str, int | None], seed: int
) -> dict[str, dict[str, Tensor]]:
    own_test = raw.test_inputs is not None and raw.test_labels is not None
    wanted = {k: v for k, v in sizes.items() if not (k == "test" and own_test)}
    indices = stratified_indices(raw.labels, wanted, rest="train", seed=seed)
    splits = {
        split: {"inputs": raw.inputs[chosen].contiguous(), "labels": raw.labels[chosen]}
        for split, chosen in indices.items()
    }
    if raw.test_inputs is not None and raw.test_labels is not None:
        splits["test"] = {
            "inputs": raw.test_inputs.contiguous(),
            "labels": raw.test_labels.contiguous(),
        }
    absent = (torch.bincount(splits["train"]["labels"], minlength=raw.classes) == 0).nonzero()
    if len(absent):
        raise LowRankError(
            f"{raw.source}: the train split has no example of class {int(absent[0])}; give more "
            "examples of it, or smaller data.calibration, data.validation, data.test"
        )
    return splits
