"""In which order the channels of an inner dimension are given up, and what that costs.

A layer that reads the channels x is given T·x_S in place of x, the regression of all channels on
those that are kept, S; its weight takes T up, W → W·T, so that it reads x_S alone. With A = E[xxᵀ]
and G of the metric the squared error is tr(G·W·(A − A_:S·A_SS⁻¹·A_S:)·Wᵀ), exactly. (An
interpolative, or Nyström, decomposition of the pair of layers: Chee et al. 2022, "Model Preserving
Compression for Neural Networks"; MoDeGPT: arXiv 2408.09632. The elimination is that of Optimal
Brain Surgeon, Hassibi & Stork 1993, for whole channels.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.linalg import split_groups, tails

_STEPS = 128  # so many channels are given up at a time that no more steps are taken


@dataclass(frozen=True)
class Elimination:
    """One order of the channels, which serves every width; of experts in one tensor one for each.

    order: (width,) int64, or (groups, width); the channels that are kept the longest come first.
    errors: {layer that reads them: (width + 1,) float64}: entry k is its squared error in the
        metric where the first k channels of the order are kept, that of all groups together; empty
        where the order alone is needed.
    """

    order: Tensor
    errors: Mapping[str, Tensor]

    def kept(self, width: int) -> Tensor:
        """(width,), or (groups, width), the channels that are kept, ascending."""
        return self.order[..., :width].sort().values

    def of_group(self, index: int) -> Elimination:
        """The order of one group alone, without errors."""
        return Elimination(self.order if self.order.dim() == 1 else self.order[index], {})


class Reader:
    """A layer that reads an inner dimension, with its weight and its metric by channels."""

    def __init__(self, member: Member, weight: Tensor, metric: Metric | None, width: int) -> None:
        """weight: (out, in, *kernel); metric: None is the Frobenius norm."""
        self.member, self.weight, self.width = member, weight, width
        self.left = None if metric is None else metric.left
        self.right = None if metric is None else metric.right[0]
        self.each = member.count

    def places(self, channels: Tensor) -> Tensor:
        """(n · each,) the layer's inputs that stand for the channels, channel by channel."""
        return self.member.places(channels, self.width).flatten()

    def every(self) -> Tensor:
        """(width,) all channels."""
        return torch.arange(self.width, device=self.weight.device)

    def rows(self) -> Tensor:
        """(out · taps, width · each) float64: left · weight, its columns channel by channel."""
        matrix = self.times_left(self.by_taps()).flatten(0, 1)
        return matrix[:, self.places(self.every())]

    def times_left(self, matrix: Tensor) -> Tensor:
        """left · a matrix (out, taps, …)."""
        if self.left is None:
            return matrix
        left, flat = self.left[0], matrix.flatten(1)
        scaled = left[:, None] * flat if left.dim() == 1 else left @ flat
        return scaled.reshape(matrix.shape)

    def inverse(self) -> Tensor:
        """(width · each, width · each) A⁻¹, channel by channel."""
        size = self.width * self.each
        if self.right is None:
            return torch.eye(size, dtype=torch.float64, device=self.weight.device)
        if self.right.dim() == 1:
            full = torch.diag(1 / self.right.square())
        else:
            full = torch.cholesky_inverse(self.right)
        at = self.places(self.every())
        return full[at][:, at]

    def root(self, channels: Tensor) -> Tensor:
        """Lower triangular R with R·Rᵀ = A, for the channels in this order: its first columns are
        what the first channels explain."""
        at = self.places(channels)
        if self.right is None:
            return torch.eye(len(at), dtype=torch.float64, device=self.weight.device)
        if self.right.dim() == 1:
            return torch.diag(self.right[at])
        rows = self.right[at]
        root: Tensor = torch.linalg.cholesky(rows @ rows.mT)
        return root

    def by_taps(self) -> Tensor:
        """(out, taps, in) the weight, float64."""
        outputs, inputs = self.weight.shape[:2]
        return self.weight.to(torch.float64).reshape(outputs, inputs, -1).mT


class Ordered:
    """A reader with its channels in an order, and its weight in the root of the metric, in which
    what the first channels do not explain is what the other columns hold."""

    def __init__(self, layer: Reader, order: Tensor) -> None:
        self.layer, self.order, self.root = layer, order, layer.root(order)
        self.white = layer.by_taps()[..., layer.places(order)] @ self.root  # out, taps, channels

    def errors(self) -> Tensor:
        """(width + 1,) the squared errors of keeping the first channels of the order."""
        squares = self.layer.times_left(self.white).square().sum((0, 1))
        return tails(squares.reshape(-1, self.layer.each).sum(1).cpu())

    def narrowed(self, width: int) -> Tensor:
        """(out, width · each, *kernel) float64: the weight that reads the first `width` channels of
        the order, ascending, in the layout of the layer."""
        reader, size = self.layer, width * self.layer.each
        white = self.white[..., :size]
        # As one matrix: of a batch, torch copies the root for each entry.
        solved = torch.linalg.solve_triangular(
            self.root[:size, :size], white.flatten(0, -2), upper=False, left=False
        ).reshape(white.shape)
        rank = self.order[:width].argsort()
        # Channel by channel, ascending; then as the layer holds them.
        by_channel = solved.unflatten(-1, (width, reader.each))[..., rank, :]
        shape, found = reader.weight.shape, reader.member.ordered(by_channel).mT
        return found.reshape(shape[0], size, *shape[2:])


def eliminate(
    dimension: InnerDimension,
    weights: Mapping[str, Tensor],
    metrics: Mapping[str, Metric],
    order: Tensor | None = None,
) -> Elimination:
    """The order in which backward elimination gives channels up: always those whose loss, after all
    that are left were regressed anew, adds least to the errors of all layers that read them.

    weights: {layer that reads the dimension: (out, in, *kernel)}.
    metrics: {layer: its metric}; empty for the metric `weight`, in which the channels with the
        smallest columns go first.
    order: the order of an earlier elimination, which is then not searched for again.

    Each group gives up as many channels as the others, in an order of its own.
    """
    known = None if order is None else order.reshape(dimension.groups, -1)
    orders, errors = [], []
    for group in range(dimension.groups):
        readers = [
            _reader(member, weights[member.layer], metrics.get(member.layer), dimension, group)
            for member in dimension.readers
        ]
        found = _order(readers, dimension.width) if known is None else known[group]
        found = found.to(readers[0].weight.device)
        orders.append(found)
        errors.append({r.member.layer: Ordered(r, found).errors() for r in readers})
    together = {n: torch.stack([one[n] for one in errors]).sum(0) for n in errors[0]}
    return Elimination(orders[0] if dimension.groups == 1 else torch.stack(orders), together)


def _reader(
    member: Member, weight: Tensor, metric: Metric | None, dimension: InnerDimension, group: int
) -> Reader:
    """One group of a layer that reads a dimension, with its own weight and metric."""
    own = split_groups(weight, dimension.groups)[group]
    return Reader(member, own, metric and metric.of_group(group), dimension.width)


class _Left:
    """What is left of one reader while channels are given up: A⁻¹ of the channels that are left,
    and the weight with all others regressed on them."""

    def __init__(self, reader: Reader) -> None:
        self.each, self.inverse, self.rows = reader.each, reader.inverse(), reader.rows()

    def costs(self) -> Tensor:
        """(n,) what giving up each of the channels adds to the squared error."""
        if self.each == 1:
            return self.rows.square().sum(0) / self.inverse.diagonal()
        count = len(self.inverse) // self.each
        blocks = self.inverse.reshape(count, self.each, count, self.each)
        own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        columns = self.rows.reshape(-1, count, self.each).permute(1, 2, 0)  # n, each, rows
        # Positive definite matrices; MKL's LU of a batch fails where it runs on several threads.
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(own), columns, upper=False)
        costs: Tensor = half.square().sum((1, 2))
        return costs

    def give_up(self, gone: Tensor, kept: Tensor) -> None:
        """gone, kept: (·,) int64, places among the channels that were left."""
        own = torch.arange(self.each, device=gone.device)
        gone = (gone[:, None] * self.each + own).flatten()
        kept = (kept[:, None] * self.each + own).flatten()
        across = self.inverse[gone][:, kept]
        factor = torch.linalg.cholesky(self.inverse[gone][:, gone])
        solved = torch.cholesky_solve(across, factor)
        self.rows = self.rows[:, kept] - self.rows[:, gone] @ solved
        self.inverse = self.inverse[kept][:, kept] - across.mT @ solved


def _order(readers: Sequence[Reader], width: int) -> Tensor:
    left = [_Left(reader) for reader in readers]
    channels, given_up = readers[0].every(), []
    step = -(-width // _STEPS)
    while len(channels) > 1:
        costs = torch.stack([one.costs() for one in left]).sum(0)
        by_cost = costs.argsort(stable=True)
        gone = by_cost[: min(step, len(channels) - 1)]
        kept = by_cost[len(gone) :].sort().values
        for one in left:
            one.give_up(gone, kept)
        given_up.append(channels[gone])
        channels = channels[kept]
    return torch.cat([*given_up, channels]).flip(0)
