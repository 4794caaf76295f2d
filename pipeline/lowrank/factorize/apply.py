"""Acting on a plan: `apply_` only executes what was decided."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from pipeline.lowrank.analysis.analysis import Analysis, analyze
from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.analysis.tables import Table, ranks_text
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.layer import LayerReport
from pipeline.lowrank.factorize.layers import built_layers
from pipeline.lowrank.factorize.narrow import Narrowed
from pipeline.lowrank.factorize.proof import put_in_
from pipeline.lowrank.forms.dense import dense_of, multiplied_out
from pipeline.lowrank.forms.surgery import check_ranks_fit, layer_at
from pipeline.lowrank.methods.interpolative import is_narrower
from pipeline.lowrank.network.by_hand import stack_candidates
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.executing import Executor
from pipeline.lowrank.network.finding import find_targets
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.planning.checking import checked, with_eliminations
from pipeline.lowrank.planning.plan import DENSE, Plan
from pipeline.lowrank.typed import keywords_checked


@dataclass(frozen=True)
class Compression:
    """What `apply_` did.

    network: the model that was given, now factorized (a new object only where its root itself was
        the one target).
    plan: the plan, with what is expected of it computed again.
    layers: a report for each factorized layer; empty with `certified=False`.
    differences: a line for each layer of which an edited plan expected something else.
    ran: whether one forward pass of an example proved that the network runs.
    narrowed: {inner dimension: what became of it} of those that are narrower now.
    """

    network: nn.Module
    plan: Plan
    layers: Mapping[str, LayerReport]
    differences: tuple[str, ...] = ()
    ran: bool = False
    narrowed: Mapping[str, Narrowed] = field(default_factory=dict, repr=False)

    @property
    def totals(self) -> Totals:
        """Costs of the whole compressed network."""
        return self.plan.expected.planned

    def widened(self, network: nn.Module) -> nn.Module:
        """A copy of the compressed network, of the same function, whose narrowed layers have all
        channels again, with zeros; layer by layer it can be compared with the dense one, as
        `certify` does. The network itself where none is narrowed."""
        if not self.narrowed:
            return network
        network = copy.deepcopy(network)
        for one in self.narrowed.values():
            network = one.widen_(network)
        return network

    def __repr__(self) -> str:
        dense, now = self.plan.expected.dense, self.totals
        return f"Compression({len(self.layers)} layers, {dense.params:,} → {now.params:,} params)"

    def __str__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        rows = [
            [
                name or "(root)",
                layer.method,
                ranks_text(layer.ranks),
                f"{layer.params / layer.dense_params:.0%}",
                f"{layer.predicted_relative_error:.4f}",
                f"{layer.measured_relative_error:.4f}",
                f"{layer.upper_bound:.4f}",
            ]
            for name, layer in self.layers.items()
        ]
        dense, now = self.plan.expected.dense, self.totals
        return Table(
            title=f"factorized {len(rows)} layers; errors in the metric {self.plan.metric}",
            columns=["layer", "method", "ranks", "kept", "predicted", "measured", "bound"],
            rows=rows,
            notes=[
                f"network: {dense.params:,} → {now.params:,} parameters, "
                f"{dense.macs:,} → {now.macs:,} MACs",
                *self.differences,
            ],
        )


@keywords_checked
def apply_(
    model: nn.Module,
    plan: Plan,
    analysis: Analysis | None = None,
    *,
    example: object = None,
    certified: bool = True,
    spill: Path | None = None,
    executor: Executor | None = None,
) -> Compression:
    """Replaces the planned layers of `model` in place and certifies each of them; one forward pass
    of an example, in eval mode, proves that the network runs with them.

    analysis: the analysis that the plan was made from. A plan from `plan` knows it; for a plan that
        was read from a file it is made again in the metric `weight`, and must be given in the
        others.
    example: a batch of one, which proves that the network runs, and counts positions where the
        analysis is made again (default: that of the plan, which one from a file does not have).
    certified: False measures no errors and makes no reports, which halves the time of a large
        network.
    spill: a folder for the factors of each layer as they come, which then take no memory; it must
        stay for as long as the network is used. Layers that it holds already, with their reports,
        are taken up from there: it must be of this network and this plan.
    executor: who makes the factors, layer by layer; None: this process. With `spill` the folder
        must be one that its processes and this one share, and factors pass through it alone.
        Layers of inner dimensions that are narrowed are made here.

    Raises LowRankError when the plan does not fit the model, when a measured error is outside its
    certified bounds, or when the network fails with a factorized layer, which is named; the model
    is then as it was.
    """
    analysis = analysis or plan.analysis
    _check_fit(model, plan, analysis)
    if analysis is None:
        analysis = _analyzed(model, plan, example)
        _check_fit(model, plan, analysis)  # which knows how stacks are stored
    plan = with_eliminations(plan, model, analysis)
    plan, told = checked(plan, analysis, analysis.whitened(model))
    narrower = dict(_narrowed(plan, model, analysis))
    built: dict[str, nn.Module] = {}
    reports: dict[str, LayerReport] = {}
    for dimension in steps(narrower.values(), "inner dimensions"):
        with torch.inference_mode(False):
            layers = dimension.built()
        built |= layers
        if certified:
            reports |= dimension.reports(layers)
    others, told_of = built_layers(model, plan, analysis, certified, spill, executor)
    built |= others
    reports |= told_of
    reports = {name: reports[name] for name in plan.layers if name in reports}
    given = example is not None
    together = [list(dimension.dense) for dimension in narrower.values()]
    model, ran = put_in_(
        model, built, example if given else analysis.example, given=given, together=together
    )
    return Compression(model, plan, reports, tuple(told), ran, narrower)


def _narrowed(plan: Plan, model: nn.Module, analysis: Analysis) -> Iterator[tuple[str, Narrowed]]:
    for name, width in plan.widths.items():
        assert plan.narrowing is not None
        yield name, Narrowed(plan, name, width, model, analysis)


def _analyzed(model: nn.Module, plan: Plan, example: object) -> Analysis:
    if plan.metric != "weight":
        raise LowRankError(
            f"the plan was made in the metric {plan.metric!r}: give the analysis it was made from"
        )
    if example is None:
        raise LowRankError("a plan from a file needs its analysis, or an example (a batch of one)")
    # Without what the plan skips: of every other target it has to say something.
    with multiplied_out(model) as (network, _), opened(network):
        layers, _ = find_targets(network, stacks=stack_candidates(network))
    skipped = tuple(_literal(name) for name in layers if name in plan.skipped)
    return analyze(model, example, chosen=AnalysisOptions(metric="weight", exclude=skipped))


def _literal(name: str) -> str:
    """A shell-style pattern that matches this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _check_fit(model: nn.Module, plan: Plan, analysis: Analysis | None) -> None:
    """The whole plan is checked before the first layer is built, but for stacks that no analysis
    knows yet."""
    for name, layer in plan.layers.items():
        module = layer_at(model, name)
        target = analysis.targets.get(name) if analysis else None
        if target is not None:
            module = layer_at(model, name, in_first=target.in_first, split=target.split)
        elif isinstance(module, Stack):
            continue
        if layer.method != DENSE and not is_narrower(layer.method):
            check_ranks_fit(name, dense_of(module), plan.methods[layer.method].form, layer.ranks)
