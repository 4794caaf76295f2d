"""Offers, from which a policy chooses: the candidates of all methods, and the user's overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.analysis.tables import ranks_text
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, candidates_of, exact_candidate
from pipeline.lowrank.methods.candidate import Candidate, dense_candidate
from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.overrides import Override
from pipeline.lowrank.planning.policies.base import Choice, Offer
from pipeline.lowrank.planning.policies.fixed import check_patterns, first_match
from pipeline.lowrank.planning.policies.ranks import Ranks, named_ranks, view_shape, worthwhile

# Of ‖W‖²: what squares leave of an error in float64. Smaller ones are rounding, by which no policy
# is to decide: another order of the sums, as two threads have it, gives others.
ROUNDING = 1e-14


def make_offers(
    analysis: Analysis,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    methods: Mapping[str, Method],
    unit: CostUnit,
    overrides: Mapping[str, Override] | None = None,
) -> dict[str, Offer]:
    """{target: the candidates of the methods `names`, and the choice that an override makes}.

    weights: {target: (out, in/groups, *kernel) in the metric}; read only for methods that need the
        weight.
    methods: {name: method}, with those on matrices (`with_matrices`).
    unit: decides between methods where an override gives ranks and no method.
    overrides: {shell-style pattern on layer names: what is decided}; the first that matches counts.

    Raises LowRankError for a pattern that matches no target, and for ranks that save nothing.
    """
    overrides = overrides or {}
    check_patterns("rank_select.overrides", overrides, analysis.targets)
    offers = {}
    for name, target in steps(analysis.targets.items(), "candidates"):
        spectra, pattern = analysis.spectra[name], first_match(overrides, name)
        if pattern is None:
            offers[name] = make_offer(target, weights, spectra, names, methods)
            continue
        override, why = overrides[pattern], f"override {pattern!r}"
        if override.keep:
            given, dense = Choice(dense_candidate(target), why), [dense_candidate(target)]
            offers[name] = Offer(target, spectra.squared_norm, dense, given=given)
            continue
        own = [override.method_name] if override.method_name else names
        offer = make_offer(target, weights, spectra, own, methods)
        if override.ranks is not None:
            offer = replace(offer, given=_at_ranks(offer, override.ranks, unit, why))
        offers[name] = offer
    return offers


def without_factors(offers: Mapping[str, Offer], why: str) -> dict[str, Offer]:
    """The offers with the dense candidate alone, but where an override decided.

    why: no other candidate takes part.
    """

    def alone(offer: Offer) -> Offer:
        return replace(offer, candidates=[offer.dense], views={}, obstacle=why)

    return {n: offer if offer.given else alone(offer) for n, offer in offers.items()}


def make_offer(
    target: Target,
    weights: Mapping[str, Tensor],
    spectra: Spectra,
    names: Sequence[str],
    methods: Mapping[str, Method],
) -> Offer:
    """The candidates of the methods `names` for one target; the other arguments as of
    `make_offers`."""
    found = candidates_of(target, weights, spectra, names, methods)
    # CP offers candidates of Tucker-2 where its fit diverges: `views` has only the methods that
    # were named.
    used = [methods[name].on_matrices if target.is_matrix else name for name in names]
    offered = {candidate.method for candidate in found}
    obstacles = [methods[name].obstacle(target) for name in dict.fromkeys(used)]
    if not used:
        obstacles = ["no method for single layers takes part"]
    return Offer(
        target=target,
        squared_norm=spectra.squared_norm,
        candidates=[dense_candidate(target), *(_exact(c, spectra.squared_norm) for c in found)],
        singular_values={
            view: values.singular_values[: min(view_shape(target.group_shape, view))]
            for view, values in spectra.views.items()
        },
        views={
            name: tuple(view for view in methods[name].views if view in spectra.views)
            for name in dict.fromkeys(used)
            if name in offered
        },
        exact=lambda method, ranks: exact_candidate(
            methods[method], target, weights, spectra, ranks
        ),
        obstacle="; ".join(filter(None, obstacles)) if all(obstacles) else None,
    )


def _exact(candidate: Candidate, squared_norm: float) -> Candidate:
    """The candidate, with no error where it is rounding."""
    if candidate.squared_error > ROUNDING * squared_norm:
        return candidate
    return replace(candidate, squared_error=0.0)


def _at_ranks(offer: Offer, value: Ranks, unit: CostUnit, why: str) -> Choice:
    """The candidate with exactly the ranks of an override. Raises LowRankError where they save
    nothing, since an override is never replaced by other ranks in silence."""
    ranks = named_ranks(offer, value)
    found = [worthwhile(offer, method, own) for method, own in ranks.items()]
    candidates = [candidate for candidate in found if candidate]
    if not candidates:
        raise LowRankError(
            f"layer {offer.target.name!r}: {why} gives ranks that save nothing "
            f"({', '.join(f'{m} {ranks_text(r)}' for m, r in ranks.items())}); give ranks below "
            "break-even, or keep: dense"
        )
    best = min(candidates, key=lambda c: (offer.cost(c, unit), c.squared_error))
    return Choice(best, why)
