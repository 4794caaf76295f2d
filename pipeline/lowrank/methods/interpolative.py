"""Interpolative: layers on both sides of an inner dimension with fewer channels between them."""

from __future__ import annotations

from typing import ClassVar

from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.typed import knob, options

_WIDTHS = 128  # candidates of one dimension at most


@options
class Interpolative:
    """Fewer channels in an inner dimension (`network.inner`): layers stay what they are, with fewer
    outputs where they make the channels and fewer inputs where they read them; ranks = (width,), of
    all layers of the dimension alike. Which channels are kept is found by backward elimination in
    the metric (`methods.elimination`), and the layers that read them take up the others.

    Its candidates are those of several layers at once, so that it takes part under the policies
    that share one budget over the network, `Budget` and `Loss`.
    """

    width_multiple_of: int = knob(
        default=1, ge=1, help="interpolative: widths are multiples of this (8, 16, 32 run faster)"
    )

    name: ClassVar[str] = "interpolative"

    def widths(self, dimension: InnerDimension) -> list[int]:
        """The widths that are tried, ascending, all below the dimension's own."""
        step = self.width_multiple_of
        while dimension.width > _WIDTHS * step:
            step += self.width_multiple_of
        return list(range(step, dimension.width, step))


def narrowed_candidate(
    member: Member, target: Target, dimension: InnerDimension, width: int, squared_error: float
) -> Candidate:
    """What one layer of a dimension becomes where `width` of its channels are kept.

    squared_error: of a layer that reads them; 0 for the others, whose outputs stay what they are.
    """
    params, macs = member.cost(target, width, dimension.width)
    return Candidate(Interpolative.name, (width,), params, macs, squared_error, "exact")
