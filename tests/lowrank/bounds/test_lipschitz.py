"""Lipschitz constants: never below what can be seen, and not above what is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.bounds.linear import NotCertifiedError
from pipeline.lowrank.bounds.lipschitz import (
    _BY_PARAMETER,
    _FIXED,
    module_constant,
    non_negative_constant,
)
from tests.lowrank.bounds.test_norms import gaussian

ACTIVATIONS: list[nn.Module] = [
    *(kind() for kind in _FIXED),
    nn.GELU("tanh"),
    nn.CELU(0.5),
    nn.Hardtanh(-0.3, 2.0),
    nn.Softplus(beta=3.0),
    nn.LeakyReLU(),
    nn.LeakyReLU(2.5),
    nn.ELU(),
    nn.ELU(3.0),
    nn.PReLU(init=1.7),
]


def test_every_activation_has_a_row() -> None:
    assert {type(a) for a in ACTIVATIONS} == {*_FIXED, *_BY_PARAMETER}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activation_constant_is_the_largest_slope(activation: nn.Module) -> None:
    x = torch.linspace(-25, 25, 1_000_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation.double()(x).sum(), x)
    known = module_constant(activation, torch.Size([1, 5]))
    assert known.activation
    assert slope.abs().max().item() <= known.constant <= 1.0002 * slope.abs().max().item()


def jacobian_norm(op: Callable[[Tensor], Tensor], x: Tensor) -> float:
    jacobian = torch.autograd.functional.jacobian(op, x)
    assert isinstance(jacobian, Tensor)
    return float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), ord=2))


# (layer, shape of one example, factor by which the constant may exceed the largest ‖J‖ seen)
LAYERS = [
    (nn.MaxPool2d(2), (2, 6, 6), 1.001),
    (nn.MaxPool2d(3, 2, padding=1), (2, 7, 7), 1.7),  # the same entry wins all of its windows
    (nn.MaxPool2d(2, 1), (1, 5, 5), 1.3),
    (nn.MaxPool2d(2, 2, dilation=2), (1, 6, 6), 1.5),
    (nn.MaxPool1d(3), (2, 9), 1.001),
    (nn.AdaptiveMaxPool2d((2, 3)), (2, 5, 5), 1.5),
    (nn.AdaptiveMaxPool1d(3), (1, 6), 1 + 1e-9),  # its windows do not overlap
    (nn.AdaptiveMaxPool2d(2), (1, 4, 4), 1 + 1e-9),
    (nn.AdaptiveMaxPool2d((None, 2)), (1, 3, 4), 1 + 1e-9),
    (nn.AvgPool2d(2), (2, 6, 6), 1 + 1e-9),
    (nn.AvgPool2d((2, 3), (1, 2), padding=1), (1, 6, 6), 1.3),
    (nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False), (1, 6, 6), 1.9),
    (nn.AvgPool1d(4), (2, 8), 1 + 1e-9),
    (nn.AdaptiveAvgPool2d(1), (3, 4, 4), 1 + 1e-9),
    (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 5), 1.4),
    (nn.ZeroPad2d(2), (1, 3, 3), 1 + 1e-9),
    (nn.ReflectionPad2d(1), (1, 3, 4), 1 + 1e-9),
    (nn.ReplicationPad1d(2), (1, 4), 1 + 1e-9),
    (nn.ConstantPad1d(1, 5.0), (1, 4), 1 + 1e-9),
    (nn.Flatten(), (2, 3), 1 + 1e-9),
    (nn.Softmax(dim=1), (2,), 1.3),
    (nn.PixelShuffle(2), (4, 2, 2), 1 + 1e-9),
]


@pytest.mark.parametrize(("layer", "shape", "factor"), LAYERS, ids=str)
def test_layer_constant_is_above_every_jacobian(
    layer: nn.Module, shape: tuple[int, ...], factor: float
) -> None:
    constant = module_constant(layer, torch.Size([1, *shape])).constant
    seen = [jacobian_norm(layer, gaussian(1, *shape, seed=seed)) for seed in range(12)]
    assert max(seen) * (1 - 1e-12) <= constant <= factor * max(seen)


@pytest.mark.parametrize(
    ("op", "shape", "expected"),
    [
        (lambda x: x.mean((2, 3)), (1, 3, 4, 5), 1 / math.sqrt(20)),
        (lambda x: x.sum(1), (1, 9), 3.0),
        (lambda x: functional.pad(x, (1, 1)), (1, 2, 3), 1.0),
    ],
)
def test_non_negative_maps_are_exact(
    op: Callable[[Tensor], Tensor], shape: tuple[int, ...], expected: float
) -> None:
    known = non_negative_constant(op, torch.Size(shape))
    assert known.constant == pytest.approx(expected, rel=1e-12)
    assert jacobian_norm(op, gaussian(*shape)) == pytest.approx(expected, rel=1e-12)


NORMALISATIONS = [
    (nn.LayerNorm(8), (3, 8)),
    (nn.LayerNorm((3, 8), elementwise_affine=False), (3, 8)),
    (nn.GroupNorm(2, 4), (4, 3, 2)),
    (nn.RMSNorm(8), (3, 8)),
]


@pytest.mark.parametrize(("layer", "shape"), NORMALISATIONS, ids=str)
def test_normalisation_bounds_hold_near_and_far(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The local constant on every segment of length e; the global one at a vanishing input."""
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = gaussian(*parameter.shape, seed=seed) + 1
    layer.double()
    known = module_constant(layer, torch.Size([2, *shape]))
    assert known.local is not None
    value = 0.4 * gaussian(2, *shape, seed=5)
    for seed, length in enumerate((1e-6, 0.01, 0.1, 1.0, 10.0)):
        step = gaussian(2, *shape, seed=10 + seed)
        step = length * step / step.flatten(1).norm(dim=1).reshape(-1, *[1] * len(shape))
        change = (layer(value + step) - layer(value)).flatten(1).norm(dim=1)
        constant = known.local(value, torch.full((2,), length, dtype=torch.float64))
        assert torch.all(change <= constant * length * (1 + 1e-9))
        assert torch.all(constant <= known.constant * (1 + 1e-12))
        assert layer(value + step).flatten(1).norm(dim=1).max().item() <= known.cap
    near = known.local(value, torch.full((2,), 1e-6, dtype=torch.float64))
    assert near.max().item() < 0.2 * known.constant
    tiny = jacobian_norm(layer, 1e-9 * value[:1])
    assert 0.5 * known.constant <= tiny <= known.constant * (1 + 1e-9)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.MultiheadAttention(4, 1), "not globally Lipschitz"),
        (nn.TransformerEncoderLayer(4, 1), "not globally Lipschitz"),
        (nn.LSTM(4, 4), "LSTM has no known Lipschitz constant"),
        (nn.Dropout(), "Dropout has no known"),  # in training mode
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_has_no_constant_is_refused(layer: nn.Module, reason: str) -> None:
    with pytest.raises(NotCertifiedError, match=reason):
        module_constant(layer, torch.Size([1, 4, 4]))
