"""Layers that are narrowed and then factorized: what they may become, width by width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.lowrank.methods import Method, candidates_of
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.methods.interpolative import further_candidates
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.narrowing import Narrowing

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
                inside[member.layer] = [narrower, *further_candidates(narrower, factorized)]
            found[name][width] = inside
    return found
