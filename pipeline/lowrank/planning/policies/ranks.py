"""From ranks that a user or a rule names (whole numbers, fractions, lists) to a candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from pipeline.lowrank.analysis.tables import ranks_text
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.planning.policies.base import Choice, Offer

# One whole number for every rank, a fraction of the full rank, or a list with one number a rank.
Ranks = int | float | Sequence[int]


def view_shape(shape: Sequence[int], view: str) -> tuple[int, int]:
    """Rows and columns of a view of the weight of one group (out, in, *kernel).

    "mode{i}" is the mode-i unfolding: the size of mode i × the product of all others, so that
    mode0 is out × in·taps and mode1 is in × out·taps. "spatial" is in·height × out·width.
    Full rank is the smaller of the two.

    >>> view_shape((16, 8, 3, 3), "mode1")
    (8, 144)
    """
    if view == "spatial":
        return shape[1] * shape[2], shape[0] * shape[3]
    rows = shape[int(view.removeprefix("mode"))]
    return rows, math.prod(shape) // rows


def check_given(value: object) -> None:
    """Raises LowRankError unless `value` is a whole number ≥ 1, a fraction in (0, 1), or a list of
    whole numbers."""
    many = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in many)
    if many and (whole or (isinstance(value, float) and 0.0 < value < 1.0)):
        return
    raise LowRankError(
        f"ranks is {value!r}: choose a whole number ≥ 1, a fraction of the full rank in (0, 1), or "
        "a list of whole numbers, one for each rank of the method"
    )


def named_ranks(offer: Offer, value: Ranks) -> dict[str, tuple[int, ...]]:
    """{competing method: its ranks} for ranks that a user gave.

    value: a whole number stands for every rank, and is cut to each view's full rank; a fraction of
        the full rank is rounded down, but not to 0; a list stands for the methods that have so many
        ranks. Methods without views have one rank and no full rank to take a fraction of.

    Raises LowRankError when no method is left.
    """
    ranks: dict[str, tuple[int, ...]] = {}
    for method, views in offer.views.items():
        full = [min(view_shape(offer.target.group_shape, view)) for view in views]
        if isinstance(value, float):
            share = Fraction(repr(value))
            ranks[method] = tuple(max(1, math.floor(share * limit)) for limit in full)
        elif isinstance(value, int):
            ranks[method] = tuple(min(value, limit) for limit in full) or (value,)
        elif len(value) == max(1, len(views)):
            ranks[method] = tuple(value)
    ranks = {method: found for method, found in ranks.items() if found}
    if not ranks:
        raise LowRankError(
            f"layer {offer.target.name!r}: ranks {value} suit none of its methods "
            f"({', '.join(offer.views) or 'none is below break-even'}); give one number for each "
            "rank of a method, or keep: dense"
        )
    return ranks


def worthwhile(offer: Offer, method: str, ranks: tuple[int, ...]) -> Candidate | None:
    """The method's candidate with exactly these ranks, if it saves parameters and MACs, even if
    another one beats it; else None."""
    for candidate in offer.candidates:
        if candidate.method == method and candidate.ranks == ranks:
            return candidate
    assert offer.exact is not None, "an offer with views has it (make_offer)"
    exact = offer.exact(method, ranks)
    if exact is None or exact.params >= offer.dense.params or exact.macs >= offer.dense.macs:
        return None
    return exact


def at_ranks(
    offer: Offer, ranks: Mapping[str, tuple[int, ...]], unit: CostUnit, rule: str
) -> Choice:
    """The choice for given ranks: the candidate with exactly these ranks where it is below
    break-even, otherwise the candidate of least error with no rank above them, otherwise dense.

    ranks: {method: its ranks}. Of several methods the cheapest in `unit` is chosen, exact ranks
        first.
    rule: the words for where the ranks come from.
    """
    found: list[tuple[bool, int, Choice]] = []
    for method, wanted in ranks.items():
        text = f"{rule}: {method} {ranks_text(wanted)}"
        candidate, near = worthwhile(offer, method, wanted), False
        if candidate is None:
            candidate, near = _nearest_below(offer, method, wanted), True
            text += " is not below break-even; nearest that is"
        if candidate is not None:
            found.append((near, offer.cost(candidate, unit), Choice(candidate, text)))
    if found:
        return min(found, key=lambda f: f[:2])[2]
    return Choice(offer.dense, f"dense: {rule}, but no ranks up to these are below break-even")


def _nearest_below(offer: Offer, method: str, ranks: tuple[int, ...]) -> Candidate | None:
    below = (
        c
        for c in offer.candidates
        if c.method == method and all(r <= w for r, w in zip(c.ranks, ranks, strict=True))
    )
    return min(below, key=lambda c: c.squared_error, default=None)
