"""The Marchenko–Pastur law and its fit, on noise of known scale with and without spikes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import airy
from torch import Tensor

from pipeline.lowrank.analysis.diagnostics import fit_noise, marchenko_pastur
from pipeline.lowrank.analysis.diagnostics.noise import (
    _TW_99,
    FALSE_ALARM,
    FEWEST_VALUES,
    scale_error,
)
from pipeline.lowrank.analysis.diagnostics.thresholds import evb_turning_point, hard_threshold

BETAS = [0.01, 0.1, 0.5, 1.0]
SHAPES = [(120, 120), (60, 240), (240, 60), (30, 900)]


def noise(count: int, rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, columns, generator=generator, dtype=torch.float64)


def spiked(shape: tuple[int, int], strengths: list[float], seed: int = 0) -> Tensor:
    """Singular values of unit noise plus directions of these strengths, in units of (mn)^¼."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(n, len(strengths), generator=generator).double()).Q
        for n in shape
    )
    planted = torch.tensor(strengths, dtype=torch.float64) * math.prod(shape) ** 0.25
    return torch.linalg.svdvals(noise(1, *shape, seed)[0] + left * planted @ right.T)


@pytest.mark.parametrize("beta", BETAS)
def test_the_law_by_numerical_integration(beta: float) -> None:
    low, high = marchenko_pastur.support(beta)

    def density(x: float) -> float:
        return float(marchenko_pastur.density(torch.tensor(x, dtype=torch.float64), beta))

    middle = marchenko_pastur.median(beta)
    assert quad(density, low, high)[0] == pytest.approx(1.0, abs=1e-9)
    assert quad(lambda x: x * density(x), low, high)[0] == pytest.approx(1.0, abs=1e-9)
    assert quad(density, low, middle, epsabs=1e-12)[0] == pytest.approx(0.5, abs=1e-10)
    points = torch.linspace(low, high, 9, dtype=torch.float64)
    for point, value in zip(points, marchenko_pastur.cdf(points, beta), strict=True):
        area = quad(density, low, float(point), epsabs=1e-12)[0]
        assert float(value) == pytest.approx(area, abs=1e-10)
    outside = torch.tensor([low - 1e-3, high + 1e-3], dtype=torch.float64)
    assert marchenko_pastur.density(outside, beta).tolist() == [0.0, 0.0]
    assert marchenko_pastur.cdf(outside, beta).tolist() == pytest.approx([0.0, 1.0], abs=1e-10)


def test_the_two_scales_are_not_mixed() -> None:
    """Singular values in s(√n ± √m), eigenvalues of WWᵀ/n in s²(1 ± √β)²."""
    rows, columns, scale = 200, 500, 0.03
    values = scale * torch.linalg.svdvals(noise(1, rows, columns)[0])
    low, high = marchenko_pastur.support(rows / columns)
    eigenvalues = values.square() / columns
    assert float(values[0]) == pytest.approx(scale * (columns**0.5 + rows**0.5), rel=0.02)
    assert float(values[-1]) == pytest.approx(scale * (columns**0.5 - rows**0.5), rel=0.03)
    assert float(eigenvalues[0]) == pytest.approx(scale**2 * high, rel=0.04)
    assert float(eigenvalues[-1]) == pytest.approx(scale**2 * low, rel=0.06)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_scale_and_edge_of_known_noise(shape: tuple[int, int], scale: float) -> None:
    fit = fit_noise(scale * torch.linalg.svdvals(noise(1, *shape)[0]), shape)
    assert fit is not None
    assert fit.scale == pytest.approx(scale, abs=4 * fit.scale_stderr)
    assert fit.scale_stderr < 0.02 * scale
    assert fit.edge == pytest.approx(scale * sum(n**0.5 for n in shape), rel=0.05)
    assert fit.detectable == pytest.approx(fit.scale * math.prod(shape) ** 0.25)
    assert fit.edge < fit.spike_edge < 1.2 * fit.edge
    assert (fit.spikes, fit.spike_energy) == (0, 0.0)
    assert 0.3 / min(shape) < fit.ks < 5 / min(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_spikes_above_the_detectable_strength_are_counted(shape: tuple[int, int]) -> None:
    values = spiked(shape, [5.0, 3.5, 2.5, 0.6, 0.3])
    fit = fit_noise(values, shape)
    assert fit is not None
    assert fit.spikes == 3
    assert fit.spike_energy == pytest.approx(
        float(values[:3].square().sum() / values.square().sum())
    )
    # ‖W‖_F/√(mn) is inflated by the spikes, the median is not.
    inflated = float(values.norm()) / math.prod(shape) ** 0.5
    assert abs(fit.scale - 1) < 0.08 < inflated - 1


@pytest.mark.parametrize("shape", [(100, 100), (60, 240)])
def test_a_spike_stands_where_theory_says(shape: tuple[int, int]) -> None:
    """√((θ²+m)(θ²+n))/θ for θ > (mn)^¼, the edge below it (Baik, Ben Arous & Péché 2005)."""
    theta = 2.0 * math.prod(shape) ** 0.25
    rows, columns = shape
    expected = math.sqrt((theta**2 + rows) * (theta**2 + columns)) / theta
    seen = [float(spiked(shape, [2.0], seed)[0]) for seed in range(20)]
    assert sum(seen) / 20 == pytest.approx(expected, rel=0.02)
    edge = rows**0.5 + columns**0.5
    weak = [float(spiked(shape, [0.7], seed)[0]) for seed in range(20)]
    assert sum(weak) / 20 == pytest.approx(edge, rel=0.03)


def test_the_tracy_widom_quantile() -> None:
    """F₁(t) = det(1 − K) with K(x, y) = ½Ai((x+y)/2) on (t, ∞) (Ferrari & Spohn 2005)."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    length = 16.0
    points, weights = _TW_99 + length * (nodes + 1) / 2, weights * length / 2
    kernel = 0.5 * airy((points[:, None] + points[None, :]) / 2)[0]
    root = np.sqrt(weights)
    value = np.linalg.det(np.eye(60) - root[:, None] * kernel * root[None, :])
    assert value == pytest.approx(1 - FALSE_ALARM, abs=1e-8)


@pytest.mark.parametrize("shape", [(8, 8), (12, 100), (32, 40)])
def test_false_alarms_are_as_rare_as_stated(shape: tuple[int, int]) -> None:
    """1 % of noise matrices show a spike; of 1000, 10 ± 3, and the law is asymptotic."""
    values = torch.linalg.svdvals(noise(1000, *shape, seed=7))
    fits = [fit_noise(one, shape) for one in values]
    alarms = sum(fit is not None and fit.spikes > 0 for fit in fits)
    assert 1 <= alarms <= 25
    scales = torch.tensor([fit.scale for fit in fits if fit is not None])
    assert float(scales.std()) == pytest.approx(scale_error(*sorted(shape)), rel=0.2)


def test_thresholds_in_their_order_on_a_square_matrix() -> None:
    """Edge 2.000 < EVBMF 2.216 < Gavish–Donoho 2.309, in units of s√n."""
    fit = fit_noise(torch.linalg.svdvals(noise(1, 90, 90)[0]), (90, 90))
    assert fit is not None
    turning = evb_turning_point(1.0)
    evb = math.sqrt((1 + turning) * (1 + 1 / turning))
    edge = fit.edge / (fit.scale * 90**0.5)
    assert (edge, evb, hard_threshold(1.0)) == pytest.approx((2.0, 2.216, 2.309), abs=1e-3)


def test_spectra_without_noise_have_no_fit() -> None:
    assert fit_noise(torch.zeros(20, dtype=torch.float64), (20, 30)) is None
    few = torch.ones(FEWEST_VALUES - 1, dtype=torch.float64)
    assert fit_noise(few, (FEWEST_VALUES - 1, 30)) is None
    low_rank = torch.tensor([5.0, 4.0, 3.0], dtype=torch.float64)
    assert fit_noise(low_rank, (20, 30)) is None
    flat = fit_noise(torch.ones(20, dtype=torch.float64), (20, 30))
    assert flat is not None
    assert flat.spikes == 0 and flat.ks > 0.3, "an orthogonal matrix is not noise"
