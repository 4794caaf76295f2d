"""What an inner dimension is: its width, and the layers that make, pass on and read its
channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.lowrank.network.targets import Target

Role = Literal["makes", "passes", "reads"]
Layout = Literal["blocks", "strided"]


@dataclass(frozen=True)
class Member:
    """One layer of an inner dimension.

    layer: its name.
    role: "makes" the channels (they are its outputs), "reads" them (its inputs), or "passes" each
        of them on by itself (a norm in eval mode, a depthwise convolution).
    each: how many of the layer's own channels stand for one of the dimension: 2 where a layer makes
        gate and value of a channel, height·width where an image was flattened.
    layout: where these are: side by side ("blocks": j·each + i), or a whole width apart
        ("strided": i·width + j).
    """

    layer: str
    role: Role
    each: int = 1
    layout: Layout = "blocks"

    def places(self, channels: Tensor, width: int) -> Tensor:
        """(n, each) int64: the layer's own channels that stand for the `channels` (n,) of a
        dimension of this width."""
        own = torch.arange(self.each)
        if self.layout == "blocks":
            return channels[:, None] * self.each + own
        return channels[:, None] + own * width

    def index(self, channels: Tensor, width: int) -> Tensor:
        """(n · each,) the same channels in the order in which a layer that has no others holds
        them."""
        places = self.places(channels, width)
        return (places if self.layout == "blocks" else places.T).flatten()

    def cost(self, target: Target, kept: int, width: int) -> tuple[int, int]:
        """(parameters, multiply-accumulates of an example) of the layer where `kept` of the `width`
        channels are left."""
        bias = target.bias_params if self.role == "reads" else 0
        params = (target.params - bias) * kept // width + bias
        return params, target.macs * kept // width


@dataclass(frozen=True)
class InnerDimension:
    """Channels between layers, each of which the layers between them treat by itself.

    width: how many there are.
    members: the layers that make, pass on and read them; those that are targets first.
    targets: how many of the members are targets.
    other_params, other_bytes: what one channel takes in the members that are no targets.
    """

    width: int
    members: tuple[Member, ...]
    targets: int
    other_params: int = 0
    other_bytes: int = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    @property
    def layers(self) -> tuple[Member, ...]:
        """The members that are targets."""
        return self.members[: self.targets]

    @property
    def readers(self) -> tuple[Member, ...]:
        """The members that read the channels."""
        return tuple(member for member in self.members if member.role == "reads")

    def of(self, role: Role) -> list[str]:
        """The names of the members of one role."""
        return [member.layer for member in self.members if member.role == role]

    def __str__(self) -> str:
        return f"{', '.join(self.of('makes'))} → {', '.join(self.of('reads'))}"
