"""What methods see of a layer whose inner dimension is narrower: its weight, its metric and its
spectra.

A layer that reads the channels is W' = W·T there, with the metric of the channels that are kept. It
may be factorized further, W' ≈ Ŵ: what the regression leaves has no correlation with the channels
that are kept, so that its error and that of the factors add up to the layer's, exactly. A layer
that makes the channels is the kept rows of its weight, in the metric of these outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.spectra import Spectra, View, analyze_weight
from pipeline.lowrank.methods.elimination import Elimination, Ordered, Reader
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member


class NarrowerLayer:
    """One layer that makes or reads an inner dimension, at every width of one elimination."""

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
        self.width, self.elimination = dimension.width, elimination
        self.ordered: Ordered | None = None
        if member.role == "reads":
            self.ordered = Ordered(
                Reader(member, weight, metric, self.width), elimination.order.to(weight.device)
            )

    def weight(self, width: int) -> Tensor:
        """The layer's weight where `width` of the channels are kept, float64."""
        if self.ordered is not None:
            return self.ordered.narrowed(width)
        return self.dense.double().index_select(0, self._kept(width))

    def metric_at(self, width: int) -> Metric | None:
        """The metric of that weight."""
        if self.metric is None:
            return None
        left, right, mean = self.metric.left, self.metric.right, self.metric.mean
        kept = self._kept(width)
        if self.ordered is not None:
            return Metric(left, _root_of(right, kept), None if mean is None else mean[:, kept])
        if left is not None:
            left = _root_of(left.mT, kept).mT if left.dim() == 3 else left[:, kept]
        return Metric(left, right, mean)

    def _kept(self, width: int) -> Tensor:
        kept = self.elimination.kept(width).to(self.dense.device)
        return self.member.index(kept, self.width)

    def spectra(self, widths: Sequence[int]) -> dict[int, Spectra]:
        """{width: spectra of the whitened weight there, without their bases}."""
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


def _of_matrix(squares: Tensor) -> Spectra:
    empty = squares.new_empty(1, len(squares), 0)
    return Spectra(float(squares.sum()), {"mode0": View(squares.cpu(), empty)})


def _without_bases(spectra: Spectra) -> Spectra:
    views = {n: View(v.eigenvalues, v.basis[..., :0].clone()) for n, v in spectra.views.items()}
    return Spectra(spectra.squared_norm, views, spectra.core_energy)
