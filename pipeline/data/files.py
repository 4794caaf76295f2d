"""Splits on disk, as the stage prepare left them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.splits import Split, TokenSplit
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task, get_task

SPLITS = ("train", "calibration", "validation", "test", "ood")


def load_meta(folder: Path) -> dict[str, Any]:
    """The content of data.json: names, shapes, mean and std, sizes, checksums."""
    try:
        meta: dict[str, Any] = json.loads((folder / "data.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise LowRankError(
            f"{folder}: no prepared data ({error}); run the stage prepare"
        ) from error
    return meta


def load_task(folder: Path) -> Task:
    """What a network of this prepared data predicts."""
    return get_task(load_meta(folder)["task"])


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
    if "vocabulary" in meta:
        return TokenSplit(tensors["inputs"], tensors["labels"])
    return Split(tensors["inputs"], tensors["labels"], meta["mean"], meta["std"])


def example_input(meta: Mapping[str, Any]) -> Tensor:
    """An example of zeros, a batch of one: float32, or token ids."""
    dtype = torch.int64 if "vocabulary" in meta else torch.float32
    return torch.zeros(1, *meta["input_shape"], dtype=dtype)
