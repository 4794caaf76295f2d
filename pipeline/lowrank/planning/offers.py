"""What a policy may choose from: the candidates of all methods, and the user's overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.analysis.tables import ranks_text
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, candidates_of, exact_candidate
from pipeline.lowrank.methods.candidate import dense_candidate
from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.overrides import Override
from pipeline.lowrank.planning.policies.base import Choice, Offer
from pipeline.lowrank.planning.policies.fixed import check_patterns, first_match
from pipeline.lowrank.planning.policies.ranks import Ranks, named_ranks, view_shape, worthwhile


def make_offers(
    analysis: Analysis,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    methods: Mapping[str, Method],
    unit: CostUnit,
    overrides: Mapping[str, Override] | None = None,
) -> dict[str, Offer]:
    """Candidates of the methods `names` for every target, and the choices that overrides make.

    weights: {target: (out, in/groups, *kernel) in the metric}, asked for where a method reads
    them. unit: decides between methods where an override gives ranks and no method. Of several
    patterns the first that matches a layer counts.
    """
    overrides = overrides or {}
    check_patterns("rank_select.overrides", overrides, analysis.targets)
    offers = {}
    for name, target in analysis.targets.items():
        spectra, pattern = analysis.spectra[name], first_match(overrides, name)
        if pattern is None:
            offers[name] = make_offer(target, weights, spectra, names, methods)
            continue
        override, why = overrides[pattern], f"override {pattern!r}"
        if override.keep:
            given, dense = Choice(dense_candidate(target), why), [dense_candidate(target)]
            offers[name] = Offer(target, spectra.squared_norm, dense, given=given)
            continue
        own = [override.method.name] if override.method else names
        offer = make_offer(target, weights, spectra, own, methods)
        if override.ranks is not None:
            offer = replace(offer, given=_at_ranks(offer, override.ranks, unit, why))
        offers[name] = offer
    return offers


def make_offer(
    target: Target,
    weights: Mapping[str, Tensor],
    spectra: Spectra,
    names: Sequence[str],
    methods: Mapping[str, Method],
) -> Offer:
    """Candidates of the methods `names` for one target."""
    found = candidates_of(target, weights, spectra, names, methods)
    # A method may also offer what another one builds, which then is none of its own.
    used = [methods[name].on_matrices if target.is_matrix else name for name in names]
    offered = {candidate.method for candidate in found}
    return Offer(
        target=target,
        squared_norm=spectra.squared_norm,
        candidates=[dense_candidate(target), *found],
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
    )


def _at_ranks(offer: Offer, value: Ranks, unit: CostUnit, why: str) -> Choice:
    """The candidate with the ranks of an override. Raises LowRankError where they save nothing:
    an override is kept as it was given, or not at all."""
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
