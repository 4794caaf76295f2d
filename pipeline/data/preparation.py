"""Splits made once: read, checked, split, written with checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.sources import SOURCES, RawData, check_examples
from pipeline.data.splits import stratified_indices
from pipeline.data.text import read_token_splits
from pipeline.lowrank.errors import LowRankError

TEXT = "text"


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
    text: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reads a source and writes four disjoint splits and data.json to `folder`.

    Labelled examples are stratified; text is split by `text.read_token_splits` (its options are
    `text`), with a fifth split "ood" where there is a second text. `train` None takes all
    examples that the others leave; `test` is ignored where the source has its own test split.
    The same arguments give the same files, bit for bit. Nothing is written before everything is
    checked. Returns the content of data.json.

    Raises LowRankError for missing, corrupted or invalid data and for impossible sizes.
    """
    if name not in (*SOURCES, TEXT):
        known = ", ".join(sorted([*SOURCES, TEXT]))
        raise LowRankError(f"data.name={name}: unknown; choose one of {known}")
    sizes = {"calibration": calibration, "validation": validation, "test": test, "train": train}
    for split, size in sizes.items():
        if size is not None and size < 1:
            raise LowRankError(
                f"data.{split}={size}: the {split} set would be empty; give it at least 1 example"
            )
    if name == TEXT:
        splits, meta = read_token_splits(path, sha256, sizes, seed, text)
    else:
        splits, meta = _read_images(SOURCES[name](path, sha256), sizes, seed)
    meta |= {"name": name, "sizes": {key: len(split["labels"]) for key, split in splits.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    for key, tensors in splits.items():
        save_file(tensors, folder / f"{key}.safetensors")
    (folder / "data.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    return meta


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


def _read_images(
    raw: RawData, sizes: Mapping[str, int | None], seed: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    check_examples(raw)
    splits = _split(raw, sizes, seed)
    mean, std = channel_statistics(splits["train"]["inputs"])
    return splits, {
        "task": "classification",
        "classes": raw.classes,
        "class_names": raw.class_names,
        "input_shape": list(raw.inputs.shape[1:]),
        "mean": mean,
        "std": std,
        "sha256": raw.sha256,
        "source": raw.source,
    }


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
