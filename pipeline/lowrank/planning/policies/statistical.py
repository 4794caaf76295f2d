"""Ranks from the noise in the spectra, without a number to choose: EVBMF and the optimal
threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from pipeline.lowrank.analysis.diagnostics import evbmf_rank, optimal_threshold_rank
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.planning.policies.base import COST_UNIT, Choice, LocalPolicy, Offer
from pipeline.lowrank.planning.policies.ranks import at_ranks, view_shape
from pipeline.lowrank.typed import options

RankOfView = Callable[[Tensor, tuple[int, int]], int]


@options
class EVBMF(LocalPolicy):
    """Estimates each rank by empirical variational Bayes on the view that it truncates (Nakajima et
    al. 2013), as Kim et al. (2016) do for Tucker-2. `cost_unit` decides between methods."""

    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "evbmf"
    names_ranks: ClassVar[bool] = True

    def choose(self, offer: Offer) -> Choice:
        return _above_noise(offer, self.cost_unit, self.name, evbmf_rank)


@options
class OptimalThreshold(LocalPolicy):
    """Takes for each rank the number of singular values of its view above the hard threshold that
    is optimal in mean square for unknown noise (Gavish & Donoho 2014). `cost_unit` decides between
    methods."""

    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "optimal_threshold"
    names_ranks: ClassVar[bool] = True

    def choose(self, offer: Offer) -> Choice:
        return _above_noise(offer, self.cost_unit, self.name, optimal_threshold_rank)


def _above_noise(offer: Offer, unit: CostUnit, rule: str, rank_of: RankOfView) -> Choice:
    """The choice at the ranks that `rank_of` estimates, among the methods with views. A rank of 0
    (nothing stands out of the noise) becomes 1, the smallest there is, and the reason says so."""
    estimated = {
        method: tuple(
            rank_of(offer.singular_values[view], view_shape(offer.target.group_shape, view))
            for view in views
        )
        for method, views in offer.views.items()
        if views
    }
    without = [method for method, views in offer.views.items() if not views]
    if not estimated:
        raise LowRankError(
            f"layer {offer.target.name!r}: {rule} reads ranks off spectra, and "
            f"{', '.join(without)} truncates none; choose another method or another policy"
        )
    ranks = {method: tuple(max(1, r) for r in found) for method, found in estimated.items()}
    choice = at_ranks(offer, ranks, unit, rule)
    why = choice.why
    if 0 in estimated.get(choice.candidate.method, ()):
        why += "; rank 0 was estimated (all noise), 1 is the least"
    if without:
        why += f"; {', '.join(without)} skipped, it truncates no spectrum"
    return Choice(choice.candidate, why)
