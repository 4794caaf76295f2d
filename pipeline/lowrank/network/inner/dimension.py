"""What an inner dimension is: its width, and the layers that make, pass on and read its
channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.lowrank.network.opening import module_at
from pipeline.lowrank.network.targets import Costs, Target

_ALIGNED = 8  # channels

Role = Literal["makes", "passes", "reads", "counts"]


@dataclass(frozen=True)
class Member:
    """One layer of an inner dimension.

    layer: its name.
    role: "makes" the channels (they are its outputs), "reads" them (its inputs), "passes" each of
        them on by itself (a norm in eval mode, a depthwise convolution), or "counts" them: a module
        around such layers whose own code says how many there are, as attention counts its heads.
    parts, each: which of the layer's own channels stand for channel j: those from j·each on, `each`
        of them side by side, in each of `parts` parts of the layer. Two parts where a layer makes
        gate and value of all channels one after the other; `each` is height·width where an image
        was flattened, and the size of a head where the channels are heads.
    sizes: of one that counts them: {attribute: how many it counts for each channel}; a whole
        number, or a tensor of the module's own with such a dimension.
    in_first: of a stack, whether it is stored with the inputs before the outputs.
    """

    layer: str
    role: Role
    parts: int = 1
    each: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)
    in_first: bool = False

    def module(self, model: nn.Module) -> nn.Module:
        """The layer in a network, also inside of a packed module, or a stack. Raises AttributeError
        where it has none."""
        return module_at(model, self.layer, in_first=self.in_first)

    @property
    def count(self) -> int:
        """How many of the layer's own channels stand for one of the dimension."""
        return self.parts * self.each

    def places(self, channels: Tensor, width: int) -> Tensor:
        """(…, n, count) int64: the layer's own channels that stand for the `channels` (…, n) of a
        dimension of this width; in a stack they are counted in each group anew."""
        device = channels.device
        part = torch.arange(self.parts, device=device)[:, None] * (width * self.each)
        own = part + torch.arange(self.each, device=device)
        return channels[..., None] * self.each + own.flatten()

    def index(self, channels: Tensor, width: int) -> Tensor:
        """(…, n · count) the same channels in the order in which a layer that has no others holds
        them."""
        return self.ordered(self.places(channels, width))

    def ordered(self, by_channel: Tensor) -> Tensor:
        """(…, n, count) → (…, n · count): what stands for each channel, as the layer holds it."""
        apart = by_channel.reshape(*by_channel.shape[:-1], self.parts, self.each)
        found: Tensor = apart.transpose(-3, -2).flatten(-3)
        return found

    def cost(self, target: Target, kept: int, width: int) -> tuple[int, int]:
        """(parameters, multiply-accumulates of an example) of the layer where `kept` of the `width`
        channels are left."""
        bias = target.bias_params if self.role == "reads" else 0
        params = (target.params - bias) * kept // width + bias
        return params, target.macs * kept // width

    def narrowed(self, target: Target, kept: int, width: int) -> Target:
        """The layer as a target where `kept` of the `width` channels are left: one that makes or
        reads them."""
        side = 1 if self.role == "reads" else 0
        shape = list(target.shape)
        shape[side] = shape[side] * kept // width
        present = None
        if target.present is not None:
            present = Costs(*self.cost(target, kept, width))
        return replace(target, shape=tuple(shape), present=present)


@dataclass(frozen=True)
class InnerDimension:
    """Channels between layers, each of which the layers between them treat by itself.

    Of stacks of one matrix an expert each expert has channels of its own, as many as the others,
    and keeps other ones: they are (groups, n) there, and (n,) in a dimension without groups.

    width: how many there are, of each group.
    members: the layers that make, pass on and read them, and the modules that count them; those
        that are targets first.
    targets: how many of the members are targets.
    other_params, other_bytes: what one channel takes in the members that are no targets.
    other_macs: what one channel takes in layers that are no members, since they run once for each
        of the channels, as a convolution that pools each head by itself; of one example.
    groups: how many experts there are; 1 where all layers are plain ones.
    """

    width: int
    members: tuple[Member, ...]
    targets: int
    other_params: int = 0
    other_bytes: int = 0
    other_macs: int = 0
    groups: int = 1

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    @property
    def step(self) -> int:
        """Of what number widths are multiples: torch's products by groups, which experts run by,
        want rows of multiples of 16 bytes, in number formats of two bytes too."""
        aligned = math.gcd(self.width, _ALIGNED) if self.groups > 1 else 1
        return aligned if aligned < self.width else 1

    @property
    def half(self) -> int:
        """Half of the width, or what is just below it and a multiple of the step."""
        return self.width // 2 // self.step * self.step or self.width // 2

    @property
    def layers(self) -> tuple[Member, ...]:
        """The members that are targets."""
        return self.members[: self.targets]

    @property
    def readers(self) -> tuple[Member, ...]:
        """The members that read the channels."""
        return tuple(member for member in self.members if member.role == "reads")

    @property
    def ends(self) -> tuple[Member, ...]:
        """The members that are targets and make or read the channels."""
        return tuple(member for member in self.layers if member.role in ("makes", "reads"))

    def of(self, role: Role) -> list[str]:
        """The names of the members of one role."""
        return [member.layer for member in self.members if member.role == role]

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` of the channels, by chance, of each group its own."""
        draws = [torch.randperm(self.width, generator=generator) for _ in range(self.groups)]
        return draws[0][:count] if self.groups == 1 else torch.stack(draws)[:, :count]

    def __str__(self) -> str:
        return f"{', '.join(self.of('makes'))} → {', '.join(self.of('reads'))}"
