"""Interpolative: layers on both sides of an inner dimension with fewer channels between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import knob, options

_WIDTHS = 128  # candidates of one dimension at most
# Of the channels: the widths at which layers may be factorized further.
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
_RANKS = 96  # candidates of one layer at one width at most
_THEN = "+"


@options
class Interpolative:
    """Fewer channels in an inner dimension (`network.inner`): layers stay what they are, with fewer
    outputs where they make the channels and fewer inputs where they read them; ranks = (width,), of
    all layers of the dimension alike. Which channels are kept is found by backward elimination in
    the metric (`methods.elimination`), and the layers that read them take up the others.

    Where other methods take part, the layers that make and read the channels may be factorized
    further, at some of the widths: "interpolative+svd" with ranks = (width, rank).

    Its candidates are those of several layers at once. It takes part under all policies but those
    that say ranks: `EVBMF`, `OptimalThreshold` and `Fixed`.
    """

    width_multiple_of: int = knob(
        default=1,
        ge=1,
        help="interpolative: widths are multiples of this (8, 16, 32 run faster); 1 under a budget "
        "of latency: what this device likes, by measurement",
    )

    width_only: bool = knob(
        default=False,
        help="interpolative: layers of inner dimensions get fewer channels and nothing else, so "
        "that other methods factorize the layers of none alone",
    )

    name: ClassVar[str] = "interpolative"

    def widths(self, dimension: InnerDimension) -> list[int]:
        """The widths that are tried, ascending, all below the dimension's own."""
        least = math.lcm(self.width_multiple_of, dimension.step)
        step = least
        while dimension.width > _WIDTHS * step:
            step += least
        return list(range(step, dimension.width, step))

    def shared_widths(
        self, dimension: InnerDimension, shares: Sequence[float] = _SHARES
    ) -> list[int]:
        """Those of the widths at which the layers may be factorized further, ascending.

        shares: of the channels, that are wanted; the widths nearest to these are taken.
        """
        widths = self.widths(dimension)
        wanted = [share * dimension.width for share in shares]
        return sorted({min(widths, key=lambda k: abs(k - one)) for one in wanted} if widths else ())


def then(method: str) -> str:
    """The name of a method for layers that are narrowed first."""
    return f"{Interpolative.name}{_THEN}{method}"


def is_narrower(method: str) -> bool:
    """Whether layers of this method have fewer channels; the first of their ranks is the width."""
    return method.partition(_THEN)[0] == Interpolative.name


def after_narrowing(method: str) -> str:
    """The method that factorizes a layer after it was narrowed; "" where none does."""
    return method.partition(_THEN)[2] if is_narrower(method) else ""


def methods_in(method: str) -> tuple[str, ...]:
    """The methods that a layer of this method went through, one after the other."""
    return tuple(filter(None, method.partition(_THEN)[::2]))


def narrowed_candidate(
    member: Member, target: Target, dimension: InnerDimension, width: int, squared_error: float
) -> Candidate:
    """What one layer of a dimension becomes where `width` of its channels are kept.

    squared_error: of a layer that reads them; 0 for the others, whose outputs stay what they are.
    """
    params, macs = member.cost(target, width, dimension.width)
    return Candidate(Interpolative.name, (width,), params, macs, squared_error, "exact")


def further_candidate(narrower: Candidate, factorized: Candidate) -> Candidate:
    """What a layer becomes that is narrowed and then factorized: the errors of both add up.

    narrower: of `narrowed_candidate`; factorized: of the layer as that makes it.
    """
    return replace(
        factorized,
        method=then(factorized.method),
        ranks=(*narrower.ranks, *factorized.ranks),
        squared_error=narrower.squared_error + factorized.squared_error,
    )


def further_candidates(narrower: Candidate, factorized: Sequence[Candidate]) -> list[Candidate]:
    """As `further_candidate`, of so many that are evenly spread where there are many."""
    step = -(-len(factorized) // _RANKS) or 1
    return [further_candidate(narrower, one) for one in factorized[::step]]
