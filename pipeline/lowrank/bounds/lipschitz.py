"""Lipschitz constants (‖f(a) − f(b)‖ ≤ L·‖a − b‖) of everything that is no weight layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.bounds.linear import NotCertifiedError
from pipeline.lowrank.bounds.norms import EPS, absolute_norm

_KIM = (
    "dot-product attention is not globally Lipschitz (Kim et al. 2021), so no bound on the error "
    "at its input bounds the error behind it"
)
# The supremum of |φ'|, rounded up. GELU: Φ(x) + xφ(x), largest at √2 (its tanh form is a little
# steeper, at 1.4185); SiLU: at the root of 2 + x(1 − 2σ(x)) = 0, 2.3994; Mish: at 1.4906,
# numerically; SELU: scale·α at 0⁻; Hardswish: (2x + 3)/6 at 3; Hardsigmoid: 1/6. The others
# are read off.
_FIXED: dict[type[nn.Module], float] = {
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.GELU: 1.129,
    nn.SiLU: 1.09984,
    nn.Mish: 1.08850,
    nn.SELU: 1.75810,
    nn.Hardswish: 1.5,
    nn.Hardsigmoid: 0.16667,
    nn.Hardtanh: 1.0,
    nn.Softplus: 1.0,
    nn.CELU: 1.0,
    nn.LogSigmoid: 1.0,
    nn.Softsign: 1.0,
    nn.Tanhshrink: 1.0,
    nn.Softshrink: 1.0,
}
_BY_PARAMETER: dict[type[nn.Module], Callable[[Any], float]] = {
    nn.LeakyReLU: lambda m: max(1.0, abs(m.negative_slope)),
    nn.ELU: lambda m: max(1.0, abs(m.alpha)),
    nn.PReLU: lambda m: max(1.0, m.weight.abs().max().item()),
}
_NO_CHANGE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle)
_DROPOUT = nn.modules.dropout._DropoutNd
_MAX_POOL = nn.modules.pooling._MaxPoolNd
_ADAPTIVE_MAX_POOL = nn.modules.pooling._AdaptiveMaxPoolNd
_ATTENTION = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)
_NON_NEGATIVE = (
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.modules.padding._CircularPadNd,
)


@dataclass(frozen=True)
class Lipschitz:
    """Lipschitz constants of one map.

    constant: holds everywhere.
    rounding: what arithmetic can add for ‖input‖ = 1.
    local: local(value, error) is (N,) constants for inputs within `error` (N,) of `value` (N, …);
        None where it would be no better.
    cap: ‖output‖ ≤ cap for every input.
    activation: whether the map is an elementwise φ.
    """

    constant: float
    rounding: float = 0.0
    local: Callable[[Tensor, Tensor], Tensor] | None = None
    cap: float = math.inf
    activation: bool = False


def module_constant(module: nn.Module, shape: torch.Size) -> Lipschitz:
    """The constant of a layer without linear weights, for inputs (N, …) of `shape`.

    Raises NotCertifiedError where there is none, or none is known.
    """
    kind = type(module)
    if kind in _FIXED or kind in _BY_PARAMETER:
        constant = _FIXED[kind] if kind in _FIXED else _BY_PARAMETER[kind](module)
        return Lipschitz(constant, activation=True)
    if isinstance(module, _NO_CHANGE) or (isinstance(module, _DROPOUT) and not module.training):
        return Lipschitz(1.0)
    if isinstance(module, _MAX_POOL):
        return Lipschitz(_max_pool_constant(module, shape))
    if isinstance(module, _ADAPTIVE_MAX_POOL):
        return Lipschitz(_adaptive_max_pool_constant(module, shape))
    if isinstance(module, _NON_NEGATIVE):
        return non_negative_constant(module, shape)
    if isinstance(module, nn.Softmax):
        # The Jacobian is diag(p) − ppᵀ, whose absolute row sums are 2p(1 − p) ≤ ½.
        return Lipschitz(0.5, rounding=8 * shape[1:].numel() * EPS)
    if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return _normalisation_constant(module, shape)
    raise no_constant(module)


def no_constant(module: nn.Module) -> NotCertifiedError:
    """The error that no constant is known for this layer."""
    kind = type(module).__name__
    if isinstance(module, _ATTENTION):
        return NotCertifiedError(f"{kind}: {_KIM}")
    return NotCertifiedError(f"{kind} has no known Lipschitz constant")


def attention_refused(what: str) -> NotCertifiedError:
    """The error that attention has no constant."""
    return NotCertifiedError(
        f"{what} multiplies activations with each other, as attention does: {_KIM}"
    )


def non_negative_constant(op: Callable[[Tensor], Tensor], shape: torch.Size) -> Lipschitz:
    """The constant of a linear (or affine) map with non-negative entries: averages, sums, padding,
    upsampling.

    Its row sums are its values on ones, its column sums are the gradient of the sum of its values;
    ‖A‖₂ ≤ √(row·column) by Schur's test, which is exact for a plain average.
    """
    ones = torch.ones(1, *shape[1:], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        rows = op(ones)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    constant = rows.detach() - op(torch.zeros_like(ones)).detach()
    norm = absolute_norm(constant.max().item(), columns.max().item())
    # Sums have no more terms than an example has values.
    return Lipschitz(norm * (1 + 1e-13), rounding=columns.numel() * EPS * norm)


def _max_pool_constant(module: Any, shape: torch.Size) -> float:
    """√(windows that read one position): |max a − max b| is at most the largest |a − b| in
    the window, and each position counts once a window."""
    axes = len(shape) - 2
    sizes = (
        _each(module.kernel_size, axes),
        _each(module.stride, axes),
        _each(module.dilation, axes),
    )
    reads = 1
    for kernel, stride, dilation in zip(*sizes, strict=True):
        reads *= math.ceil(kernel / (stride // math.gcd(stride, dilation)))
    return math.sqrt(reads)


def _adaptive_max_pool_constant(module: Any, shape: torch.Size) -> float:
    reads = 1
    for n, wanted in zip(shape[2:], _each(module.output_size, len(shape) - 2), strict=True):
        outputs, counts = n if wanted is None else wanted, [0] * n
        for i in range(outputs):  # window i reads from ⌊i·n/outputs⌋ up to ⌈(i+1)·n/outputs⌉
            for position in range(i * n // outputs, -(-(i + 1) * n // outputs)):
                counts[position] += 1
        reads *= max(counts)
    return math.sqrt(reads)


def _each(value: Any, axes: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * axes


def _normalisation_constant(module: Any, shape: torch.Size) -> Lipschitz:
    """‖γ‖_∞/√(variance + ε): the Jacobian is that times a projection. Everywhere: ‖γ‖_∞/√ε,
    valid and huge (316 at ε = 10⁻⁵). Locally: an error e moves the deviation σ of a group of n
    values by e/√n at most, so σ − e/√n bounds it all the way from h to ĥ."""
    groups, centred = _groups(module, shape), not isinstance(module, nn.RMSNorm)
    eps = torch.finfo(torch.float64).eps if module.eps is None else module.eps
    largest = 1.0 if module.weight is None else module.weight.detach().abs().max().item()
    bias = getattr(module, "bias", None)
    shift = 0.0 if bias is None else bias.detach().abs().max().item()
    total = shape[1:].numel()
    size = total // groups

    def local(value: Tensor, error: Tensor) -> Tensor:
        grouped = value.reshape(len(value), groups, size)
        if centred:
            grouped = grouped - grouped.mean(-1, keepdim=True)
        deviation = grouped.square().mean(-1).sqrt().amin(1) * (1 - size * EPS)
        least = (deviation - error / math.sqrt(size)).clamp_min(0.0)
        return largest / (least.square() + eps).sqrt()

    constant = largest / math.sqrt(eps)
    cap = (largest + shift) * math.sqrt(total)
    return Lipschitz(constant, 8 * size * EPS * constant, local, cap)


def _groups(module: Any, shape: torch.Size) -> int:
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    return int(shape[1:].numel() // math.prod(module.normalized_shape))
