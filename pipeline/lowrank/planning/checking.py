"""A plan that was read from a file, checked against its network: what is expected of it is computed
again, and only what a person edited needs more than the file says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods import Method, check_method_fits, exact_candidate
from pipeline.lowrank.methods.candidate import Candidate, dense_candidate
from pipeline.lowrank.methods.interpolative import (
    after_narrowing,
    further_candidate,
    is_narrower,
)
from pipeline.lowrank.network.inner.dimension import Member
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.expected import differences, expected_of
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.plan import DENSE, ExpectedLayer, Plan, PlannedLayer


def with_eliminations(plan: Plan, model: nn.Module, analysis: Analysis) -> Plan:
    """The plan with the orders of the channels of the inner dimensions that it narrows, which a
    plan from a file does not have as tensors; and where a person edited such a dimension, with its
    errors and the spectra of the layers that are factorized further."""
    widths, narrowing = plan.widths, plan.narrowing
    if narrowing is None or not widths:
        return plan
    as_made = [name for name in widths if _is_as_made(plan, narrowing, name)]
    edited = {name: width for name, width in widths.items() if name not in as_made}
    further = {
        name: [width]
        for name, width in edited.items()
        if any(after_narrowing(plan.layers[m.layer].method) for m in narrowing.found[name].layers)
    }
    known = narrowing.with_orders(as_made).eliminated(model, analysis, edited)
    return replace(plan, narrowing=known.with_spectra(model, analysis, further))


def _is_as_made(plan: Plan, narrowing: Narrowing, name: str) -> bool:
    """Whether nobody edited an inner dimension: its errors are then those that the plan expects,
    and are measured when it is applied."""
    layers = [member.layer for member in narrowing.found[name].layers]
    return name in narrowing.orders and all(_expects(plan, layer) for layer in layers)


def _expects(plan: Plan, name: str) -> bool:
    """Whether what a plan expects of a layer is of the method and the ranks that it says."""
    layer, known = plan.layers[name], plan.expected.layers.get(name)
    return known is not None and (known.method, known.ranks) == (layer.method, layer.ranks)


def checked(
    plan: Plan, analysis: Analysis, weights: Mapping[str, Tensor]
) -> tuple[Plan, list[str]]:
    """The plan with what is expected of it computed again, and a line for each layer that this
    changes.

    plan: with the eliminations of the inner dimensions that it narrows.
    weights: {target: (out, in/groups, *kernel)} in the metric of the analysis; only those of edited
        layers are read.

    Raises LowRankError where the plan and the analysis have different layers or metrics, and for
    ranks that a layer cannot have.
    """
    _check_names(plan, analysis)
    candidates = {
        name: _candidate(analysis, analysis.targets[name], layer, plan, weights)
        for name, layer in plan.layers.items()
        if not is_narrower(layer.method)
    }
    narrower = dict(_narrower(plan, analysis))
    candidates = {name: {**candidates, **narrower}[name] for name in plan.layers}
    expected = expected_of(analysis, candidates, plan.narrowing)
    if all(_same(expected.layers[n], plan.expected.layers.get(n)) for n in candidates):
        # An edit changes the time, and only where a plan is made is it measured.
        expected = replace(expected, latency=plan.expected.latency)
    told = list(differences(plan.expected, expected))
    return replace(plan, expected=expected, analysis=analysis), told


def _candidate(
    analysis: Analysis,
    target: Target,
    layer: PlannedLayer,
    plan: Plan,
    weights: Mapping[str, Tensor],
) -> Candidate:
    if layer.method == DENSE:
        if layer.ranks:
            raise LowRankError(
                f"layer {target.name!r}: it stays dense, but has ranks {list(layer.ranks)}; give "
                "[], or the method that is meant"
            )
        return dense_candidate(target)
    method = plan.methods[layer.method]
    check_method_fits(method, target, layer.ranks)
    if _expects(plan, target.name):
        known = plan.expected.layers[target.name]
        return _as_known(analysis, target, known, *_costs(method, target, layer.ranks))
    spectra = analysis.spectra[target.name]
    found = exact_candidate(method, target, weights, spectra, layer.ranks)
    if found is None:
        raise LowRankError(
            f"layer {target.name!r}: {layer.method} has no ranks {list(layer.ranks)} there; "
            "correct the plan"
        )
    return found


def _narrower(plan: Plan, analysis: Analysis) -> Iterator[tuple[str, Candidate]]:
    """(layer, what it becomes) of the layers of inner dimensions that are narrowed."""
    narrowing = plan.narrowing
    for name, width in plan.widths.items():
        assert narrowing is not None
        for member in narrowing.found[name].layers:
            yield member.layer, _narrowed(plan, narrowing, name, member, width, analysis)


def _narrowed(
    plan: Plan, narrowing: Narrowing, name: str, member: Member, width: int, analysis: Analysis
) -> Candidate:
    """What one layer of an inner dimension becomes at this width."""
    dimension, layer = narrowing.found[name], plan.layers[member.layer]
    target, method = analysis.targets[member.layer], plan.methods.get(after_narrowing(layer.method))
    small = member.narrowed(target, width, dimension.width) if method else target
    if _is_as_made(plan, narrowing, name):
        known = plan.expected.layers[member.layer]
        if method is None:
            return _as_known(analysis, target, known, *member.cost(target, width, dimension.width))
        return _as_known(analysis, target, known, *_costs(method, small, layer.ranks[1:]))
    narrower = narrowing.candidate(name, member, target, width)
    if method is None:
        return narrower
    spectra = narrowing.spectra[name][width][member.layer]
    return _further(narrower, small, method, spectra, layer.ranks[1:])


def _further(
    narrower: Candidate, target: Target, method: Method, spectra: Spectra, ranks: tuple[int, ...]
) -> Candidate:
    found = None
    if not method.reads_weight:
        found = exact_candidate(method, target, {}, spectra, ranks)
    if found is None:
        raise LowRankError(
            f"layer {target.name!r}: {method.name} has no ranks {list(ranks)} after it was narrowed"
            "; correct the plan"
        )
    return further_candidate(narrower, found)


def _same(one: ExpectedLayer, other: ExpectedLayer | None) -> bool:
    return other is not None and (one.method, one.ranks) == (other.method, other.ranks)


def _as_known(
    analysis: Analysis, target: Target, known: ExpectedLayer, params: int, macs: int
) -> Candidate:
    """The candidate with the error that the plan has (it is measured when the plan is applied) and
    with costs that were computed again."""
    squared = known.relative_error**2 * analysis.spectra[target.name].squared_norm
    if known.loss_increase is not None:
        squared = 2 * known.loss_increase
    return Candidate(known.method, known.ranks, params, macs, squared, known.error_kind)


def _costs(method: Method, target: Target, ranks: tuple[int, ...]) -> tuple[int, int]:
    params, macs = method.form.costs(target, torch.tensor([ranks]))
    return int(params), int(macs)


def _check_names(plan: Plan, analysis: Analysis) -> None:
    if plan.metric != analysis.metric:
        raise LowRankError(
            f"the plan is in the metric {plan.metric!r}, the analysis in {analysis.metric!r}: make "
            "the plan again, or analyze in its metric"
        )
    for name in plan.layers:
        if name not in analysis.targets:
            raise LowRankError(
                f"the plan names the layer {name!r}, which is no target: "
                f"{suggest(name, analysis.targets)}"
            )
    missing = [name for name in analysis.targets if name not in plan.layers]
    if missing:
        raise LowRankError(
            f"the plan says nothing of {', '.join(missing)}: name every target, with the method "
            '"dense" and the ranks [] for one that stays as it is'
        )
