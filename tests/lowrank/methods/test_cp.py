"""CP: planted components, the remedies against divergence, and what uniqueness is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import Compute, Fixed, LowRankError, apply_, plan
from pipeline.lowrank.forms.cp import rank_upper_bound
from pipeline.lowrank.methods import CP, als
from pipeline.lowrank.methods.uniqueness import (
    Uniqueness,
    generic_k_ranks,
    k_rank,
    kruskal_sufficient,
)
from tests.lowrank.layer_kinds import case_of


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(groups: int, sizes: tuple[int, int, int], rank: int) -> list[Tensor]:
    return [randn(groups, size, rank, seed=mode) for mode, size in enumerate(sizes)]


def components(factors: list[Tensor]) -> Tensor:
    """(groups, rank, I·J·K): each component as a vector."""
    first, second, third = factors
    return torch.einsum("gir,gjr,gkr->grijk", first, second, third).flatten(2)


def empty(kernel: Tensor) -> list[Tensor]:
    return [kernel.new_zeros(len(kernel), size, 0) for size in kernel.shape[1:]]


def fitted(kernel: Tensor, rank: int, penalty: float, iterations: int = 200) -> list[Tensor]:
    start = als.extend(kernel, empty(kernel), rank)
    return als.fit(kernel, start, iterations=iterations, tolerance=0.0, penalty=penalty)


def squared_error(kernel: Tensor, factors: list[Tensor]) -> float:
    return (kernel - als.reconstruct(factors)).square().sum().item()


def test_planted_components_are_found_in_each_group() -> None:
    """Kruskal's condition holds, so the components themselves must come back."""
    truth = planted(2, (8, 7, 5), 3)
    assert kruskal_sufficient(generic_k_ranks((8, 7, 5), 3), 3)
    kernel = als.reconstruct(truth)
    found = components(fitted(kernel, 3, penalty=0.0))
    wanted = components(truth)
    unit = [x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (found, wanted)]
    match = (unit[0] @ unit[1].mT).max(-1)
    assert torch.allclose(match.values, torch.ones(2, 3, dtype=torch.float64), atol=1e-8)
    assert all(set(row) == {0, 1, 2} for row in match.indices.tolist())


def test_more_sweeps_never_end_higher_and_the_penalty_bounds_the_components() -> None:
    kernel = randn(1, 12, 10, 9)
    norm = kernel.square().sum().item()
    errors = [squared_error(kernel, fitted(kernel, 7, 0.0, sweeps)) for sweeps in (1, 5, 25, 125)]
    assert norm > errors[0] > errors[1] > errors[2] > errors[3] > 0
    plain, bounded = fitted(kernel, 7, 0.0), fitted(kernel, 7, 1e-3)
    grown = [als.component_energies(f).sum().item() / norm for f in (plain, bounded)]
    assert grown[0] > 10 * grown[1] > 1
    # The penalty costs little: within 2 % of the squared error, on either side.
    assert squared_error(kernel, bounded) == pytest.approx(squared_error(kernel, plain), rel=0.02)


def test_nested_singular_vectors_reach_the_upper_bound_of_the_rank() -> None:
    kernel = randn(2, 6, 5, 4)
    rank = rank_upper_bound((6, 5, 4))
    assert rank == 20
    exact = als.extend(kernel, empty(kernel), rank)
    assert squared_error(kernel, exact) < 1e-20
    assert squared_error(kernel, als.extend(kernel, empty(kernel), rank - 5)) > 1e-3


def test_the_correction_lowers_the_sensitivity_and_keeps_the_error() -> None:
    kernel = randn(2, 12, 10, 9)
    before = fitted(kernel, 7, 0.0, 100)
    after = als.correct(kernel, before, sweeps=10, slack=0.02)
    assert als.sensitivity(after) < 0.3 * als.sensitivity(before)
    for group in range(2):
        error = squared_error(kernel[group][None], [f[group][None] for f in before])
        norm = kernel[group].square().sum().item()
        limit = error + 0.02 * min(error, norm - error)
        corrected = squared_error(kernel[group][None], [f[group][None] for f in after])
        # It takes what it is allowed: the last ridge lies on the limit.
        assert 0.999 * limit < corrected <= limit * (1 + 1e-9)


def test_sensitivity_is_the_expected_change_under_noise() -> None:
    factors = planted(2, (6, 5, 4), 3)
    exact, scale, trials = als.reconstruct(factors), 1e-5, 400
    total = 0.0
    for seed in range(trials):
        noisy = [
            f + scale * randn(*f.shape, seed=10 * seed + mode) for mode, f in enumerate(factors)
        ]
        total += (als.reconstruct(noisy) - exact).square().sum().item()
    # Relative standard deviation of the mean: about √(2 / (entries · trials)) ≈ 1 %.
    assert total / trials / scale**2 == pytest.approx(als.sensitivity(factors), rel=0.05)


def degenerate() -> Tensor:
    """a⊗a⊗b + a⊗b⊗a + b⊗a⊗a: of rank 3, yet a limit of rank 2 (de Silva & Lim 2008)."""
    a, b = randn(4, seed=1), randn(4, seed=2)
    return sum(
        torch.einsum("i,j,k->ijk", *three) for three in ((a, a, b), (a, b, a), (b, a, a))
    ).reshape(4, 4, 2, 2)


def test_a_diverging_fit_becomes_tucker2_and_the_plan_says_why() -> None:
    module = nn.Conv2d(4, 4, 2, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(degenerate())
    case = case_of(module, randn(1, 4, 6, 6))
    free = CP(
        cp_penalty=0.0,
        cp_slack=0.0,
        cp_tolerance=0.0,
        cp_iterations=500,
        cp_restarts=0,
        cp_rank_grid=3,  # ranks 1, 2 and 5
    )
    fit = list(free._fits(case.weight, case.spectra, [1, 2]))[-1]
    assert fit.diverged
    assert fit.squared_error < 1e-2 * case.spectra.squared_norm

    limit = 2 * (4 + 4 + 4)
    instead = plan(module, Compute(64 / limit), case.example, methods=[free])
    assert instead.layers[""].method == "tucker2"
    assert instead.expected.layers[""].params <= limit
    assert "cp diverged at rank 2" in instead.layers[""].why
    with pytest.raises(LowRankError, match=r"cp diverged at rank 2 .*plan tucker2 there"):
        free.factorize(case.weight, case.spectra, (2,))

    bounded = plan(module, Compute(64 / limit), case.example, methods=[CP()])
    assert (bounded.layers[""].method, bounded.layers[""].ranks) == ("cp", (2,))
    assert "cp sensitivity" in bounded.layers[""].why
    errors = [found.expected.layers[""].relative_error for found in (bounded, instead)]
    assert errors[0] < errors[1]


def test_the_source_s_condition_is_none_of_uniqueness() -> None:
    """2×2×2 and R = 3 satisfy R ≤ ∏I / max I, and here are two decompositions of one tensor."""
    rank = 3
    assert rank <= rank_upper_bound((2, 2, 2))
    assert not kruskal_sufficient(generic_k_ranks((2, 2, 2), rank), rank)
    eye = torch.eye(2, dtype=torch.float64)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    tensor = torch.stack([eye, turn], -1)
    found = []
    for removed in (-2.0, -3.0):
        # Without this one entry, a component itself, the slices have real eigenvectors in common.
        rest = turn.clone()
        rest[0, 1] -= removed
        values, vectors = torch.linalg.eig(rest)
        left, right = vectors.real, torch.linalg.inv(vectors.real).T
        third = torch.stack([torch.ones(2, dtype=torch.float64), values.real])
        corner = [eye[:, :1] * removed, eye[:, 1:], eye[:, 1:]]
        factors = [torch.cat(pair, 1) for pair in zip(corner, (left, right, third), strict=True)]
        found.append([f[None] for f in factors])
        assert torch.allclose(als.reconstruct(found[-1])[0], tensor, atol=1e-12)
    one, two = (components(f).sort(dim=1).values for f in found)
    assert not torch.allclose(one, two, atol=0.1)


def test_k_rank_counts_the_columns_that_are_always_independent() -> None:
    factor = randn(4, 5)
    assert k_rank(factor) == 4
    assert k_rank(torch.cat([factor, 3 * factor[:, :1]], 1)) == 1
    plane = torch.cat([factor[:, :2], factor[:, :1] + factor[:, 1:2]], 1)
    assert k_rank(plane) == 2
    assert k_rank(torch.zeros(3, 2)) == 0
    assert kruskal_sufficient([k_rank(plane), 3, 3], 3)
    assert not kruskal_sufficient([1, 3, 3], 3)


@pytest.mark.parametrize(("rank", "kruskal"), [(3, True), (7, True), (8, False)])
def test_both_figures_of_uniqueness_are_reported(rank: int, kruskal: bool) -> None:
    """5×4×9: 5 + 4 + R ≥ 2R + 2 up to R = 7; no rank is above 5·4."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 5, 3))
    chosen = plan(net, Fixed((rank,)), torch.zeros(1, 4, 8, 8), methods=[CP()])
    assert apply_(net, chosen).layers["0"].uniqueness == Uniqueness(rank_limit=20, kruskal=kruskal)
