"""Candidates: what a layer may become, its costs, and its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.network.targets import Target

ErrorKind = Literal["exact", "upper_bound", "estimate"]


@dataclass(frozen=True)
class Candidate:
    """One way to build a layer.

    method, ranks: "dense" and () for the layer as it is.
    params, macs: costs of the layer; params count the bias.
    squared_error: ‖W − Ŵ‖² in the metric.
    error_kind: whether the built layer has exactly this error, at most this error, or about this
        error.
    note: what a reader of the plan should know about it; may be empty.
    latency: nanoseconds of the layer in one call of the workload; 0 where no time was measured.
    """

    method: str
    ranks: tuple[int, ...]
    params: int
    macs: int
    squared_error: float
    error_kind: ErrorKind
    note: str = ""
    latency: int = 0

    def cost(self, target: Target, unit: CostUnit) -> int:
        """The cost of the target built as this candidate; bytes are counted in the layer's own
        number format."""
        if unit == "latency":
            return self.latency
        if unit == "macs":
            return self.macs
        return self.params * (target.bytes_per_param if unit == "bytes" else 1)


def dense_candidate(target: Target) -> Candidate:
    """The candidate that leaves the layer as it is, without error and at full cost; every list has
    it."""
    return Candidate("dense", (), target.params, target.macs, 0.0, "exact")


@dataclass(frozen=True)
class CandidateGrid:
    """Candidates of one method as columns, before pruning: all tensors of length n.

    ranks: (n, number of ranks) int64; params, macs: (n,) int64; squared_error: (n,) float64.
    """

    method: str
    ranks: Tensor
    params: Tensor
    macs: Tensor
    squared_error: Tensor
    error_kind: ErrorKind

    def find(self, ranks: Sequence[int]) -> Candidate | None:
        """The candidate with exactly these ranks, worthwhile or not; None if the grid has none."""
        found = (self.ranks == torch.tensor([ranks])).all(1).nonzero().flatten()
        return self._rows(found)._listed()[0] if len(found) else None

    def worthwhile(self, target: Target, multiple_of: int = 1) -> list[Candidate]:
        """The candidates that `pruned` leaves of the `multiples`, as a list."""
        return self.multiples(multiple_of).pruned(target)._listed()

    def multiples(self, of: int) -> CandidateGrid:
        """The candidates whose ranks are multiples of this, or the largest that there are."""
        if of == 1 or not len(self.ranks):
            return self
        fitting = (self.ranks % of == 0) | (self.ranks == self.ranks.max(0).values)
        return self._rows(fitting.all(1).nonzero().flatten())

    def _listed(self) -> list[Candidate]:
        columns = (self.ranks, self.params, self.macs, self.squared_error)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [
            Candidate(self.method, tuple(ranks), params, macs, max(error, 0.0), self.error_kind)
            for ranks, params, macs, error in rows
        ]

    def pruned(self, target: Target) -> CandidateGrid:
        """The Pareto-optimal candidates that save both parameters and MACs.

        Break-even: a factorization that does not make the layer smaller *and* cheaper is no
        candidate; if none is left the layer stays dense. (An Embedding has no MACs to save: its
        candidates trade some for parameters, and lose to the dense one where MACs count.) A
        candidate survives if no other has less error at the same or less params, or at the same
        or less MACs.
        """
        saves = self.params < target.params
        if target.macs > 0:
            saves &= self.macs < target.macs
        index = saves.nonzero().flatten()
        error = self.squared_error[index]
        fronts = [index[_pareto(cost[index], error)] for cost in (self.params, self.macs)]
        return self._rows(torch.unique(torch.cat(fronts)))

    def _rows(self, index: Tensor) -> CandidateGrid:
        return replace(
            self,
            ranks=self.ranks[index],
            params=self.params[index],
            macs=self.macs[index],
            squared_error=self.squared_error[index],
        )


def merge(grids: Sequence[CandidateGrid]) -> CandidateGrid:
    """The rows of several grids of one method and one kind of error as one grid."""
    return replace(
        grids[0],
        ranks=torch.cat([grid.ranks for grid in grids]),
        params=torch.cat([grid.params for grid in grids]),
        macs=torch.cat([grid.macs for grid in grids]),
        squared_error=torch.cat([grid.squared_error for grid in grids]),
    )


def _pareto(cost: Tensor, error: Tensor) -> Tensor:
    """Indices of the Pareto front of (cost, error), cheapest first."""
    if len(cost) == 0:
        return cost
    front = _falling(cost.argsort(stable=True), error)
    # Of equal cost the best is last: sorted by error first, a second pass keeps only that one.
    front = front[error[front].argsort(stable=True)]
    return _falling(front[cost[front].argsort(stable=True)], error)


def _falling(order: Tensor, error: Tensor) -> Tensor:
    """The entries of `order` whose error is below that of all before them."""
    best = error[order].cummin(0).values
    first = torch.ones(1, dtype=torch.bool)
    return order[torch.cat([first, best[1:] < best[:-1]])]
