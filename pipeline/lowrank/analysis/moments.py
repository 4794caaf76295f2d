"""Second moments of a layer's inputs, and of the loss's gradient at its outputs. They are all that
the metrics `input` and `fisher` need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError

_WIDE, _STRIPE = 1024, 192  # from so many columns on, half of a Gram matrix is computed in stripes
_STEADY = 1e-3  # inputs vary by less than this part of their energy: their sums are centred


@dataclass(frozen=True)
class Moments:
    """Moments of one target, float64, one slice a group of a grouped convolution.

    inputs: (groups, n, n) mean over positions of x·xᵀ, n = in/groups · taps (a convolution's x is
        its im2col patch, as of torch.nn.functional.unfold). Of an Embedding (1, entries), the
        diagonal alone: x marks the entry that is looked up, so that x·xᵀ is diagonal, and its mean
        is how often each entry is read.
    mean: (groups, n) mean of x.
    outputs: (groups, out/groups, out/groups) sum over the positions of one unit of loss (a token,
        or an example) of g·gᵀ, g = ∂loss/∂output; (groups, out/groups), its diagonal alone, of a
        very wide layer; None where no gradient was collected or none reaches the layer.
    positions: how many positions were averaged.
    covariance: (groups, n, n) inputs − mean·meanᵀ, from sums of x less a constant, where inputs
        hardly vary and the difference would be rounding; else None.
    counts: of a stack, (groups,) the positions that went through each group; else None. Its
        `inputs` are scaled by each group's share of the positions, its `outputs` by none.

    ½·tr(outputs·ΔW·inputs·ΔWᵀ) is then a loss per unit, in the task's unit (Kronecker-factored
    Fisher: Martens & Grosse 2015; convolutions: Grosse & Martens 2016).
    """

    inputs: Tensor
    mean: Tensor
    outputs: Tensor | None
    positions: int
    covariance: Tensor | None = None
    counts: Tensor | None = None


def accumulate(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Adds a value to the sum of this name, in place."""
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value.clone()


def check_sums(name: str, *sums: Tensor | None) -> None:
    """Raises LowRankError where a layer's sums hold NaN or Inf."""
    if not all(torch.isfinite(one).all() for one in sums if one is not None):
        raise LowRankError(
            f"layer {name!r}: activations or gradients hold NaN or Inf on the calibration "
            "data; check the data and the checkpoint"
        )


def gram(rows: Tensor, others: Tensor | None = None) -> Tensor:
    """(groups, positions, n) → (groups, n, n) float64: rowsᵀ·rows or rowsᵀ·others, with products in
    float32 or better, also where the network itself runs in a lower precision."""
    with torch.autocast(rows.device.type, enabled=False):
        wide = widened(rows)
        if others is not None:
            return (wide.mT @ others.to(wide.dtype)).double()
        if wide.shape[-1] < _WIDE:
            return (wide.mT @ wide).double()
        found = wide.new_empty(len(wide), wide.shape[-1], wide.shape[-1])
        for start in range(0, wide.shape[-1], _STRIPE):  # the upper half only, in stripes
            end = start + _STRIPE
            stripe = wide[..., start:end].mT @ wide[..., start:]
            stripe = stripe.triu()  # its first square, on the diagonal, is mirrored too
            found[:, start:end, start:] = stripe
            found[:, start:, start:end] = stripe.mT
            square = stripe[..., : stripe.shape[-2]]
            found[:, start:end, start:end] = square + square.triu(1).mT
        return found.double()


class Read:
    """What layers read: those that read the very same tensor (query, key, value) share its sums."""

    def __init__(self, value: Tensor, rows: Tensor) -> None:
        self.value, self.rows = value, rows

    @cached_property
    def squares(self) -> Tensor:
        return gram(self.rows)

    @cached_property
    def total(self) -> Tensor:
        return self.rows.double().sum(1)


def steady_centre(rows: Tensor) -> Tensor | None:
    """(groups, n) the mean of inputs that hardly vary around it; None for others. Of (groups,
    positions, n) rows."""
    mean = rows.double().mean(1)
    variance = (rows.double() - mean[:, None]).square().sum()
    steady = bool(variance < _STEADY * rows.double().square().sum())
    return mean.to(widened(rows).dtype) if steady else None


def widened(rows: Tensor) -> Tensor:
    """Rows in float32 or better, in which their products are made."""
    return rows if rows.dtype == torch.float64 else rows.float()
