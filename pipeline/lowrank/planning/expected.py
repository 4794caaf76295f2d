"""What is expected of a plan: costs and errors computed from methods and ranks, and the differences
that an edit makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import get_args

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
from pipeline.lowrank.network.costs import CountedUnit, TimedTotals, Totals
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.plan import DENSE, Expected, ExpectedLayer, Plan, PlannedLayer
from pipeline.lowrank.planning.timing.clock import Clock
from pipeline.lowrank.planning.timing.expected import expected_latency


def expected_layer(analysis: Analysis, target: Target, candidate: Candidate) -> ExpectedLayer:
    """Costs and errors of one candidate, in the metric of the analysis."""
    norm = analysis.spectra[target.name].squared_norm
    in_nats = analysis.metric == "fisher"
    return ExpectedLayer(
        method=candidate.method,
        ranks=candidate.ranks,
        params=candidate.params,
        macs=candidate.macs,
        dense_params=target.params,
        dense_macs=target.macs,
        relative_error=math.sqrt(candidate.squared_error / norm) if norm > 0 else 0.0,
        error_kind=candidate.error_kind,
        loss_increase=candidate.squared_error / 2 if in_nats else None,
    )


def expected_of(
    analysis: Analysis,
    candidates: Mapping[str, Candidate],
    narrowing: Narrowing | None = None,
    clock: Clock | None = None,
) -> Expected:
    """Costs and errors of a network whose targets become these candidates, one for every target.

    narrowing: the inner dimensions that candidates may narrow.
    clock: that timed the candidates, where it did.
    """
    targets = analysis.targets
    saved = TimedTotals(0, 0, 0, 0)
    if narrowing is not None:
        widths = narrowing.widths({n: (c.method, c.ranks) for n, c in candidates.items()})
        saved = narrowing.saved(widths)
    planned = {
        unit: analysis.totals.cost(unit)
        - saved.cost(unit)
        + sum(
            candidate.cost(targets[name], unit)
            - dense_candidate(targets[name]).cost(targets[name], unit)
            for name, candidate in candidates.items()
        )
        for unit in get_args(CountedUnit)
    }
    layers = {n: expected_layer(analysis, targets[n], c) for n, c in candidates.items()}
    latency = expected_latency(clock, candidates, saved.latency) if clock else None
    return Expected(layers, analysis.totals, Totals(**planned), latency)


def with_eliminations(plan: Plan, model: nn.Module, analysis: Analysis) -> Plan:
    """The plan with the eliminations of the inner dimensions that it narrows, and the spectra of
    those whose layers it factorizes further, which a plan from a file does not have."""
    widths, narrowing = plan.widths, plan.narrowing
    if narrowing is None or not widths:
        return plan
    further = {
        name: [width]
        for name, width in widths.items()
        if any(after_narrowing(plan.layers[m.layer].method) for m in narrowing.found[name].layers)
    }
    known = narrowing.eliminated(model, analysis, widths).with_spectra(model, analysis, further)
    return replace(plan, narrowing=known)


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


def differences(before: Expected, after: Expected) -> Iterator[str]:
    """One line for each layer whose cost or error is another one than a plan expects."""
    for name, new in after.layers.items():
        old = before.layers.get(name)
        if old is None:
            yield f"{name}: {new.params:,} parameters, error {new.relative_error:.3f} (new)"
            continue
        parts = [
            f"{getattr(old, key):,} → {getattr(new, key):,} {word}"
            for key, word in (("params", "parameters"), ("macs", "MACs"))
            if getattr(old, key) != getattr(new, key)
        ]
        if not math.isclose(old.relative_error, new.relative_error, rel_tol=1e-6, abs_tol=1e-9):
            parts.append(f"error {old.relative_error:.3f} → {new.relative_error:.3f}")
        if parts:
            yield f"{name}: {', '.join(parts)}"


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
    known = plan.expected.layers.get(target.name)
    if known and (known.method, known.ranks) == (layer.method, layer.ranks):
        return _as_known(analysis, target, method, known)
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
    for name, width in plan.widths.items():
        assert plan.narrowing is not None
        dimension = plan.narrowing.found[name]
        for member in dimension.layers:
            target, layer = analysis.targets[member.layer], plan.layers[member.layer]
            narrower = plan.narrowing.candidate(name, member, target, width)
            if method := plan.methods.get(after_narrowing(layer.method)):
                small = member.narrowed(target, width, dimension.width)
                spectra = plan.narrowing.spectra[name][width][member.layer]
                narrower = _further(narrower, small, method, spectra, layer.ranks[1:])
            yield member.layer, narrower


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
    analysis: Analysis, target: Target, method: Method, known: ExpectedLayer
) -> Candidate:
    """The candidate with the error that the plan has (it is measured when the plan is applied) and
    with costs computed again."""
    params, macs = method.form.costs(target, torch.tensor([known.ranks]))
    squared = known.relative_error**2 * analysis.spectra[target.name].squared_norm
    if known.loss_increase is not None:
        squared = 2 * known.loss_increase
    return Candidate(known.method, known.ranks, int(params), int(macs), squared, known.error_kind)


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
