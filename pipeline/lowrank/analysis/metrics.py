"""Metrics: the norm in which the error of a layer is measured, as a whitening of its weight.

‖G^½·ΔW·A^½‖ is the Frobenius norm of left·ΔW·right for any left, right with leftᵀ·left = G and
right·rightᵀ = A. So every method works on the whitened weight in the plain Frobenius norm, with
all its theorems, and its outermost factors are turned back afterwards. A and G are never
inverted beyond their damping, and one eigenbasis serves every rank.

G ⊗ A is the Kronecker-factored Fisher matrix of K-FAC (Martens & Grosse 2015, arXiv 1503.05671;
convolutions: Grosse & Martens 2016). For SVDs of language models it is also the norm of GFWSVD
(arXiv 2505.17974), OBD-LLM (arXiv 2604.00821) and IO-SVD (arXiv 2605.15626); the metric `input` is
SVD-LLM's (arXiv 2403.07378).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.lowrank.analysis.moments import Moments
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.linalg import split_groups
from pipeline.lowrank.network.targets import Target

METRICS = ("weight", "input", "fisher")

DAMPING = 0.1  # what is added to G, relative to its mean diagonal

# Input directions that calibration never shows keep this share of the mean input energy: the
# factors stay defined there, and what they do there changes nothing that was measured.
INPUT_DAMPING = 1e-6
UNCERTAIN = 2e-7  # of the trace, about the largest eigenvalue: float32's rounding


@dataclass(frozen=True)
class Metric:
    """Whitening of one target, float64.

    left: (groups, out/groups, out/groups) upper triangular, leftᵀ·left = G; (groups, out/groups)
        where G is diagonal; None for G = I.
    right: (groups, in/groups, in/groups) lower triangular, right·rightᵀ = A; (groups, in/groups)
        where A is diagonal. Kernels are whitened on their channel modes, with A averaged over the
        taps.
    mean: (groups, in/groups) E[x] of a layer that has a bias, else None. A is then the covariance,
        because the bias takes up the mean error (`bias_update`).
    """

    left: Tensor | None
    right: Tensor
    mean: Tensor | None = None

    def of_group(self, index: int) -> Metric:
        """That of one group alone."""
        left, right, mean = (
            None if one is None else one[index : index + 1]
            for one in (self.left, self.right, self.mean)
        )
        assert right is not None
        return Metric(left, right, mean)

    def whiten(self, weight: Tensor) -> Tensor:
        """(out, in/groups, *kernel) → the same shape: left · weight · right, float64."""
        kernel = _by_taps(weight.to(torch.float64), len(self.right))
        if _is_diagonal(self.right):
            whitened = kernel * self.right[:, None, :, None]
        else:
            whitened = torch.einsum("goik,gij->gojk", kernel, self.right)
        if self.left is not None and _is_diagonal(self.left):
            whitened = self.left[:, :, None, None] * whitened
        elif self.left is not None:
            whitened = torch.einsum("gpo,goik->gpik", self.left, whitened)
        return whitened.reshape(weight.shape)

    def times_left(self, rows: Tensor) -> Tensor:
        """rows (groups, rank, out/groups) · left."""
        if self.left is None:
            return rows
        return rows * self.left[:, None] if _is_diagonal(self.left) else rows @ self.left

    def unwhiten(self, factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Factors of a whitened weight → factors of the weight.

        By the contract of methods the first factor alone contracts the in-channels (its mode 1)
        and the last alone makes the out-channels (its mode 0).
        """
        first, *middle, last = factors
        return (self._unwhiten_inputs(first), *middle, self.unwhiten_outputs(last))

    def unwhiten_outputs(self, last: Tensor) -> Tensor:
        """A last factor of a whitened weight with left⁻¹ multiplied into its mode 0."""
        if self.left is None:
            return last
        matrix = split_groups(last, len(self.left)).flatten(2)  # g, out, rank · taps
        if _is_diagonal(self.left):
            return (matrix / self.left[:, :, None]).reshape(last.shape)
        turned: Tensor = torch.linalg.solve_triangular(self.left, matrix, upper=True)
        return turned.reshape(last.shape)

    def _unwhiten_inputs(self, first: Tensor) -> Tensor:
        """A first factor of a whitened weight with right⁻¹ multiplied into its mode 1."""
        kernel = _by_taps(first, len(self.right))
        groups, rank, inputs, taps = kernel.shape
        if _is_diagonal(self.right):
            return (kernel / self.right[:, None, :, None]).reshape(first.shape)
        # One matrix a group: a solve for each rank would read `right` as often.
        matrix = kernel.transpose(2, 3).reshape(groups, rank * taps, inputs)
        turned: Tensor = torch.linalg.solve_triangular(self.right, matrix, upper=False, left=False)
        return turned.view(groups, rank, taps, inputs).transpose(2, 3).reshape(first.shape)

    def bias_update(self, change: Tensor) -> Tensor | None:
        """(out,) what is to be added to the bias when the weight loses `change` (out, in/groups,
        *kernel): change·E[x], which gives the least squared error; None for a layer without a
        bias."""
        if self.mean is None:
            return None
        kernel = _by_taps(change.to(torch.float64), len(self.right))
        return torch.einsum("goik,gi->go", kernel, self.mean).flatten()


def _is_diagonal(side: Tensor) -> bool:
    """Whether a side (groups, n) is a diagonal; it is a matrix (groups, n, n) otherwise."""
    return side.dim() == 2


def _by_taps(weight: Tensor, groups: int) -> Tensor:
    """(out, in/groups, *kernel) → (groups, out/groups, in/groups, taps)."""
    return weight.reshape(groups, -1, weight.shape[1], weight[0, 0].numel())


def make_metric(name: str, moments: Moments, target: Target, damping: float) -> Metric:
    """The metric `input` or `fisher` of a target.

    input: ‖ΔW·A^½‖, A = E[xxᵀ], the error of the layer's output, which SVD-LLM minimises too.
    fisher: ‖G^½·ΔW·A^½‖; half its square ≈ the increase of the loss in nats per unit (token or
        example). G is damped by `damping` times its mean diagonal.

    Of an Embedding, A is diagonal: how often each entry is read. An entry that calibration never
    reads keeps only the damping, as a direction that no input has.

    The result is float32, and the metric is defined by it: it is the same after a round trip
    through a file. Raises LowRankError for `fisher` and moments without gradients, and for another
    name.
    """
    left = None
    if name == "fisher":
        if moments.outputs is None:
            raise LowRankError(
                f"layer {target.name!r}: the metric fisher needs gradients, and none reaches it; "
                f"leave it out with analyze.exclude=[{target.name}], or choose the metric input"
            )
        outputs = moments.outputs
        left = _left(outputs, _floor(outputs, damping), target.name)
    gram, mean = _channels(moments, target.kernel_size)
    floor = _floor(gram, INPUT_DAMPING)
    if not target.bias:
        return Metric(left, _stored(_root(gram, floor, target.name)))
    # The floor of the whole Gram: a channel that hardly varies still carries its mean.
    covariance = _channel_covariance(moments, target.kernel_size, gram, mean)
    return Metric(left, _stored(_root(covariance, floor, target.name)), _stored(mean))


def _left(outputs: Tensor, floor: Tensor, name: str) -> Tensor:
    diagonal = _is_diagonal(outputs)
    return _stored(_root(outputs, floor, name) if diagonal else _root(outputs, floor, name).mT)


def _root(moments: Tensor, floor: Tensor, name: str) -> Tensor:
    if _is_diagonal(moments):
        return (moments + floor).sqrt()
    return cholesky(moments, floor, name)


def _stored(value: Tensor) -> Tensor:
    value = value.float().contiguous()  # of one that the caller drops, only this is left now
    return value.double()


def _channels(moments: Moments, taps: int) -> tuple[Tensor, Tensor]:
    """Second moment and mean of the input channels, averaged over the taps of a patch."""
    if _is_diagonal(moments.inputs):
        return moments.inputs, moments.mean
    mean = moments.mean.reshape(len(moments.mean), -1, taps).mean(-1)
    return _over_taps(moments.inputs, taps), mean


def _over_taps(matrix: Tensor, taps: int) -> Tensor:
    """(groups, channels · taps, channels · taps) → its mean over equal taps, (groups, channels,
    channels)."""
    if taps == 1:
        return matrix
    groups, size = matrix.shape[:2]
    blocks = matrix.reshape(groups, size // taps, taps, size // taps, taps)
    return blocks.diagonal(dim1=2, dim2=4).mean(-1)


def _channel_covariance(moments: Moments, taps: int, gram: Tensor, mean: Tensor) -> Tensor:
    """Second moment of the input channels around their mean over the taps; from centred sums where
    there are some."""
    if moments.covariance is None:
        return gram - mean[:, :, None] * mean[:, None, :]
    apart = moments.mean.reshape(*mean.shape, taps) - mean[:, :, None]
    return _over_taps(moments.covariance, taps) + apart @ apart.mT / taps


def _floor(gram: Tensor, damping: float) -> Tensor:
    """(groups, 1) what is added to the diagonal of a Gram matrix: damping · (mean diagonal), and
    what float32 sums leave uncertain of its smallest eigenvalues. A group that is zero is damped as
    the mean group is; 1 where all are zero, which so count as I."""
    diagonal = gram if _is_diagonal(gram) else gram.diagonal(dim1=-2, dim2=-1)
    mean, trace = diagonal.mean(-1, keepdim=True), diagonal.sum(-1, keepdim=True)
    alive = mean > 0
    mean = torch.where(alive, mean, mean.mean(0, keepdim=True))
    trace = torch.where(alive, trace, trace.mean(0, keepdim=True))
    return torch.where(mean > 0, damping * mean + UNCERTAIN * trace, 1.0)


def cholesky(gram: Tensor, floor: Tensor, name: str) -> Tensor:
    """Lower Cholesky factor of gram + floor · I, as torch.linalg.cholesky; with a larger floor
    where rounding leaves the sum indefinite. Raises LowRankError, which names the layer, where 10⁴
    times the floor is not enough."""
    for larger in (1, 10, 100, 1000, 10_000):
        damped = gram.clone()
        damped.diagonal(dim1=-2, dim2=-1).add_(larger * floor)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed.any():
            return factor
    raise LowRankError(
        f"layer {name!r}: the second moments of the calibration data are no covariance, even "
        f"damped {larger:,} times as much as usual; leave the layer out with "
        f"analyze.exclude=[{name}], or choose metric=weight"
    )
