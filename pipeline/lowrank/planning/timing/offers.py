"""Offers whose candidates have their times, in every form in which they may run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import groupby

from pipeline.lowrank.forms.pivoted import Pivoted
from pipeline.lowrank.methods import METHODS, Interpolative, Method
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.planning.policies.base import Choice, Offer
from pipeline.lowrank.planning.timing.clock import Clock


def in_every_form(methods: Sequence[Method]) -> list[Method]:
    """The methods, and those of the same factors without pivots: moving channels, which pivots ask
    for, may take longer than the products that they save."""
    found = {method.name: method for method in methods}
    for method in methods:
        if isinstance(method.form, Pivoted):
            plain = METHODS[method.form.form.name]
            own = [f.name for f in fields(plain)]  # type: ignore[arg-type]
            found.setdefault(plain.name, plain(**{key: getattr(method, key) for key in own}))
    return list(found.values())


def in_steps(methods: Mapping[str, Method], step: int) -> dict[str, Method]:
    """The methods with ranks in the steps of the device, where their options name none."""
    return {
        name: replace(method, rank_multiple_of=step)  # type: ignore[type-var]
        if getattr(method, "rank_multiple_of", None) == 1
        else method
        for name, method in methods.items()
    }


def narrower_in_steps(method: Interpolative, step: int) -> Interpolative:
    """The same of widths."""
    return replace(method, width_multiple_of=step) if method.width_multiple_of == 1 else method


def timed(
    offers: Mapping[str, Offer], methods: Mapping[str, Method], clock: Clock
) -> dict[str, Offer]:
    """The offers with times, without the candidates that are no faster than the layer as it is.

    methods: {name: method} of all methods that an offer may name.

    A choice that an override made stands, at its time. A layer whose time cannot be measured stays
    as it is, where no override decides, with that reason.
    """
    return {name: _timed(offer, methods, clock) for name, offer in offers.items()}


def _timed(offer: Offer, methods: Mapping[str, Method], clock: Clock) -> Offer:
    name = offer.target.name
    offer = replace(offer, dense_latency=clock.dense.get(name, 0))
    if why := clock.untimed.get(name):
        return replace(offer, candidates=[offer.dense], views={}, obstacle=why)
    factorized = [c for c in offer.candidates if c.method != "dense"]
    found = _with_times(name, factorized, methods, clock)
    faster = [c for c in found if c.latency < offer.dense_latency]
    given = offer.given
    if given and given.candidate.method != "dense":
        (candidate,) = _with_times(name, [given.candidate], methods, clock)
        given = Choice(candidate, given.why)
    elif given:
        given = Choice(offer.dense, given.why)
    obstacle = offer.obstacle if faster or not found else "no rank makes it faster"
    return replace(offer, candidates=[offer.dense, *faster], given=given, obstacle=obstacle)


def _with_times(
    name: str, candidates: Sequence[Candidate], methods: Mapping[str, Method], clock: Clock
) -> list[Candidate]:
    ordered = sorted(candidates, key=lambda c: c.method)
    return [
        one
        for method, own in groupby(ordered, key=lambda c: c.method)
        for one in clock.factorized(name, methods[method].form, list(own))
    ]
