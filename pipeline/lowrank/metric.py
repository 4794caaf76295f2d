"""Metrics: the norm in which the error of a layer is measured, as a whitening of its weight.

‖G^½·ΔW·A^½‖ is the Frobenius norm of left·ΔW·right for any left, right with leftᵀ·left = G and
right·rightᵀ = A. So every method works on the whitened weight in the plain Frobenius norm, with
all its theorems, and its outermost factors are turned back afterwards. A and G are never
inverted beyond their damping, and one eigenbasis serves every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.linalg import split_groups
from pipeline.lowrank.moments import Moments

# Input directions that calibration never shows keep this share of the mean input energy: the
# factors stay defined there, and what they do there changes nothing that was measured.
INPUT_DAMPING = 1e-6


@dataclass(frozen=True)
class Metric:
    """Whitening of one target, float64.

    left: (groups, out/groups, out/groups) upper triangular, leftᵀ·left = G, or None for G = I;
    right: (groups, in/groups, in/groups) lower triangular, right·rightᵀ = A. Kernels are
    whitened on their channel modes, with A averaged over the taps.
    """

    left: Tensor | None
    right: Tensor

    def whiten(self, weight: Tensor) -> Tensor:
        """(out, in/groups, *kernel) → the same shape: left · weight · right, float64."""
        kernel = _by_taps(weight.to(torch.float64), len(self.right))
        whitened = torch.einsum("goik,gij->gojk", kernel, self.right)
        if self.left is not None:
            whitened = torch.einsum("gpo,goik->gpik", self.left, whitened)
        return whitened.reshape(weight.shape)

    def unwhiten(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Factors of a whitened weight → factors of the weight.

        By the contract of methods the first factor alone contracts the in-channels (its mode 1)
        and the last alone makes the out-channels (its mode 0).
        """
        groups = len(self.right)
        first, *middle, last = factors
        kernel = _by_taps(first, groups)  # g, rank, in, taps
        turned = torch.linalg.solve_triangular(
            self.right[:, None], kernel.transpose(2, 3), upper=False, left=False
        )
        first = turned.transpose(2, 3).reshape(first.shape)
        if self.left is not None:
            matrix = split_groups(last, groups).flatten(2)  # g, out, rank · taps
            last = torch.linalg.solve_triangular(self.left, matrix, upper=True).reshape(last.shape)
        return (first, *middle, last)


def _by_taps(weight: Tensor, groups: int) -> Tensor:
    """(out, in/groups, *kernel) → (groups, out/groups, in/groups, taps)."""
    return weight.reshape(groups, -1, weight.shape[1], weight[0, 0].numel())


def input_metric(moments: Moments, taps: int) -> Metric:
    """‖ΔW·A^½‖, A = E[xxᵀ]: the error of the layer's output (as SVD-LLM minimises it)."""
    return Metric(None, _right(moments, taps))


def fisher_metric(moments: Moments, taps: int, damping: float) -> Metric:
    """‖G^½·ΔW·A^½‖, half its square ≈ the increase of the loss in nats per unit (token or
    example), G damped by `damping` times its mean diagonal.

    Raises LowRankError when the moments hold no gradients.
    """
    if moments.outputs is None:
        raise LowRankError("the metric fisher needs gradients: collect moments with gradients=True")
    return Metric(_cholesky(moments.outputs, damping).mT.contiguous(), _right(moments, taps))


def _right(moments: Moments, taps: int) -> Tensor:
    gram = moments.inputs
    if taps > 1:
        size = gram.shape[-1] // taps
        blocks = gram.reshape(len(gram), size, taps, size, taps)
        gram = blocks.diagonal(dim1=2, dim2=4).mean(-1)
    return _cholesky(gram, INPUT_DAMPING)


def _cholesky(gram: Tensor, damping: float) -> Tensor:
    """Lower Cholesky factor of gram + damping · (mean diagonal) · I; a zero Gram counts as I."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    shift = torch.where(mean > 0, damping * mean, 1.0).expand_as(diagonal)
    factor: Tensor = torch.linalg.cholesky(gram + torch.diag_embed(shift))
    return factor
