"""Layers that are narrowed and then factorized: what they may become, width by width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from pipeline.lowrank.methods import Method, candidates_of
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.methods.interpolative import after_narrowing, further_candidates
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.timing.clock import Clock

# {inner dimension: {width: {layer: what it may become there}}}
Further = Mapping[str, Mapping[int, Mapping[str, Sequence[Candidate]]]]


def candidates_further(
    narrowing: Narrowing,
    targets: Mapping[str, Target],
    names: Sequence[str],
    methods: Mapping[str, Method],
) -> Further:
    """What the layers of narrowed dimensions may become where the methods `names` factorize them
    too, at the widths of which the narrowing knows the spectra; narrowed alone among them.

    methods: {name: method}, with those on matrices. One that reads weights, and so fits every
        candidate anew, takes no part.
    """
    used = [name for name in names if not methods[name].reads_weight]
    found: dict[str, dict[int, dict[str, Sequence[Candidate]]]] = {}
    for name, by_width in narrowing.spectra.items():
        dimension, found[name] = narrowing.found[name], {}
        for width, spectra in by_width.items():
            inside: dict[str, Sequence[Candidate]] = {}
            for member in dimension.layers:
                target = targets[member.layer]
                narrower = narrowing.candidate(name, member, target, width)
                factorized: Sequence[Candidate] = ()
                if member.layer in spectra:
                    small = member.narrowed(target, width, dimension.width)
                    factorized = candidates_of(small, {}, spectra[member.layer], used, methods)
                more = further_candidates(narrower, factorized)
                if narrowing.clock is not None:
                    more = _faster(narrowing.clock, dimension, member, narrower, more, methods)
                inside[member.layer] = [narrower, *more]
            found[name][width] = inside
    return found


def is_timed_further(candidate: Candidate) -> bool:
    """Whether what a layer may become, by itself or after it was narrowed, is timed for layers that
    are narrowed first: of a single rank. Tables of several for each width would take minutes."""
    narrowed_first = 1 if after_narrowing(candidate.method) else 0
    return candidate.method != "dense" and len(candidate.ranks) - narrowed_first == 1


def _faster(
    clock: Clock,
    dimension: InnerDimension,
    member: Member,
    narrower: Candidate,
    candidates: Sequence[Candidate],
    methods: Mapping[str, Method],
) -> list[Candidate]:
    """The candidates with their times, of those that are timed, without those that are no faster
    than the layer is with its fewer channels alone."""
    if member.layer in clock.untimed:
        return []
    found = []
    timed = [one for one in candidates if is_timed_further(one)]
    ordered = sorted(timed, key=lambda c: c.method)
    for method, own in groupby(ordered, key=lambda c: c.method):
        form = methods[after_narrowing(method)].form
        found += clock.further(dimension, member, form, list(own))
    return [one for one in found if one.latency < narrower.latency]
