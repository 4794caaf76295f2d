"""What is expected of a plan: costs and errors computed from methods and ranks, and the differences
that an edit makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import get_args

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.methods.candidate import Candidate, dense_candidate
from pipeline.lowrank.network.costs import CountedUnit, TimedTotals, Totals
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.plan import Expected, ExpectedLayer
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
