"""MATH §4, the two-sided certificate of Tucker: every inequality of its chain."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from tensorly.decomposition import partial_tucker
from torch import nn

import pipeline.lowrank as lr
from pipeline.lowrank.analysis.spectra import analyze_weight
from pipeline.lowrank.methods import Tucker2
from tests.lowrank.bounds.test_norms import gaussian

RANKS = [(1, 1), (2, 5), (4, 3), (6, 2), (8, 6)]


def squared_error(kernel: torch.Tensor, ranks: tuple[int, int], iterations: int) -> float:
    method = Tucker2(hooi_iterations=iterations, hooi_tolerance=0.0)
    factors = method.factorize(kernel, analyze_weight(kernel), ranks)
    return float((kernel - method.form.reconstruct(factors)).square().sum())


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("seed", range(3))
def test_tails_bound_the_hosvd_and_the_best_from_both_sides(
    ranks: tuple[int, int], seed: int
) -> None:
    """max tail ≤ ‖K−K*‖² ≤ HOOI ≤ HOSVD ≤ Σ tails ≤ 2·max tail ≤ 2·‖K−K*‖², with N = 2
    truncated modes. TensorLy's long HOOI stands in for the unknown best K*."""
    kernel = gaussian(8, 6, 3, 3, seed=seed)
    certificate = Tucker2().certify(analyze_weight(kernel), ranks)
    hosvd, hooi = (squared_error(kernel, ranks, sweeps) for sweeps in (0, 50))
    (core, bases), _ = partial_tucker(
        kernel, rank=list(ranks), modes=[0, 1], n_iter_max=200, tol=1e-12
    )
    best = torch.einsum("abhw,oa,ib->oihw", core, *bases)
    best_error = min(hooi, float((kernel - best).square().sum()))
    slack = 1e-9 * certificate.upper + 1e-12
    assert certificate.lower <= best_error + slack
    assert hooi <= hosvd + slack
    assert hosvd <= certificate.upper + slack
    assert certificate.upper <= 2 * certificate.lower + slack
    assert hosvd <= 2 * best_error + slack  # quasi-optimal: √2 in the norm
    assert hooi <= 1.05 * best_error + slack
    if ranks == (8, 6):
        assert hosvd < 1e-20 * float(kernel.square().sum()) + 1e-20
    else:
        assert certificate.lower > 0.01


@pytest.mark.parametrize("ranks", RANKS)
def test_hooi_falls_with_every_sweep(ranks: tuple[int, int]) -> None:
    kernel = gaussian(8, 6, 3, 3, seed=7)
    errors = [squared_error(kernel, ranks, sweeps) for sweeps in range(6)]
    for before, after in itertools.pairwise(errors):
        assert after <= before + 1e-12 * float(kernel.square().sum())


def test_a_factorization_with_factors_of_the_axes_is_certified() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten())
    inputs = torch.randn(5, 6, 5, 5)
    planned = lr.plan(dense, lr.Fixed(ranks=[4, 3, 2, 2]), inputs[:1], methods=[lr.Tucker()])
    network = lr.apply_(copy.deepcopy(dense), planned).network
    bounds = lr.certify(dense, network, inputs, ["0"])
    assert any(isinstance(part, nn.Unflatten) for part in network[0])  # type: ignore[index]
    assert 0 < bounds.layers["0"].measured <= bounds.layers["0"].bound
    assert bounds.network.certified
