"""Normalisation as a part of the network: a graph that takes examples as they are stored."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Constants:
    """Mean and standard deviation of each channel (dimension 1), in the unit in which bytes are
    0…1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Normalised(nn.Module):
    """A network that reads stored examples: (x − mean)/std by channel, bytes as x/255.

    channels: {"inputs", or "inputs.NAME" of several: its constants}; an input without an entry is
        only converted.
    """

    def __init__(self, network: nn.Module, channels: Mapping[str, Constants]) -> None:
        super().__init__()
        self.network = network
        self.places = {key: i for i, key in enumerate(channels)}
        for key, constants in channels.items():
            for name, values in (("mean", constants.mean), ("std", constants.std)):
                self.register_buffer(f"{name}_{self.places[key]}", torch.tensor(values))

        def forward(*given: Tensor, **named: Tensor) -> object:
            first = [self.ready("inputs", x) for x in given]
            others = {key: self.ready(f"inputs.{key}", x) for key, x in named.items()}
            return self.network(*first, **others)

        known = inspect.signature(network.forward)
        forward.__signature__ = known  # type: ignore[attr-defined]
        self.forward = forward

    def ready(self, name: str, x: Tensor) -> Tensor:
        """One input as the network reads it."""
        if x.dtype == torch.uint8:
            x = x / 255.0
        place = self.places.get(name)
        if place is None:
            return x
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, std = (self.get_buffer(f"{key}_{place}").view(shape) for key in ("mean", "std"))
        return (x - mean) / std
