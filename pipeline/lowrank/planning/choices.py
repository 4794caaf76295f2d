"""What a policy may choose from: the candidates of all methods, and the user's overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.spectra import Spectra
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, candidates_of
from pipeline.lowrank.methods.candidate import Candidate, dense_candidate
from pipeline.lowrank.network.costs import Cost
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.overrides import Override
from pipeline.lowrank.planning.policies.base import Choice, Option
from pipeline.lowrank.planning.policies.fixed import check_patterns, first_match
from pipeline.lowrank.planning.policies.ranks import Ranks, named_ranks, view_shape, worthwhile


def make_options(
    analysis: Analysis,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    methods: Mapping[str, Method],
    unit: Cost,
    overrides: Mapping[str, Override] | None = None,
) -> dict[str, Option]:
    """Candidates of the methods `names` for every target, and the choices that overrides make.

    unit: decides between methods where an override gives ranks and no method. Of several
    patterns the first that matches a layer counts.
    """
    overrides = overrides or {}
    check_patterns("rank_select.overrides", overrides, analysis.targets)
    options = {}
    for name, target in analysis.targets.items():
        spectra, pattern = analysis.spectra[name], first_match(overrides, name)
        if pattern is None:
            options[name] = make_option(target, weights[name], spectra, names, methods)
            continue
        override, why = overrides[pattern], f"override {pattern!r}"
        if override.keep:
            given, dense = Choice(dense_candidate(target), why), [dense_candidate(target)]
            options[name] = Option(target, spectra.squared_norm, dense, given=given)
            continue
        own = [override.method] if override.method else names
        option = make_option(target, weights[name], spectra, own, methods)
        if override.ranks is not None:
            option = replace(option, given=_at_ranks(option, override.ranks, unit, why))
        options[name] = option
    return options


def make_option(
    target: Target,
    weight: Tensor,
    spectra: Spectra,
    names: Sequence[str],
    methods: Mapping[str, Method],
) -> Option:
    """Candidates of the methods `names` for one target."""
    found = candidates_of(target, weight, spectra, names, methods)
    # A method may also offer what another one builds, which then is none of its own.
    used = [methods[name].on_matrices if target.is_matrix else name for name in names]
    offered = {candidate.method for candidate in found}
    return Option(
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
        exact=partial(_exact, target, weight, spectra, methods),
    )


def _exact(
    target: Target,
    weight: Tensor,
    spectra: Spectra,
    methods: Mapping[str, Method],
    method: str,
    ranks: tuple[int, ...],
) -> Candidate | None:
    if problem := methods[method].check_ranks(target.group_shape, ranks):
        raise LowRankError(
            f"layer {target.name!r} ({' × '.join(map(str, target.group_shape))}): {problem}"
        )
    return methods[method].candidate(target, weight, spectra, ranks)


def _at_ranks(option: Option, value: Ranks, unit: Cost, why: str) -> Choice:
    """The candidate with the ranks of an override. Raises LowRankError where they save nothing:
    an override is kept as it was given, or not at all."""
    ranks = named_ranks(option, value)
    found = [worthwhile(option, method, own) for method, own in ranks.items()]
    candidates = [candidate for candidate in found if candidate]
    if not candidates:
        raise LowRankError(
            f"layer {option.target.name!r}: {why} gives ranks that save nothing "
            f"({', '.join(f'{m} {list(r)}' for m, r in ranks.items())}); give ranks below "
            "break-even, or keep: dense"
        )
    best = min(candidates, key=lambda c: (option.cost(c, unit), c.squared_error))
    return Choice(best, why)
