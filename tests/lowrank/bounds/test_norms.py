"""Norms from above: of matrices against LAPACK, of convolutions against their own matrices."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank.bounds import norms
from pipeline.lowrank.bounds.convolution import Convolution, absolute_sums, convolution_norm
from pipeline.lowrank.bounds.norms import absolute_norm, largest_norm, spectral_norm


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def operator_matrix(layer: nn.Module, shape: Sequence[int]) -> Tensor:
    """(outputs, inputs) of a layer's linear part on images (C, *size): its values on a basis."""
    linear = copy.deepcopy(layer).double()
    linear.bias = None  # type: ignore[assignment]
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        matrix: Tensor = linear(basis).flatten(1).T
    return matrix


def true_norm(layer: nn.Module, shape: Sequence[int]) -> float:
    return float(torch.linalg.matrix_norm(operator_matrix(layer, shape), ord=2))


def power_iteration(matrix: Tensor, steps: int = 20) -> float:
    """‖A‖₂ from below."""
    vector = gaussian(matrix.shape[1], seed=1)
    for _ in range(steps):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm()
    return float((matrix @ vector).norm())


def seeded(layer: nn.Module, seed: int = 0) -> nn.Module:
    for parameter in layer.parameters():
        parameter.data = gaussian(*parameter.shape, seed=seed)
    return layer


@pytest.mark.parametrize("shape", [(7, 7), (5, 40), (40, 5), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
@pytest.mark.parametrize("exact_up_to", [512, 0])
def test_norm_of_a_matrix(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], scale: float, exact_up_to: int
) -> None:
    """LAPACK's value; Gram iteration is above it by less than 0.5 %, whatever the scale."""
    monkeypatch.setattr(norms, "EXACT_UP_TO", exact_up_to)
    matrix = gaussian(*shape) * scale
    true = float(torch.linalg.matrix_norm(matrix / scale, ord=2)) * scale
    bound = spectral_norm(matrix)
    assert bound.theorem == ("svd" if exact_up_to else "gram")
    slack = 1e-12 if exact_up_to else 5e-3
    assert true * (1 - 1e-14) <= bound.value <= true * (1 + slack)
    if scale == 1.0:
        assert power_iteration(matrix) <= bound.value


@pytest.mark.parametrize("size", [64, 600])
def test_gram_iteration_on_the_worst_spectrum(size: int) -> None:
    """All singular values equal: the bound is above by m^(1/2^10) at most."""
    orthogonal = torch.linalg.qr(gaussian(size, size)).Q
    bound = spectral_norm(3 * orthogonal)
    assert bound.theorem == ("svd" if size <= norms.EXACT_UP_TO else "gram")
    assert 3 <= bound.value <= 3 * size ** (1 / 2**9)


def test_largest_of_a_stack() -> None:
    stack = torch.complex(gaussian(30, 4, 6), gaussian(30, 4, 6, seed=1))
    stack[7] = 0
    true = torch.linalg.matrix_norm(stack, ord=2).max().item()
    for parts in (1, 4, 30):
        assert largest_norm(stack.split(parts)).value == pytest.approx(true, rel=1e-12)
    assert largest_norm([torch.zeros(3, 4, 5)]).value == 0.0


def test_the_largest_of_a_stack_may_be_the_least_promising() -> None:
    """Power steps start from the rows' sum, here orthogonal to the largest singular vector."""
    small = torch.full((5, 4, 4), 0.1, dtype=torch.float64)
    large = torch.outer(torch.tensor([0.0, 1, -1, 0]), torch.tensor([0.0, 1, -1, 0])).double()
    stack = torch.cat([small, large[None], small])
    assert norms.norm_from_below(large) == 0.0
    assert largest_norm([stack]).value == pytest.approx(2.0, rel=1e-12)


def test_equal_matrices_cost_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of one tap has the same singular values at every frequency."""
    calls, eigvalsh = [], torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: calls.append(1) or eigvalsh(gram))
    phases = torch.polar(torch.ones(200, dtype=torch.float64), torch.arange(200.0).double())
    one = gaussian(9, 12)
    bound = largest_norm([phases[:, None, None] * one])
    assert bound.value == pytest.approx(float(torch.linalg.matrix_norm(one, ord=2)), rel=1e-11)
    assert len(calls) <= 3


@pytest.mark.parametrize("shape", [(7, 7), (5, 40), (40, 5), (1, 9)])
def test_norm_from_below(shape: tuple[int, int]) -> None:
    matrix = gaussian(*shape)
    true = float(torch.linalg.matrix_norm(matrix, ord=2))
    assert 0.8 * true <= norms.norm_from_below(matrix) <= true * (1 + 1e-12)


def test_schur_test_bounds_the_absolute_operator() -> None:
    matrix = gaussian(12, 7)
    row, column = matrix.abs().sum(1).max().item(), matrix.abs().sum(0).max().item()
    true = torch.linalg.matrix_norm(matrix.abs(), ord=2).item()
    assert true <= absolute_norm(row, column) <= 1.5 * true


# (layer, shape of the image): the bound is at most `factor` above the truth.
_C2 = nn.Conv2d
CONVOLUTIONS = [
    ("same 3x3", lambda: _C2(3, 5, 3, padding=1), (3, 6, 7), 1.10),
    ("valid 3x3", lambda: _C2(3, 5, 3), (3, 6, 7), 1.20),
    ("valid, one output", lambda: _C2(3, 5, 4), (3, 4, 4), 1.0001),
    ("full 3x3", lambda: _C2(3, 5, 3, padding=2), (3, 5, 5), 1.10),
    ("padded beyond", lambda: _C2(2, 3, 2, padding=3), (2, 4, 4), 1.10),
    ("even kernel", lambda: _C2(3, 2, (2, 4), padding=(1, 2)), (3, 6, 6), 1.10),
    ("same by name", lambda: _C2(2, 3, (4, 3), padding="same"), (2, 6, 5), 1.25),
    ("pointwise", lambda: _C2(4, 6, 1), (4, 3, 3), 1.0001),
    ("pointwise strided", lambda: _C2(4, 6, 1, stride=2), (4, 5, 5), 1.0001),
    ("pointwise padded", lambda: _C2(4, 6, 1, padding=1), (4, 3, 3), 1.0001),
    ("stride 2", lambda: _C2(3, 5, 3, stride=2, padding=1), (3, 8, 8), 1.10),
    ("stride 2, odd image", lambda: _C2(3, 5, 3, stride=2, padding=1), (3, 7, 9), 1.15),
    ("asymmetric stride", lambda: _C2(3, 4, (3, 5), (2, 3), padding=(1, 2)), (3, 8, 9), 1.15),
    ("stride above kernel", lambda: _C2(3, 4, 2, stride=3), (3, 8, 8), 1.0001),
    ("patches", lambda: _C2(3, 8, 4, stride=4), (3, 8, 8), 1.0001),
    ("dilation", lambda: _C2(3, 4, 3, padding=2, dilation=2), (3, 7, 7), 1.25),
    ("dilation and stride", lambda: _C2(3, 4, 3, 2, padding=2, dilation=2), (3, 8, 8), 1.25),
    ("dilation 3, stride 2", lambda: _C2(2, 3, 3, 2, padding=3, dilation=3), (2, 8, 8), 1.4),
    ("groups", lambda: _C2(6, 4, 3, padding=1, groups=2), (6, 6, 6), 1.15),
    ("depthwise", lambda: _C2(5, 5, 3, padding=1, groups=5), (5, 6, 6), 1.2),
    ("depthwise strided", lambda: _C2(4, 8, 3, 2, padding=1, groups=4), (4, 6, 6), 1.15),
    ("circular", lambda: _C2(3, 5, 3, padding=1, padding_mode="circular"), (3, 6, 5), 1 + 1e-12),
    (
        "circular strided",
        lambda: _C2(3, 5, 3, 2, padding=1, padding_mode="circular"),
        (3, 6, 8),
        1 + 1e-12,
    ),
    (
        "circular strided, odd",
        lambda: _C2(3, 5, 3, 2, padding=1, padding_mode="circular"),
        (3, 5, 7),
        1.35,
    ),
    (
        "circular beyond",
        lambda: _C2(2, 3, 3, padding=3, padding_mode="circular"),
        (2, 5, 5),
        2.0,
    ),
    ("circular, tiny", lambda: _C2(2, 3, 5, padding=2, padding_mode="circular"), (2, 3, 3), 1.0001),
    ("reflect", lambda: _C2(3, 5, 3, padding=1, padding_mode="reflect"), (3, 6, 6), 2.1),
    ("reflect wide", lambda: _C2(2, 3, 5, padding=2, padding_mode="reflect"), (2, 3, 4), 3.1),
    ("replicate", lambda: _C2(3, 5, 3, padding=1, padding_mode="replicate"), (3, 6, 6), 2.1),
    ("replicate wide", lambda: _C2(2, 3, 5, padding=2, padding_mode="replicate"), (2, 4, 5), 3.3),
    ("one dimension", lambda: nn.Conv1d(4, 6, 5, 2, padding=2), (4, 13), 1.10),
    ("one dimension, long", lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 90), 1.02),
    ("three dimensions", lambda: nn.Conv3d(2, 3, (2, 3, 3), padding=1), (2, 3, 4, 4), 1.35),
    ("transposed", lambda: nn.ConvTranspose2d(4, 3, 3, 2, padding=1), (4, 4, 4), 1.20),
    (
        "transposed, grouped",
        lambda: nn.ConvTranspose2d(4, 6, 4, 2, padding=1, groups=2),
        (4, 3, 3),
        1.20,
    ),
]


def as_convolution(layer: nn.Module, shape: Sequence[int]) -> Convolution:
    assert isinstance(layer, nn.modules.conv._ConvNd)
    size = list(shape[1:])
    if layer.transposed:
        size = list(layer(torch.zeros(1, *shape, dtype=torch.float64)).shape[2:])
    return Convolution.of(layer, layer.weight, size)


@pytest.mark.parametrize(
    ("make", "shape", "factor"),
    [pytest.param(*row[1:], id=row[0]) for row in CONVOLUTIONS],
)
def test_convolution_norm_is_above_the_operator_and_not_far(
    make: type[nn.Module], shape: tuple[int, ...], factor: float
) -> None:
    for seed in range(3):
        layer = seeded(make(), seed)
        true = true_norm(layer, shape)
        bound = convolution_norm(as_convolution(layer, shape))
        assert true * (1 - 1e-12) <= bound.value <= factor * true


@pytest.mark.parametrize(
    ("make", "shape"), [pytest.param(*row[1:3], id=row[0]) for row in CONVOLUTIONS]
)
def test_every_single_bound_holds(
    make: type[nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the bounds by itself, and the sums that Schur's test takes."""
    from pipeline.lowrank.bounds import convolution

    layer = seeded(make())
    conv = as_convolution(layer, shape)
    matrix = operator_matrix(layer, shape)
    if getattr(layer, "transposed", False):
        matrix = matrix.T
    true = torch.linalg.matrix_norm(matrix, ord=2).item() * (1 - 1e-12)
    single = [*convolution._reshape_bounds(conv, math.inf, every=True)]
    assert len(single) == 2 ** len(conv.taps)
    frequency = convolution._frequency_bound(conv)
    assert frequency is not None
    for bound in [*single, frequency]:
        assert true <= bound.value
    # With every cut of the spectrum into a coarse grid:
    monkeypatch.setattr(convolution, "_COARSE", 3)
    coarse = convolution._frequency_bound(conv)
    assert coarse is not None
    assert true <= coarse.value
    row, column = absolute_sums(conv)
    assert matrix.abs().sum(1).max().item() <= row * (1 + 1e-12)
    assert matrix.abs().sum(0).max().item() <= column * (1 + 1e-12)


def test_a_large_image_costs_a_coarse_grid_and_one_percent() -> None:
    layer = seeded(nn.Conv2d(3, 4, 3, padding=1))
    fine = Convolution.of(layer, layer.weight, (35, 35))  # type: ignore[arg-type]
    coarse = Convolution.of(layer, layer.weight, (4000, 4000))  # type: ignore[arg-type]
    small, large = convolution_norm(fine).value, convolution_norm(coarse).value
    assert 0.99 * small <= large <= 1.02 * small


def test_reshapes_obey_singla_and_feizi() -> None:
    """‖T‖ ≤ ‖conv‖ ≤ √(hw)·min over the four reshapes, T = out × (in·h·w)."""
    layer = seeded(nn.Conv2d(4, 5, 3, padding=1))
    weight = layer.weight.detach()  # type: ignore[union-attr,operator]
    true = true_norm(layer, (4, 9, 9))
    four = [
        spectral_norm(weight.permute(order).reshape(rows, -1)).value
        for order, rows in [((0, 1, 2, 3), 5), ((0, 2, 1, 3), 15), ((0, 3, 1, 2), 15)]
    ] + [spectral_norm(weight.permute(1, 0, 2, 3).reshape(4, -1)).value]
    assert four[0] <= true <= 3 * min(four)
    bound = min(convolution_norm(as_convolution(layer, (4, 9, 9))).value, 3 * min(four))
    assert true <= bound


def test_the_norm_of_the_reshaped_kernel_is_no_bound() -> None:
    """What naive code takes for the norm of a convolution: it is below the truth."""
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    assert true_norm(layer, (1, 12, 12)) > 2.7 * spectral_norm(layer.weight.flatten(1)).value


def test_a_zero_kernel_has_norm_zero() -> None:
    for axes, groups in itertools.product((1, 2), (1, 2)):
        layer = (nn.Conv1d, nn.Conv2d)[axes - 1](4, 4, 3, padding=1, groups=groups)
        nn.init.zeros_(layer.weight)
        assert convolution_norm(Convolution.of(layer, layer.weight, (5,) * axes)).value == 0.0
