"""The clock of a plan: what the network and its layers take on this device, as they are and as
their candidates."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pipeline.lowrank.forms.base import Form
from pipeline.lowrank.forms.dense import dense_of
from pipeline.lowrank.forms.running import lay_out
from pipeline.lowrank.forms.surgery import unfilled
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.calling import evaluating
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.targets import Target, is_multiplied_out
from pipeline.lowrank.planning.timing.calls import Calls, calls_of, signature
from pipeline.lowrank.planning.timing.device import device_of
from pipeline.lowrank.planning.timing.experts import described, keeper_of, keepers, narrower
from pipeline.lowrank.planning.timing.measuring import Stopwatch, take_turns
from pipeline.lowrank.planning.timing.steps import step_of
from pipeline.lowrank.planning.timing.table import Sizes, Table, measured_table, remembered
from pipeline.lowrank.planning.timing.whole import NetworkTime, Ratio
from pipeline.lowrank.planning.timing.workload import Workload

_LAYOUTS = {"as stored": torch.contiguous_format, "channels last": torch.channels_last}


class Clock:
    """Times of one network under one workload, in nanoseconds.

    A layer is timed in the network, where it finds its inputs and the caches as they are there;
    what it may become is timed beside it, alone, and counts by the ratio of the two.

    model: the network.
    targets: those whose candidates are to be timed.
    batch: what the model takes, as of `Workload.run`.
    layout: the memory format of 2-D convolutions in which layers and candidates are timed; None:
        the one in which the network is the fastest. `total` is its time in that one anyway.
    in_network: what factorized and narrowed layers take in the network, relative to what the ratio
        says; 1 until it was measured (`factorize.latency`).
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Mapping[str, Target],
        workload: Workload,
        batch: Any,
        layout: str | None = None,
    ) -> None:
        self.workload, self.batch, self.in_network = workload, batch, 1.0
        self.device = device_of(next(p.device for p in model.parameters()))
        self.tables: dict[str, Table] = {}
        with evaluating(model):
            self.network = self._timed(model, targets)
            times = self.network.nanoseconds
            self.fastest = min(times, key=lambda name: times[name])
            self.layout = layout or self.fastest
            self.calls = self._calls(_laid_out(model, self.layout), targets)
        self.untimed = {n: why for n in targets if (why := self._why_untimed(n))}
        self.keepers = {h: names for h, names in keepers(targets).items() if h in self.calls}
        # The last of the tensors that a module keeps stands for all of the module.
        self.experts = {names[-1]: holder for holder, names in self.keepers.items()}
        self.total = times[self.fastest]
        self.surplus = times[self.layout] - self.total
        timed = [n for n in targets if n not in self.untimed or n in self.experts]
        self.dense = {n: self.as_it_is(n) for n in timed}
        self.other = times[self.layout] - sum(self.dense.values())

    @property
    def total_ms(self) -> float:
        """Milliseconds of the dense network."""
        return self.total * 1e-6

    def run_of(self, model: nn.Module) -> Callable[[], object]:
        """One call of this or another network under the workload."""
        return self.workload.run(model, self.batch)

    def side_by_side(
        self, name: str, dense: nn.Module, build: Callable[[], nn.Module]
    ) -> dict[str, float]:
        """{memory format: the time of another network, of this name, in it}, relative to that of
        the dense one in its fastest."""
        what = f"{self.network.what} beside {name}, each memory format"

        def measure() -> Ratio:
            other = build()
            found = {layout: _laid_out(other, layout) for layout in self.network.nanoseconds}
            networks = [_laid_out(dense, self.fastest), *found.values()]
            watches = [Stopwatch(self.run_of(one), _pieces(one)) for one in networks]
            take_turns(watches)
            whole, *others = (watch.whole for watch in watches)
            return Ratio(what, whole, dict(zip(found, others, strict=True)))

        found = remembered([what], self.device, Ratio, measure)
        return {layout: time / found.dense for layout, time in found.others.items()}

    @cached_property
    def step(self) -> int:
        """The step in which the time of the costliest layer goes up with its outputs."""
        called = [name for name in self.dense if name in self.calls]
        name = max(called, key=lambda n: self.dense[n], default=None)
        return 1 if name is None else step_of(name, self.calls[name], self.device)

    def as_it_is(self, name: str) -> int:
        """A layer in the network; 0 where it is not called, or not by itself."""
        return self.network.layers[self.layout].get(self.experts.get(name, name), 0)

    def times(self, dimension: InnerDimension) -> bool:
        """Whether it can time what becomes of a dimension."""
        called = all(one.layer in self.calls for one in dimension.layers)
        return called or keeper_of(dimension, self.keepers) is not None

    def factorized(self, name: str, form: Form, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of one form with their times."""
        table = self._factors(name, self.calls[name], form, [c.ranks for c in candidates])
        return [replace(c, latency=self._changed(name, table.share(c.ranks))) for c in candidates]

    def further(
        self,
        dimension: InnerDimension,
        member: Member,
        form: Form,
        candidates: Sequence[Candidate],
    ) -> list[Candidate]:
        """Candidates of one form for a layer that keeps fewer channels, with their times; their
        ranks are (width, rank, …), of one width."""
        width = candidates[0].ranks[0]
        calls = self.calls[member.layer].narrowed(member, width, dimension.width)
        table = self._factors(member.layer, calls, form, [c.ranks[1:] for c in candidates])
        narrower = self.narrowed(dimension, member, width)
        return [replace(c, latency=round(narrower * table.share(c.ranks[1:]))) for c in candidates]

    def _factors(self, name: str, calls: Calls, form: Form, ranks: Sequence[Sizes]) -> Table:
        """The table of a layer's factors of one form, at some ranks."""
        axes = tuple(tuple(sorted(set(column))) for column in zip(*ranks, strict=True))

        def build(ranks: Sizes) -> Callable[[], object]:
            layer = unfilled(name, dense_of(calls.layer), form, ranks)
            return calls.of(_with_numbers(layer).eval())

        return self._table(calls, f"{form.name} at ranks", axes, build)

    def narrowed(self, dimension: InnerDimension, member: Member, width: int) -> int:
        """A layer of an inner dimension that keeps so many channels; all experts together."""
        holder = keeper_of(dimension, self.keepers)
        name = member.layer if holder is None else self.experts.get(member.layer, "")
        calls = self.calls.get(name)
        if calls is None:
            return 0
        of = f"{dimension.width}" + (f" of {dimension.groups} experts" if holder else "")
        part = f"{member.role} {member.parts}×{member.each}, channels of {of}"
        # With all of them: a channel less than those is hardly faster.
        axis = (*range(8, dimension.width, 8), dimension.width)

        def build(kept: Sizes) -> Callable[[], object]:
            return narrower(calls, holder, dimension, member, kept[0]).as_it_is()

        table = self._table(calls, part, (axis,), build)
        return self._changed(member.layer, table.share((width,)))

    def saved(self, dimension: InnerDimension, width: int) -> int:
        """What is saved in layers that are no targets, such as norms, where so many channels are
        kept."""
        if keeper_of(dimension, self.keepers) is not None:
            return 0
        others = dimension.members[dimension.targets :]
        found = (self.as_it_is(one.layer) - self.narrowed(dimension, one, width) for one in others)
        return sum(max(0, time) for time in found)

    def _changed(self, name: str, share: float) -> int:
        return round(self.as_it_is(name) * share * self.in_network)

    def _timed(self, model: nn.Module, targets: Mapping[str, Target]) -> NetworkTime:
        told = f"{model!r} {sorted(targets)}{described(model, targets)}"
        named = hashlib.sha256(told.encode()).hexdigest()[:16]
        given = signature(self.batch)
        what = f"network {type(model).__name__} {named}, {self.workload}, given {given}"

        def measure() -> NetworkTime:
            layouts = ["as stored"]
            if any(isinstance(module, nn.Conv2d) for module in model.modules()):
                layouts.append("channels last")
            networks = [_laid_out(model, layout) for layout in layouts]
            with ExitStack() as stack:
                watches = []
                for network in networks:
                    calls = self._calls(network, targets)
                    stack.enter_context(opened(network))
                    layers = {name: one.layer for name, one in calls.items()}
                    pieces = {**_pieces(network), **layers}
                    watches.append(Stopwatch(self.run_of(network), pieces))
                take_turns(watches)
            found = dict(zip(layouts, watches, strict=True))
            return NetworkTime(
                what,
                self.device,
                {layout: watch.whole for layout, watch in found.items()},
                {layout: watch.layers() for layout, watch in found.items()},
            )

        return remembered([what, "each memory format"], self.device, NetworkTime, measure)

    def _calls(self, model: nn.Module, targets: Mapping[str, Target]) -> dict[str, Calls]:
        """Of the targets and of the small layers between them, such as norms."""
        own = {n: m.parameters() for n, m in _pieces(model).items()}
        between = [name for name, parameters in own.items() if any(True for _ in parameters)]
        names = dict.fromkeys([*targets, *between, *keepers(targets)])
        return calls_of(model, names, self.run_of(model))

    def _why_untimed(self, name: str) -> str | None:
        if name not in self.calls:
            return "its time cannot be measured apart from its module's"
        if is_multiplied_out(self.calls[name].layer):
            return "its factors are multiplied out in each call, which takes time"
        return None

    def _table(
        self,
        calls: Calls,
        form: str,
        axes: tuple[Sequence[int], ...],
        build: Callable[[Sizes], Callable[[], object]],
    ) -> Table:
        what = f"{calls.what}: {form}"
        key = f"{what} {axes}"
        if key not in self.tables:
            alone = calls.as_it_is()
            self.tables[key] = measured_table(what, self.device, axes, build, alone)
        return self.tables[key]


def _pieces(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold no others."""
    return {n: m for n, m in model.named_modules() if not any(True for _ in m.children())}


def _laid_out(model: nn.Module, layout: str) -> nn.Module:
    model = copy.deepcopy(model).eval()
    lay_out(model, _LAYOUTS[layout])
    return model


@torch.no_grad()
def _with_numbers(layer: nn.Module) -> nn.Module:
    """Uninitialised weights may be denormal, with which processors are slow."""
    for parameter in layer.parameters():
        if parameter.is_floating_point():
            parameter.fill_(0.01)
    return layer
