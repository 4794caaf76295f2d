"""Making a plan: the policy's choice among the candidates of all targets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, replace

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method
from pipeline.lowrank.methods.candidate import dense_candidate
from pipeline.lowrank.network.costs import CostUnit, TimedTotals
from pipeline.lowrank.network.skipped import largest
from pipeline.lowrank.planning.expected import expected_of
from pipeline.lowrank.planning.further import Further
from pipeline.lowrank.planning.joint import apart, joined
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.plan import Plan, PlannedLayer
from pipeline.lowrank.planning.policies import Offer, Policy, Selection
from pipeline.lowrank.planning.policies.base import LocalPolicy, OutOfReachError
from pipeline.lowrank.planning.policies.local import kept_fraction
from pipeline.lowrank.planning.reasons import with_margins
from pipeline.lowrank.planning.timing.clock import Clock

_NAMED = 3  # weights that an error names, the largest of those that are in no target


def make_plan(
    analysis: Analysis,
    offers: Mapping[str, Offer],
    policy: Policy,
    methods: Mapping[str, Method],
    seed: int = 0,
    narrowing: Narrowing | None = None,
    further: Further | None = None,
    clock: Clock | None = None,
    weights: Mapping[str, float] | None = None,
) -> Plan:
    """The policy's choice among the offers, with the uniform plan of the same cost beside it.

    offers: of `planning.offers.make_offers`, one for each target.
    methods: {name: method} of all methods that an offer may name.
    seed: of the analysis and the methods, for the record.
    narrowing: the inner dimensions whose layers may be narrowed too; None narrows nothing.
    further: what narrowed layers may become that are factorized too; None factorizes none of them.
    clock: that timed the offers, where the policy saves latency.
    weights: {target: how many times its errors count under a budget of absolute ones}; None: once.

    Raises LowRankError where the policy cannot choose.
    """
    if policy.name == "loss" and analysis.metric != "fisher":
        raise LowRankError(
            f"the policy loss counts nats, which only the metric fisher predicts; the analysis is "
            f"in {analysis.metric!r}: choose analyze=fisher or another policy"
        )
    if weights:
        offers = {name: replace(offer, weight=weights[name]) for name, offer in offers.items()}
    choosable = offers
    if narrowing is not None:
        choosable = joined(offers, narrowing, policy, further or {})
    totals = analysis.totals
    if clock is not None:
        totals = TimedTotals(**asdict(totals), latency=clock.total, surplus=clock.surplus)
    try:
        selection = policy.select(choosable, totals)
    except OutOfReachError as error:
        told = [str(error)]
        if narrowing is not None and not methods:
            told.append("what is in no inner dimension needs a method of ranks, as pivoted_tucker2")
        if analysis.skipped:
            told.append(f"what stays as it is: {largest(analysis.skipped, _NAMED)}")
        raise OutOfReachError("; ".join(told), error.least) from error
    beside = uniform(choosable, policy.cost_unit, selection)
    in_nats = analysis.metric == "fisher"
    selection = with_margins(selection, choosable, policy.cost_unit, in_nats=in_nats)
    chosen, other = (
        _plan(
            analysis, apart(one, choosable, list(offers)), policy, methods, seed, narrowing, clock
        )
        for one in (selection, beside)
    )
    return replace(chosen, uniform=other)


def takes_widths(policy: Policy) -> bool:
    """Whether a policy can choose between numbers of channels, which are no ranks."""
    return not (isinstance(policy, LocalPolicy) and policy.names_ranks)


def without_widths(plan: Plan, method: str) -> Plan:
    """The plan of a policy that does not take them, which says so at each layer."""
    skipped = f"{method} skipped: {plan.policy.name} says ranks, and a width is none"
    layers = {
        name: replace(layer, why="; ".join(filter(None, [layer.why, skipped])))
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def _plan(
    analysis: Analysis,
    selection: Selection,
    policy: Policy,
    methods: Mapping[str, Method],
    seed: int,
    narrowing: Narrowing | None,
    clock: Clock | None,
) -> Plan:
    choices = selection.choices
    candidates = {name: choice.candidate for name, choice in choices.items()}
    expected = expected_of(analysis, candidates, narrowing, clock)
    return Plan(
        metric=analysis.metric,
        damping=analysis.damping,
        seed=seed,
        policy=policy,
        methods=methods,
        layers={
            name: PlannedLayer(
                choice.candidate.method,
                choice.candidate.ranks,
                "; ".join(filter(None, [choice.why, choice.candidate.note, analysis.note(name)])),
            )
            for name, choice in choices.items()
        },
        expected=expected,
        skipped=analysis.skipped,
        optimality_gap=selection.optimality_gap,
        narrowing=replace(narrowing, clock=None) if narrowing else None,
        analysis=analysis,
    )


def dense_instead(analysis: Analysis, plan: Plan, clock: Clock, why: str) -> Plan:
    """The plan that leaves every layer as it is, for this reason, with the contest of another."""
    dense = {
        name: replace(dense_candidate(target), latency=clock.dense.get(name, 0))
        for name, target in analysis.targets.items()
    }
    return replace(
        plan,
        layers={name: PlannedLayer(one.method, one.ranks, why) for name, one in dense.items()},
        expected=expected_of(analysis, dense, None, clock),
        optimality_gap=None,
        uniform=None,
    )


def uniform(offers: Mapping[str, Offer], unit: CostUnit, chosen: Selection) -> Selection:
    """The selection that keeps the same fraction of every layer, the largest that costs no more
    than `chosen`. Choices that were given by overrides stand in both."""
    free = {n: o for n, o in offers.items() if not o.given}
    allowed = sum(offers[n].cost(chosen.choices[n].candidate, unit) for n in free)
    costs = {n: [o.cost(c, unit) for c in o.front(unit)] for n, o in free.items()}
    dense = {n: o.cost(o.dense, unit) for n, o in free.items()}

    def spent(fraction: float) -> int:
        return sum(
            own[max(bisect_right(own, fraction * dense[name]) - 1, 0)]
            for name, own in costs.items()
        )

    low, high = 0.0, 1.0
    if spent(high) <= allowed:
        low = high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) <= allowed else (low, middle)
    return Selection({n: o.settled or kept_fraction(o, unit, low) for n, o in offers.items()})
