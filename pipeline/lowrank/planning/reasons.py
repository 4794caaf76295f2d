"""Reasons with numbers: what a policy's choice stands between, among the candidates that were
offered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.lowrank.analysis.tables import number_text, ranks_text
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.planning.policies.base import Offer, Selection

_WORDS = {"params": "parameters", "macs": "MACs", "latency": "nanoseconds"}
_DENSE = "dense"


def with_margins(
    selection: Selection, offers: Mapping[str, Offer], unit: CostUnit, *, in_nats: bool
) -> Selection:
    """The selection, with the nearest other candidates in the reason of each choice that was free:
    "rank 23 of 64: the next would cost 128 MACs for 2·10⁻⁵ nats; …".

    offers: from which it was made. unit: in which the policy saves. in_nats: whether half of a
        squared error is a loss in nats, as under `fisher`; else relative errors are told.
    """
    choices = {}
    for name, choice in selection.choices.items():
        offer = offers[name]
        told = "" if offer.settled else _margin(offer, choice.candidate, unit, in_nats)
        why = "; ".join(filter(None, [told, choice.why]))
        choices[name] = replace(choice, why=why)
    return replace(selection, choices=choices)


def _margin(offer: Offer, chosen: Candidate, unit: CostUnit, in_nats: bool) -> str:
    """What the next better candidate would cost; of a dense layer, what the next smaller saves."""
    dense = chosen.method == _DENSE
    sign, spent = (-1 if dense else 1), offer.cost(chosen, unit)
    others = [
        one
        for one in offer.front(unit)
        if sign * (chosen.squared_error - one.squared_error) > 0
        and sign * (offer.cost(one, unit) - spent) > 0
    ]
    if not others:
        return ""
    near = min(others, key=lambda one: abs(one.squared_error - chosen.squared_error))
    cost = abs(offer.cost(near, unit) - spent)
    price = f"{cost:,} {_WORDS.get(unit, unit)} for {_gain(offer, chosen, near, in_nats)}"
    if dense:
        return f"the nearest, {_named(near)}, would save {price}"
    of = _full(offer, chosen)
    own = f"{'rank' if len(chosen.ranks) == 1 else 'ranks'} {ranks_text(chosen.ranks)}{of}: "
    same = near.method == chosen.method
    following = "" if same or near.method == _DENSE else f", {_named(near)},"
    following = ", dense," if near.method == _DENSE else following
    return f"{own if chosen.ranks else ''}the next{following} would cost {price}"


def _gain(offer: Offer, chosen: Candidate, near: Candidate, in_nats: bool) -> str:
    if in_nats:
        return f"{number_text(abs(near.squared_error - chosen.squared_error) / 2)} nats"
    before, after = (offer.relative_squared(one) ** 0.5 for one in (chosen, near))
    return f"an error of {number_text(after)} in the place of {number_text(before)}"


def _named(candidate: Candidate) -> str:
    return f"{candidate.method} {ranks_text(candidate.ranks)}".strip()


def _full(offer: Offer, chosen: Candidate) -> str:
    """ " of 48×24", the full ranks of the views that the method cuts; "" where it cuts none."""
    views = offer.views.get(chosen.method, ())
    full = [len(offer.singular_values[view]) for view in views if view in offer.singular_values]
    return f" of {ranks_text(full)}" if full and len(full) == len(chosen.ranks) else ""
