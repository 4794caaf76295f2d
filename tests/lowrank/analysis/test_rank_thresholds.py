"""EVBMF and Gavish–Donoho on planted low-rank matrices in noise, and on spectra that have none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.lowrank import LowRankError
from pipeline.lowrank.analysis.diagnostics import evbmf_rank, optimal_threshold_rank
from pipeline.lowrank.analysis.diagnostics.thresholds import (
    evb_turning_point,
    evbmf_noise_variance,
    hard_threshold,
    median_threshold,
)

Rule = Callable[[Tensor, tuple[int, int]], int]

RULES: list[Rule] = [evbmf_rank, optimal_threshold_rank]
SHAPES = [(120, 120), (60, 240), (240, 60), (30, 900)]


def noisy(shape: tuple[int, int], strengths: list[float], scale: float = 1.0) -> Tensor:
    """Singular values of planted directions (strengths in units of (mn)^¼) in unit noise."""
    generator = torch.Generator().manual_seed(len(strengths))
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if strengths:
        left, right = (
            torch.linalg.qr(torch.randn(n, len(strengths), generator=generator).double()).Q
            for n in shape
        )
        planted = torch.tensor(strengths, dtype=torch.float64) * math.prod(shape) ** 0.25
        matrix = matrix + left * planted @ right.T
    return scale * torch.linalg.svdvals(matrix)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_strong_directions_are_counted_and_weak_ones_are_not(
    rule: Rule, shape: tuple[int, int], scale: float
) -> None:
    assert rule(noisy(shape, [], scale), shape) == 0
    assert rule(noisy(shape, [5.0, 4.0, 3.2], scale), shape) == 3
    # Below (mn)^¼ nothing is detectable (BBP).
    assert rule(noisy(shape, [5.0, 4.0, 0.5, 0.4], scale), shape) == 2


def test_thresholds_of_a_square_matrix() -> None:
    """2 < 2.216 < 2.309 in units of s√n, and the median form of the last."""
    turning = evb_turning_point(1.0)
    evb = math.sqrt((1 + turning) * (1 + 1 / turning))
    assert evb == pytest.approx(2.216, abs=5e-4)
    assert hard_threshold(1.0) == pytest.approx(4 / math.sqrt(3), rel=1e-12)
    assert 2.0 < evb < hard_threshold(1.0)
    assert median_threshold(1.0) == pytest.approx(2.858, abs=5e-4)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_median_threshold_is_near_the_published_cubic(beta: float) -> None:
    """Gavish & Donoho's own approximation of ω(β) is good to 0.02."""
    cubic = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    assert median_threshold(beta) == pytest.approx(cubic, abs=0.02)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.6, 1.0])
def test_turning_point_is_near_the_published_approximation(ratio: float) -> None:
    found = evb_turning_point(ratio)
    assert math.log1p(found) + ratio * math.log1p(found / ratio) == pytest.approx(found, rel=1e-12)
    assert found == pytest.approx(2.5129 * math.sqrt(ratio), rel=0.035)


@pytest.mark.parametrize("shape", SHAPES)
def test_evbmf_finds_the_noise_variance(shape: tuple[int, int]) -> None:
    for scale in (1.0, 1e-3):
        found = evbmf_noise_variance(noisy(shape, [4.0, 3.0], scale), shape)
        assert found == pytest.approx(scale**2, rel=0.05)


def test_evbmf_noise_variance_is_the_least_free_energy() -> None:
    """The formula as it is printed, on a far finer grid than the search looks at."""
    shape = (40, 90)
    values, ratio = noisy(shape, [3.0, 1.6, 1.2]), 40 / 90
    turning = evb_turning_point(ratio)
    threshold = (1 + turning) * (1 + ratio / turning)

    def free_energy(variance: float) -> float:
        total = 0.0
        for x in (values.square() / (90 * variance)).tolist():
            if x <= threshold:
                total += x - math.log(x)
                continue
            tau = 0.5 * (x - 1 - ratio + math.sqrt((x - 1 - ratio) ** 2 - 4 * ratio))
            total += x - tau + math.log((tau + 1) / x) + ratio * math.log(tau / ratio + 1)
        return total

    grid = [math.exp(-1.0 + i / 1500) for i in range(3000)]
    best = min(grid, key=free_energy)
    assert evbmf_noise_variance(values, shape) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_degenerate_spectra(rule: Rule) -> None:
    some = torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)
    assert rule(torch.zeros(6, dtype=torch.float64), (6, 9)) == 0
    assert rule(some, (40, 50)) == 3, "a low-rank matrix without noise keeps its rank"
    assert rule(torch.tensor([2.0], dtype=torch.float64), (1, 7)) == 0
    assert rule(torch.ones(8, dtype=torch.float64), (8, 8)) == 0
    padded = torch.cat([some, torch.full((37,), 1e-12, dtype=torch.float64)])
    assert rule(padded, (40, 50)) == 3
    with pytest.raises(LowRankError, match="3 singular values of a 2×9 matrix: it has at most 2"):
        rule(some, (2, 9))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_transposing_changes_nothing(rule: Rule, shape: tuple[int, int]) -> None:
    values = noisy(shape, [3.0, 1.3])
    assert rule(values, shape) == rule(values, shape[::-1]) > 0
