"""Operator norms of convolutions, from above.

The norm of a convolution is not the norm of its reshaped kernel. The smallest of three valid
bounds wins: the frequency response on a grid that holds the padded image, the norms of the
reshaped kernel, and Schur's test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.bounds.norms import (
    EXACT_UP_TO,
    Norm,
    absolute_norm,
    largest_norm,
    norm_from_below,
)
from pipeline.lowrank.network.kinds import padding_of

_COARSE = 12  # grid points a tap, beyond which the grid's own bound is 1 % from the supremum
_CHUNK = 2**19  # complex numbers of the frequency response in memory at once: 8 MB
_MOST_PRODUCTS = 2**31  # complex multiply-adds in the products K̂K̂ᴴ of all frequencies: some 2 s


@dataclass(frozen=True)
class Convolution:
    """A convolution as a linear map.

    kernel: (out, in / groups, *taps).
    size: of the image that it reads. A transposed convolution is the adjoint of a convolution, and
        has its norm: for it `size` is that of the image that it *writes*.
    stride, padding, dilation, groups, padding_mode: as of nn.Conv*; padding (before, after) each
        axis.
    """

    kernel: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    @classmethod
    def of(cls, module: nn.Module, kernel: Tensor, size: Sequence[int]) -> Convolution:
        """The map of an nn.Conv* or nn.ConvTranspose*, with `kernel` in the place of its own."""
        assert isinstance(module, nn.modules.conv._ConvNd)
        if module.transposed:  # the convolution that reads what it writes
            padding = tuple((int(zeros), int(zeros)) for zeros in module.padding)
        else:
            padding = padding_of(module, size)
        return cls(
            kernel.detach().to(torch.float64),
            tuple(size),
            tuple(module.stride),
            padding,
            tuple(module.dilation),
            module.groups,
            module.padding_mode,
        )

    @property
    def taps(self) -> tuple[int, ...]:
        """The sizes of the kernel."""
        return tuple(self.kernel.shape[2:])

    @property
    def reach(self) -> tuple[int, ...]:
        """Input positions from the first tap to the last, both counted."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.taps, self.dilation, strict=True))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Output positions along each axis."""
        axes = zip(self.size, self.padding, self.reach, self.stride, strict=True)
        return tuple((n + sum(pad) - reach) // s + 1 for n, pad, reach, s in axes)

    @property
    def copies(self) -> tuple[int, ...]:
        """The largest number of copies that padding makes of one input position, along each axis.
        Reflection, replication and wrapping are a 0/1 matrix P with ‖P‖₂ = √copies (PᵀP is
        diagonal)."""
        if self.padding_mode == "zeros":
            return (1,) * len(self.size)
        return tuple(
            _copies(n, pad, self.padding_mode)
            for n, pad in zip(self.size, self.padding, strict=True)
        )

    def grouped(self) -> Tensor:
        """(groups, out / groups, in / groups, *taps): the norm is the largest over groups."""
        return torch.unflatten(self.kernel, 0, (self.groups, -1))


def convolution_norm(conv: Convolution) -> Norm:
    """The smallest valid bound on ‖conv‖₂, as a map of images of `conv.size`; as
    torch.linalg.matrix_norm of the convolution's own matrix, from above.

    "fft": the frequency response (Sedghi et al. 2019) on the circle of the padded image, of which
    the convolution is a part; exact for circular padding of stride 1. "reshape": Singla & Feizi
    2021. "schur": √(‖·‖₁‖·‖_∞). A 1×1 kernel is a matrix ("svd", "gram").
    """
    row, column = absolute_sums(conv)
    bounds = [Norm(absolute_norm(row, column), "schur")]
    if math.prod(conv.taps) == 1:
        pad = math.prod(conv.copies) ** 0.5
        bounds.append(largest_norm([conv.grouped().flatten(2)]).scaled(pad))
    else:
        if (bound := _frequency_bound(conv)) is not None:
            bounds.append(bound)
        least = min(bound.value for bound in bounds)
        bounds += _reshape_bounds(conv, least, every=len(bounds) == 1)
    return min(bounds, key=lambda bound: bound.value)


def absolute_sums(conv: Convolution) -> tuple[float, float]:
    """(row, column): bounds on the largest absolute row sum and column sum of the operator's
    matrix."""
    absolute = conv.kernel.abs()
    row = absolute.flatten(1).sum(1).max().item()
    column = torch.unflatten(absolute, 0, (conv.groups, -1)).flatten(3).sum(dim=(1, 3)).max().item()
    return row, column * math.prod(conv.copies)


def _reshape_bounds(conv: Convolution, least: float, *, every: bool) -> Iterator[Norm]:
    """√(product of factors)·‖T‖ for T = the kernel with some tap axes beside the outputs and
    the others beside the inputs (four of them in two dimensions).

    Split: patches are read along the axes beside the inputs, where strides leave one input
    position in at most ⌈k/s⌉ patches (and in no more than there are); then T; then k shifted
    terms are added along each axis beside the outputs. Dilation leaves a stride s/gcd(s, d).
    T that surely give no less than `least` are skipped, and large T unless `every` is true, i.e.
    when there is nothing better.
    """
    weight, axes = conv.grouped(), range(len(conv.taps))
    padding = math.prod(conv.copies)
    reads = [
        min(math.ceil(k / (s // math.gcd(s, d))), outputs)
        for k, s, d, outputs in zip(
            conv.taps, conv.stride, conv.dilation, conv.outputs, strict=True
        )
    ]
    for beside in itertools.chain.from_iterable(
        itertools.combinations(axes, count) for count in range(len(axes) + 1)
    ):
        rest = [axis for axis in axes if axis not in beside]
        order = [0, 1, *(3 + a for a in beside), 2, *(3 + a for a in rest)]
        matrix = weight.permute(order).flatten(1, 1 + len(beside)).flatten(2)
        if min(matrix.shape[1:]) > EXACT_UP_TO and not (every and not beside):
            continue
        copies = math.prod(conv.taps[a] for a in beside) * math.prod(reads[a] for a in rest)
        factor = (copies * padding) ** 0.5
        if max(map(norm_from_below, matrix)) * factor < least:
            yield Norm(largest_norm([matrix]).value * factor, "reshape")


def _frequency_bound(conv: Convolution) -> Norm | None:
    """The largest ‖K̂(ω)‖₂ over a grid; None where that costs too much."""
    lengths, factor = _circle(conv)
    stride = conv.stride if all(lengths[a] % s == 0 for a, s in enumerate(conv.stride)) else None
    kernel = _polyphase(conv, stride or (1,) * len(lengths))
    grid = [n // s for n, s in zip(lengths, stride or (1,) * len(lengths), strict=True)]
    for axis, taps in enumerate(kernel.shape[3:]):
        if conv.padding_mode != "circular" and grid[axis] > _COARSE * taps:
            # Ehlich & Zeller 1964: a trigonometric polynomial of degree D is nowhere larger
            # than its maximum on N equidistant points divided by cos(πD/N).
            grid[axis] = _COARSE * taps
            factor /= math.cos(math.pi * (taps // 2) / grid[axis])
    half = [*grid[:-1], grid[-1] // 2 + 1]  # a real kernel: the other half is conjugate
    products = conv.groups * math.prod(half) * math.prod(kernel.shape[1:3])
    if products * min(kernel.shape[1:3]) > _MOST_PRODUCTS:
        return None
    return Norm(largest_norm(_responses(kernel, grid, half)).value * factor, "fft")


def _circle(conv: Convolution) -> tuple[list[int], float]:
    """(lengths of a circular grid of which the convolution is a part, factor of its norm).

    A circle as long as the padded image holds it and all outputs that don't wrap. With zeros
    around, n + reach − 1 is enough. Circular padding is the circle of n itself, whose outputs
    are repeated ⌈outputs/n⌉ times at most. Lengths are multiples of the stride where they may
    be; more zeros change nothing.
    """
    lengths, factor = [], 1.0
    for n, (before, after), s, reach, copies in zip(
        conv.size, conv.padding, conv.stride, conv.reach, conv.copies, strict=True
    ):
        padded = n + before + after
        if conv.padding_mode == "circular":
            lengths.append(n)
            factor *= math.ceil((padded - reach + 1) / n) ** 0.5
        else:
            if conv.padding_mode == "zeros":
                padded = min(padded, n + reach - 1)
            lengths.append(math.ceil(padded / s) * s)
            factor *= copies**0.5
    return lengths, factor


def _polyphase(conv: Convolution, stride: Sequence[int]) -> Tensor:
    """The kernel of the same map on an image cut into phases: (groups, out, in·Πstride, *taps)
    with stride and dilation 1. Position s·q + r of the image is position q of phase r."""
    weight = conv.grouped()
    for axis, (d, s, reach) in enumerate(zip(conv.dilation, stride, conv.reach, strict=True)):
        spread = weight.new_zeros(*weight.shape[: 3 + axis], reach, *weight.shape[4 + axis :])
        spread.transpose(0, 3 + axis)[::d] = weight.transpose(0, 3 + axis)
        missing = -reach % s
        pad = [0, 0] * (len(conv.taps) - 1 - axis) + [0, missing]
        weight = functional.pad(spread, pad)
    for axis, s in enumerate(stride):
        # (…, taps, …) → (…, taps / s, phase, …), phase moved behind the input channels
        phases = torch.unflatten(weight, 3 + axis, (-1, s)).movedim(4 + axis, 3)
        weight = phases.flatten(2, 3)
    return weight


def _responses(kernel: Tensor, grid: Sequence[int], half: Sequence[int]) -> Iterator[Tensor]:
    """K̂(ω) = Σ_t K_t·exp(−iω·t) on the grid, in stacks (frequencies, out, in) complex128.

    A matrix product and not torch.fft, which would cut a kernel longer than the grid."""
    steps = [
        torch.arange(points, dtype=torch.float64) / n for points, n in zip(half, grid, strict=True)
    ]
    taps = [torch.arange(size, dtype=torch.float64) for size in kernel.shape[3:]]
    turns = torch.cartesian_prod(*steps).reshape(-1, len(steps)) @ (
        torch.cartesian_prod(*taps).reshape(-1, len(taps)).T
    )
    waves = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)  # (frequencies, taps)
    count = max(1, _CHUNK // math.prod(kernel.shape[1:3]))
    for group in kernel.flatten(3).permute(0, 3, 1, 2).to(torch.complex128):
        for some in torch.split(waves, count):
            yield torch.tensordot(some, group, dims=1)


def _range(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


def _lattice(axes: Sequence[Tensor]) -> Tensor:
    """(points, axes): all combinations, the last axis fastest."""
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def _copies(n: int, pad: tuple[int, int], mode: str) -> int:
    positions = _range(n)[None, None]
    padded = functional.pad(positions, list(pad), mode=mode).flatten().to(torch.int64)
    return int(torch.bincount(padded).max())
