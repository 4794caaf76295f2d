"""The proof of an inner dimension is to do what a method will do to it: about half of the channels
are left out and the others permuted, and the outputs must be those of the network that only ignores
the same ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.lowrank.network.calling import call
from pipeline.lowrank.network.costs import layer_macs, trace_positions
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.inner.narrowing import narrowed, outer_first, silenced
from pipeline.lowrank.network.opening import Structure, replace_

_CLOSE = 1e-4  # of what the ignored half contributes: so much may rounding differ by
_MANY = 32  # channels, of which one draw proves enough
_COUNTS = 1e-9  # of the outputs: less of a contribution proves nothing

_Change = Callable[[nn.Module, Member, Tensor, int], nn.Module]


class Proofs:
    """Trials on a network of generic float64 numbers, in eval mode, with its packed modules open,
    which is as it was after each of them."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        self.model, self.example = model, example
        self._dense = self._outputs({})
        self._why: dict[str, str] = {}

    def run(
        self, proposed: Mapping[str, Sequence[InnerDimension]]
    ) -> tuple[dict[str, InnerDimension], dict[str, str]]:
        """({name: the first of its proposals that holds}, {name: why none of them does}).

        Those of layers whose names differ in numbers alone (of the blocks of a network) are tried
        together at first, so that most need no trial of their own. Where the first, the middle and
        the last of them fail, each alone, the others are left with them.
        """
        alike: dict[str, list[str]] = {}
        for name in proposed:
            alike.setdefault(re.sub(r"\d+", "#", name), []).append(name)
        found: dict[str, InnerDimension] = {}
        for names in alike.values():
            own = {name: proposed[name] for name in names}
            found |= self._least(self._together(own) or self._apart(own))
        return found, {name: self._why[name] for name in proposed if name not in found}

    def macs_beside(self, dimension: InnerDimension) -> int:
        """The multiply-accumulates that each channel of a proven dimension takes in layers that are
        no members of it: what is gone of them where half of the channels are."""
        kept = dimension.drawn(dimension.half, torch.Generator().manual_seed(0))
        with self._replaced(self._changed([dimension], [kept], narrowed)):
            half = self._macs()
        members = {member.layer for member in dimension}
        gone = sum(macs - half[name] for name, macs in self._macs().items() if name not in members)
        return gone // (dimension.width - kept.shape[-1])

    def _macs(self) -> dict[str, int]:
        return layer_macs(self.model, trace_positions(self.model, self.example))

    def _together(
        self, proposed: Mapping[str, Sequence[InnerDimension]]
    ) -> dict[str, InnerDimension]:
        """All of them, by the first of their proposals that holds for all; {} where none does."""
        for place in range(min(len(one) for one in proposed.values())):
            tried = {name: one[place] for name, one in proposed.items()}
            reason = self._why_not(list(tried.values()))
            if reason is None:
                return tried
            if len(tried) == 1:
                self._why.setdefault(next(iter(tried)), reason)
        return {}

    def _apart(self, proposed: Mapping[str, Sequence[InnerDimension]]) -> dict[str, InnerDimension]:
        """Those that hold, where not all of them do."""
        names = list(proposed)
        if len(names) == 1:
            return {}
        found: dict[str, InnerDimension] = {}
        ends = list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
        for name in ends:
            found |= self._together({name: proposed[name]})
        rest = {name: one for name, one in proposed.items() if name not in ends}
        if found and rest:
            return found | self._halves(rest)
        self._why |= dict.fromkeys(rest, f"as {ends[0]}: {self._why.get(ends[0])}")
        return found

    def _halves(
        self, proposed: Mapping[str, Sequence[InnerDimension]]
    ) -> dict[str, InnerDimension]:
        if (found := self._together(proposed)) or len(proposed) == 1:
            return found
        items, half = list(proposed.items()), len(proposed) // 2
        return self._halves(dict(items[:half])) | self._halves(dict(items[half:]))

    def _least(self, proven: dict[str, InnerDimension]) -> dict[str, InnerDimension]:
        """The same dimensions without what is counted by chance: what may stay as it is."""
        counted = [
            (re.sub(r"\d+", "#", member.layer), key)
            for dimension in proven.values()
            for member in dimension
            for key in member.sizes
        ]
        for layer, key in dict.fromkeys(counted):
            fewer = {n: _uncounted(d, layer, key) for n, d in proven.items()}
            if self._why_not(list(fewer.values())) is None:
                proven = fewer
        return proven

    def _why_not(self, dimensions: Sequence[InnerDimension]) -> str | None:
        """Why not all of these dimensions are proven; None where they are."""
        reasons = (self._reason(dimensions, seed) for seed in range(_draws(dimensions)))
        return next((one for one in reasons if one is not None), None)

    def _reason(self, dimensions: Sequence[InnerDimension], seed: int) -> str | None:
        """`_why_not`, as one draw of channels shows it."""
        generator = torch.Generator().manual_seed(seed)
        first = seed if len(dimensions) > 1 else 0  # one alone keeps half
        counts = [_kept(one, n) for n, one in enumerate(dimensions, first)]
        kept = [one.drawn(count, generator) for one, count in zip(dimensions, counts, strict=True)]
        try:
            small = self._outputs(self._changed(dimensions, kept, narrowed))
        except Exception as error:  # whatever other people's code raises
            text = " ".join(str(error).split())
            return f"with half of its channels the network fails ({text[:120]})"
        ignoring = self._outputs(self._changed(dimensions, kept, silenced, readers=True))
        effect, length = _distance(ignoring, self._dense), _distance(self._dense, None)
        if not effect > _COUNTS * length:
            return "on the example its channels do not change the outputs"
        if not _distance(small, ignoring) <= _CLOSE * effect:
            return "with half of its channels the network is not the one that ignores that half"
        return None

    def _changed(
        self,
        dimensions: Sequence[InnerDimension],
        kept: Sequence[Tensor],
        change: _Change,
        *,
        readers: bool = False,
    ) -> dict[str, nn.Module]:
        changed: dict[str, nn.Module] = {}
        for dimension, channels in zip(dimensions, kept, strict=True):
            for member in dimension.readers if readers else dimension:
                # A layer may make the channels of one dimension and read those of another.
                name = member.layer
                module = changed.get(name) or member.module(self.model)
                changed[name] = change(module, member, channels, dimension.width)
        return changed

    @contextmanager
    def _replaced(self, changed: Mapping[str, nn.Module]) -> Iterator[None]:
        before = Structure(self.model)
        try:
            for name in outer_first(changed):
                replace_(self.model, name, changed[name])
            yield
        finally:
            before.restore_()

    @torch.no_grad()
    def _outputs(self, changed: Mapping[str, nn.Module]) -> list[Tensor]:
        """What the network gives with other modules in some places."""
        with self._replaced(changed), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            output = call(self.model, self.example)
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        return [leaf for leaf in leaves if leaf.is_floating_point()]


def _kept(dimension: InnerDimension, place: int) -> int:
    """How many channels a trial keeps: half of them and, of every other dimension of one trial,
    another number, since what needs the same number in all of them would hold together alone."""
    half, step = dimension.half, dimension.step
    return half if place % 2 == 0 else half - step if half > step else half + step


def _uncounted(dimension: InnerDimension, layer: str, key: str) -> InnerDimension:
    """The dimension without one thing that a module counts, in all modules of such a name."""

    def without(member: Member) -> Member:
        if re.sub(r"\d+", "#", member.layer) != layer:
            return member
        return replace(member, sizes={k: n for k, n in member.sizes.items() if k != key})

    members = [without(member) for member in dimension]
    left = [member for member in members if member.role != "counts" or member.sizes]
    return replace(dimension, members=tuple(left))


def _draws(dimensions: Sequence[InnerDimension]) -> int:
    """Of few channels a permuted half may be one for which something that is no inner dimension
    gives the same by chance."""
    return 1 if min(one.width for one in dimensions) >= _MANY else 4


def _distance(one: Sequence[Tensor], other: Sequence[Tensor] | None) -> float:
    """The Euclidean distance of all outputs together, or their length; inf where shapes differ."""
    others = [torch.zeros_like(x) for x in one] if other is None else other
    if [x.shape for x in one] != [x.shape for x in others]:
        return float("inf")
    squares = [float((a - b).square().sum()) for a, b in zip(one, others, strict=True)]
    return math.sqrt(sum(squares))
