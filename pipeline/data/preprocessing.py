"""What makes raw examples the network's inputs; it travels with the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.rows import Rows
from pipeline.data.splits import Channels
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import load_record, save_record

PREPROCESSING_JSON = "preprocessing.json"


@dataclass(frozen=True)
class Preprocessing:
    """The content of preprocessing.json: how an input for the network is made, in this order.

    processor: the configuration of the processor of transformers whose answer is the input; None:
        none.
    transform: `_target_` and arguments of the callable whose answer is the input; None: none.
    size, resize, colour: of images that are read from files; None: as they are.
    columns: {input: the columns or keys that it is made of}; empty: not of columns.
    channels: {"inputs" or "inputs.NAME": its channels' mean and standard deviation}, of bytes as
        x/255; an input without an entry is read as it is, bytes as x/255.
    """

    processor: Mapping[str, Any] | None = None
    transform: Mapping[str, Any] | None = None
    size: tuple[int, int] | None = None
    resize: str | None = None
    colour: str | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    channels: Mapping[str, Channels] = field(default_factory=dict)


def load_preprocessing(folder: Path) -> Preprocessing:
    """The preprocessing that was saved with a network. Raises LowRankError where there is none, or
    a damaged one."""
    remedy = "give the folder of a network that this project saved"
    return load_record(folder / PREPROCESSING_JSON, Preprocessing, remedy)


def save_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    """Writes preprocessing.json beside a network."""
    save_record(folder / PREPROCESSING_JSON, preprocessing)


def constant_channels(
    mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]
) -> Channels:
    """The user's constants, one for each channel of examples (C, …), or one for all of them."""
    count = shape[0] if shape else 1
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, count):
            raise LowRankError(
                f"data.{name}={list(values)}: {len(values)} constants, and the examples, of shape "
                f"{list(shape)}, have {count} channels; give one for each, or one for all"
            )
    return Channels(
        tuple(mean) * (count if len(mean) == 1 else 1), tuple(std) * (count if len(std) == 1 else 1)
    )


def channel_statistics(inputs: Rows) -> Channels:
    """Mean and standard deviation of each channel (dimension 1), in float64; uint8 counts as x/255.

    A channel without variation gets the deviation 1, so that it is only centred.
    """
    channels = inputs.shape[0] if inputs.shape else 1
    moments = (_of_bytes if inputs.dtype == torch.uint8 else _of_values)(inputs, channels)
    return Channels(
        tuple(mean for mean, _ in moments),
        tuple(deviation if deviation > 0 else 1.0 for _, deviation in moments),
    )


def _of_bytes(inputs: Rows, channels: int) -> list[tuple[float, float]]:
    """Exact, and without eight bytes a pixel."""
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for piece in inputs.pieces():
        for number, channel in enumerate(_by_channel(piece)):
            counts[number] += torch.bincount(channel.flatten(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    found = []
    for weights in counts / counts.sum(1, keepdim=True):
        mean = float(weights @ levels)
        found.append((mean, float(weights @ (levels - mean) ** 2) ** 0.5))
    return found


def _of_values(inputs: Rows, channels: int) -> list[tuple[float, float]]:
    """Piece by piece, joined as by Chan, Golub and LeVeque (1983)."""
    found = [(0, 0.0, 0.0)] * channels  # values, their mean, their variance
    for piece in inputs.pieces():
        for number, channel in enumerate(_by_channel(piece)):
            values = channel.double()
            more, here = values.numel(), float(values.mean())
            spread = float(values.var(correction=0))
            count, mean, variance = found[number]
            if count:
                total, apart = count + more, here - mean
                between = apart**2 * count * more / total
                spread = (variance * count + spread * more + between) / total
                here = mean + apart * more / total
            found[number] = (count + more, here, spread)
    return [(mean, variance**0.5) for _, mean, variance in found]


def _by_channel(piece: Tensor) -> Tensor:
    return piece.transpose(0, 1) if piece.dim() > 1 else piece.unsqueeze(0)
