"""Eckart-Young-Mirsky, energy and the diagnostics, on planted spectra."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.lowrank.analysis.diagnostics import effective_rank, fit_power_law, stable_rank
from pipeline.lowrank.analysis.spectra import analyze_weight, load_spectra, save_spectra
from pipeline.lowrank.network.linalg import left_eigenbasis, relative_error, tails, unfold


def planted(rows: int, columns: int, singular_values: Tensor, seed: int = 0) -> Tensor:
    """A (rows, columns) float64 matrix with exactly these singular values."""
    generator = torch.Generator().manual_seed(seed)
    size = len(singular_values)
    left = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    right = torch.randn(columns, size, generator=generator, dtype=torch.float64)
    left, right = torch.linalg.qr(left).Q, torch.linalg.qr(right).Q
    return left * singular_values @ right.T


SIGMA = torch.tensor([9.0, 4.0, 2.5, 1.0, 0.25, 0.01], dtype=torch.float64)


@pytest.mark.parametrize(("rows", "columns"), [(6, 40), (40, 6), (17, 17)])
def test_planted_singular_values_are_recovered(rows: int, columns: int) -> None:
    (view,) = analyze_weight(planted(rows, columns, SIGMA)).views.values()
    found = view.singular_values[: len(SIGMA)]
    # Gram eigenvalues are right to eps·σ₁², so σ is right to about eps·σ₁²/σ.
    assert torch.allclose(found[:5], SIGMA[:5], rtol=1e-12)
    assert torch.allclose(found[5:], SIGMA[5:], rtol=1e-9)
    assert torch.all(view.singular_values[len(SIGMA) :] < 1e-6)


@pytest.mark.parametrize("rank", range(7))
def test_tail_is_the_error_of_the_truncated_svd(rank: int) -> None:
    weight = planted(20, 30, SIGMA)
    (view,) = analyze_weight(weight).views.values()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    truncated = left[:, :rank] * values[:rank] @ right[:rank]
    error = (weight - truncated).square().sum()
    assert view.tails[rank].item() == pytest.approx(error.item(), rel=1e-9, abs=1e-11)
    kept = truncated.square().sum() / weight.square().sum()
    assert view.energy[rank].item() == pytest.approx(kept.item(), abs=1e-12)


def test_no_matrix_of_the_same_rank_is_closer() -> None:
    """Eckart-Young-Mirsky against random competitors, each optimal in its own right factor."""
    weight = planted(12, 15, SIGMA)
    best = analyze_weight(weight).views["mode0"].tails[2].item()
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        right = torch.randn(15, 2, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(right).Q
        assert (weight - weight @ basis @ basis.T).square().sum().item() > best


def test_basis_is_orthonormal_and_its_signs_are_fixed() -> None:
    weight = planted(9, 30, SIGMA)
    _, basis = left_eigenbasis(weight)
    assert torch.allclose(basis.T @ basis, torch.eye(9, dtype=torch.float64), atol=1e-13)
    pivots = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    assert torch.all(pivots > 0)


def test_tails_of_zero_and_of_one_value() -> None:
    assert tails(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert tails(torch.tensor([4.0])).tolist() == [4.0, 0.0]


def test_a_zero_weight_has_full_energy_and_no_rank() -> None:
    (view,) = analyze_weight(torch.zeros(3, 5)).views.values()
    assert view.energy.tolist() == [1.0] * 4
    assert effective_rank(view.singular_values) == 0.0
    assert stable_rank(view.singular_values) == 0.0
    assert fit_power_law(view.singular_values) is None


def test_core_energy_holds_the_hosvd_error_of_every_rank_pair() -> None:
    generator = torch.Generator().manual_seed(2)
    kernel = torch.randn(7, 5, 3, 3, generator=generator, dtype=torch.float64)
    spectra = analyze_weight(kernel)
    assert spectra.core_energy is not None
    out_basis, in_basis = (spectra.views[m].basis[0] for m in ("mode0", "mode1"))
    for out_rank, in_rank in [(1, 1), (3, 4), (7, 2), (7, 5)]:
        left, right = out_basis[:, :out_rank], in_basis[:, :in_rank]
        projected = torch.einsum("oihw,oa,pa,ib,qb->pqhw", kernel, left, left, right, right)
        error = (kernel - projected).square().sum().item()
        known = spectra.squared_norm - spectra.core_energy[:out_rank, :in_rank].sum().item()
        assert known == pytest.approx(error, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("groups", [1, 3])
def test_views_of_a_kernel_are_its_unfoldings_and_groups_add_up(groups: int) -> None:
    """Each view's tails against LAPACK's singular values of the unfolding of each group."""
    generator = torch.Generator().manual_seed(4)
    kernel = torch.randn(groups * 8, 3, 2, 3, generator=generator, dtype=torch.float64)
    spectra = analyze_weight(kernel, groups)
    assert spectra.groups == groups
    apart = kernel.reshape(groups, 8, 3, 2, 3)  # group, out, in, height, width
    unfoldings = {
        "mode0": apart.flatten(2),
        "mode1": apart.movedim(2, 1).flatten(2),
        "mode2": apart.movedim(3, 1).flatten(2),
        "mode3": apart.movedim(4, 1).flatten(2),
        "spatial": apart.permute(0, 2, 3, 1, 4).reshape(groups, 3 * 2, 8 * 3),
    }
    assert set(spectra.views) == set(unfoldings)
    for name, matrix in unfoldings.items():
        view = spectra.views[name]
        squared = torch.linalg.svdvals(matrix).square().sum(0)
        assert torch.allclose(view.eigenvalues, squared, atol=1e-11)
        # The basis holds the left vectors: projecting onto it gives the tail as the error.
        kept = view.basis[..., :2]
        error = (matrix - kept @ (kept.mT @ matrix)).square().sum().item()
        assert error == pytest.approx(view.tails[2].item(), abs=1e-11)


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-10, 0.0])
def test_the_left_basis_of_a_tall_matrix_is_orthonormal_down_to_tiny_values(
    smallest: float,
) -> None:
    """It comes from the small Gram matrix, which sees nothing below 1e-8·σ₁; null directions
    are zero columns."""
    values = torch.tensor([5.0, 3.0, 1.0, smallest, smallest / 2], dtype=torch.float64)
    matrix = planted(40, 5, values)
    _, basis = left_eigenbasis(matrix)
    assert basis.shape == (40, 5)
    alive = 3 if smallest == 0.0 else 5
    gram = basis.T @ basis
    expected = torch.diag(torch.tensor([1.0] * alive + [0.0] * (5 - alive), dtype=torch.float64))
    assert torch.allclose(gram, expected, atol=1e-9)
    assert torch.allclose(basis @ (basis.T @ matrix), matrix, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_so_it_is_where_the_weak_columns_depend_on_each_other(seed: int) -> None:
    """As of weights in float16 whose columns fall over twelve orders."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 52, generator=generator) * torch.logspace(0, -12, 52)
    matrix = unfold(weight.half().double().reshape(1, 3, 13, 4), 1)[0]
    _, basis = left_eigenbasis(matrix)
    alive = basis.square().sum(0) > 0.5
    assert alive.sum() > 4
    gram, expected = basis.T @ basis, torch.diag(alive.double())
    assert torch.allclose(gram, expected, atol=1e-9)


def test_unfoldings_put_one_mode_first() -> None:
    kernel = torch.arange(24, dtype=torch.float64).reshape(1, 2, 3, 4)
    assert unfold(kernel, 1).shape == (1, 3, 8)
    assert unfold(kernel, 1)[0, 2].tolist() == [8.0, 9, 10, 11, 20, 21, 22, 23]


def test_spectra_survive_the_disk_to_the_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    written = {
        "z.conv": analyze_weight(torch.randn(4, 3, 3, 3, generator=generator)),
        "a.linear": analyze_weight(torch.randn(8, 5, generator=generator)),
    }
    save_spectra(tmp_path, written)
    read = load_spectra(tmp_path)
    assert list(read) == ["z.conv", "a.linear"]
    for name, spectra in written.items():
        assert read[name].squared_norm == spectra.squared_norm > 0
        for view in spectra.views:
            assert torch.equal(read[name].views[view].basis, spectra.views[view].basis)
            assert torch.equal(read[name].views[view].eigenvalues, spectra.views[view].eigenvalues)
    core = read["z.conv"].core_energy
    assert core is not None
    assert torch.equal(core, written["z.conv"].core_energy)  # type: ignore[arg-type]


def test_ranks_of_flat_and_of_rank_one_spectra() -> None:
    flat = torch.ones(8, dtype=torch.float64)
    assert effective_rank(flat) == pytest.approx(8.0)
    assert stable_rank(flat) == pytest.approx(8.0)
    one = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    assert effective_rank(one) == pytest.approx(1.0)
    assert stable_rank(one) == pytest.approx(1.0)


def test_relative_error_of_zero_tensors() -> None:
    zero, one = torch.zeros(2, 2), torch.ones(2, 2)
    assert relative_error(zero, zero) == 0.0
    assert math.isinf(relative_error(zero, one))
    assert relative_error(one, zero) == pytest.approx(1.0)
