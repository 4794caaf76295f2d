"""What methods see of a layer whose inner dimension is narrower: its weight, its metric and its
spectra.

A layer that reads the channels is W' = W·T there, with the metric of the channels that are kept. It
may be factorized further, W' ≈ Ŵ: what the regression leaves has no correlation with the channels
that are kept, so that its error and that of the factors add up to the layer's, exactly. A layer
that makes the channels is the kept rows of its weight, in the metric of these outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.spectra import Spectra, View, analyze_weight
from pipeline.lowrank.methods.elimination import Elimination, Ordered, Reader
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.linalg import split_groups


class NarrowerLayer:
    """One layer that makes or reads an inner dimension, at every width of one elimination. Of a
    stack each expert is looked at by itself, when it is asked for: in float64 all of them at once
    would take many times the memory of the layer."""

    def __init__(
        self,
        member: Member,
        weight: Tensor,
        metric: Metric | None,
        dimension: InnerDimension,
        elimination: Elimination,
    ) -> None:
        """weight: (out, in, *kernel) of the dense layer; metric: None is the Frobenius norm."""
        self.member, self.dense, self.metric = member, weight, metric
        self._dimension, self._elimination = dimension, elimination
        self._only = self._group(0) if dimension.groups == 1 else None

    @property
    def reads(self) -> bool:
        """Whether the layer reads the channels; else it makes them."""
        return self.member.role == "reads"

    def weight(self, width: int) -> Tensor:
        """The layer's weight where `width` of the channels are kept, float64."""
        return _joined([group.weight(width) for group in self._groups()])

    def metric_at(self, width: int) -> Metric | None:
        """The metric of that weight."""
        found = [group.metric_at(width) for group in self._groups()]
        known = [one for one in found if one is not None]
        if len(known) < 2:
            return found[0]
        sides = [(one.left, one.right, one.mean) for one in known]
        left, right, mean = (
            _joined([part for part in parts if part is not None]) if parts[0] is not None else None
            for parts in zip(*sides, strict=True)
        )
        assert right is not None
        return Metric(left, right, mean)

    def spectra(self, widths: Sequence[int]) -> dict[int, Spectra]:
        """{width: spectra of the whitened weight there, without their bases}."""
        found = [group.spectra(widths) for group in self._groups()]
        return {width: _summed([one[width] for one in found]) for width in widths}

    def errors(self) -> Tensor:
        """(width + 1,) the squared errors of a layer that reads the channels, at each width."""
        return torch.stack([group.errors() for group in self._groups()]).sum(0)

    def _groups(self) -> Iterator[_Group]:
        if self._only is not None:
            yield self._only
            return
        for index in range(self._dimension.groups):
            yield self._group(index)

    def _group(self, index: int) -> _Group:
        weight, metric = split_groups(self.dense, self._dimension.groups)[index], self.metric
        order = self._elimination.of_group(index)
        return _Group(
            self.member, weight, metric and metric.of_group(index), self._dimension.width, order
        )


@dataclass(eq=False)
class _Group:
    """A layer, or one expert of a stack."""

    member: Member
    dense: Tensor
    metric: Metric | None
    width: int
    elimination: Elimination

    @cached_property
    def ordered(self) -> Ordered | None:
        if self.member.role != "reads":
            return None
        reader = Reader(self.member, self.dense, self.metric, self.width)
        return Ordered(reader, self.elimination.order.to(self.dense.device))

    def errors(self) -> Tensor:
        assert self.ordered is not None, "a layer that reads the channels"
        return self.ordered.errors()

    def weight(self, width: int) -> Tensor:
        if self.ordered is not None:
            return self.ordered.narrowed(width)
        return self.dense.double().index_select(0, self._kept(width))

    def metric_at(self, width: int) -> Metric | None:
        if self.metric is None:
            return None
        left, right, mean = self.metric.left, self.metric.right, self.metric.mean
        kept = self._kept(width)
        if self.member.role == "reads":
            return Metric(left, _root_of(right, kept), None if mean is None else mean[:, kept])
        if left is not None:
            left = _root_of(left.mT, kept).mT if left.dim() == 3 else left[:, kept]
        return Metric(left, right, mean)

    def _kept(self, width: int) -> Tensor:
        kept = self.elimination.kept(width).to(self.dense.device)
        return self.member.index(kept, self.width)

    def spectra(self, widths: Sequence[int]) -> dict[int, Spectra]:
        if self.dense[0, 0].numel() == 1:
            sizes = [width * self.member.count for width in widths]
            found = _nested(*self._rows(), sizes)
            return {w: _of_matrix(squares) for w, squares in zip(widths, found, strict=True)}
        spectra = {}
        for width in widths:
            metric, weight = self.metric_at(width), self.weight(width)
            spectra[width] = _without_bases(
                analyze_weight(metric.whiten(weight) if metric else weight)
            )
        return spectra

    def _rows(self) -> tuple[Tensor, Tensor | None]:
        """(X, G): the first rows X' of X, and G' of G in the same places, are those of a width,
        whose squared singular values are the eigenvalues of X'ᵀ·G'·X'. None for G = I."""
        if self.ordered is not None:
            return self.ordered.layer.times_left(self.ordered.white).flatten(0, 1).mT, None
        metric, matrix = self.metric, self.dense.double().flatten(1)
        order = self.elimination.order.to(matrix.device)
        at = self.member.places(order, self.width).flatten()
        if metric is None:
            return matrix[at], None
        right = metric.right[0]
        rows = (matrix * right if right.dim() == 1 else matrix @ right)[at]
        if metric.left is None:
            return rows, None
        left = metric.left[0]
        if left.dim() == 1:
            return left[at, None] * rows, None
        return rows, left[:, at].mT @ left[:, at]


def spectra_inside(
    dimension: InnerDimension,
    elimination: Elimination,
    weights: Mapping[str, Tensor],
    metrics: Mapping[str, Metric],
    widths: Sequence[int],
) -> dict[int, dict[str, Spectra]]:
    """{width: {layer: its spectra there}} of the layers that make and read a dimension.

    weights: {layer: (out, in, *kernel)}.
    metrics: {layer: its metric}; empty for the metric `weight`.
    widths: ascending.
    """
    found: dict[int, dict[str, Spectra]] = {width: {} for width in widths}
    for member in dimension.ends:
        layer = member.layer
        one = NarrowerLayer(member, weights[layer], metrics.get(layer), dimension, elimination)
        for width, spectra in one.spectra(widths).items():
            found[width][layer] = spectra
    return found


def _root_of(root: Tensor, kept: Tensor) -> Tensor:
    """Lower triangular R (1, n, n), or a diagonal (1, n), with R·Rᵀ the block of root·rootᵀ at
    these places."""
    if root.dim() == 2:
        return root[:, kept]
    rows = root[:, kept]
    found: Tensor = torch.linalg.cholesky(rows @ rows.mT)
    return found


def _nested(rows: Tensor, gram: Tensor | None, sizes: Sequence[int]) -> Iterator[Tensor]:
    """The squared singular values, descending, of root(gram)·rows for the first rows alone, for
    each of the ascending sizes; the products of one size are used in the next one.

    rows: (n, m); gram: (n, n), None for the identity.
    """
    if len(rows) <= rows.shape[1]:
        inner = rows @ rows.mT
        for size in sizes:
            square = inner[:size, :size]
            if gram is not None:
                root = torch.linalg.cholesky(gram[:size, :size])
                square = root.mT @ square @ root
            yield torch.linalg.eigvalsh(square).flip(0).clamp_min(0.0)
        return
    total, start = rows.new_zeros(rows.shape[1], rows.shape[1]), 0
    for size in sizes:
        new = rows[start:size]
        if gram is None:
            total = total + new.mT @ new
        else:
            across = new.mT @ (gram[start:size, :start] @ rows[:start])
            total = total + across + across.mT + new.mT @ (gram[start:size, start:size] @ new)
        start = size
        yield torch.linalg.eigvalsh(total).flip(0).clamp_min(0.0)[:size]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One below the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _summed(spectra: Sequence[Spectra]) -> Spectra:
    """The spectra of several groups as those of one layer, without bases."""
    first, *others = spectra
    if not others:
        return first
    values = torch.stack([one.views["mode0"].eigenvalues for one in spectra]).sum(0)
    empty = values.new_empty(len(spectra), len(values), 0)
    return Spectra(math.fsum(one.squared_norm for one in spectra), {"mode0": View(values, empty)})


def _of_matrix(squares: Tensor) -> Spectra:
    empty = squares.new_empty(1, len(squares), 0)
    return Spectra(float(squares.sum()), {"mode0": View(squares.cpu(), empty)})


def _without_bases(spectra: Spectra) -> Spectra:
    views = {n: View(v.eigenvalues, v.basis[..., :0].clone()) for n, v in spectra.views.items()}
    return Spectra(spectra.squared_norm, views, spectra.core_energy)
