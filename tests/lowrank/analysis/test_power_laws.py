"""Both power laws on planted spectra, and the density law against weightwatcher."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.lowrank.analysis.diagnostics import fit_density_law, fit_power_law


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pareto(alpha: float, count: int, seed: int) -> Tensor:
    """Singular values whose squares are a sample of p(λ) ∝ λ^(−alpha), λ ≥ 1; descending."""
    uniform = torch.rand(count, generator=seeded(seed), dtype=torch.float64)
    eigenvalues = (1.0 - uniform) ** (-1.0 / (alpha - 1.0))
    return eigenvalues.sqrt().sort(descending=True).values


@pytest.mark.parametrize("alpha", [0.3, 0.8, 1.7])
def test_a_planted_exponent_lies_within_its_standard_error(alpha: float) -> None:
    """200 spectra with 1 % of independent noise: (found − planted) / stderr is standard."""
    index = torch.arange(1, 101, dtype=torch.float64)
    scores = []
    for seed in range(200):
        noise = torch.randn(100, generator=seeded(seed), dtype=torch.float64)
        law = fit_power_law(5 * index**-alpha * (0.01 * noise).exp())
        assert law is not None and not law.poor
        assert law.alpha_ww == pytest.approx(1 + 1 / (2 * law.alpha))
        scores.append((law.alpha - alpha) / law.stderr)
    found = torch.tensor(scores)
    # The mean of 200 has a standard error of 0.07, their deviation one of 0.05.
    assert abs(found.mean()) < 0.25
    assert 0.8 < found.std() < 1.2


@pytest.mark.parametrize(
    "values",
    [
        torch.exp(-0.2 * torch.arange(50, dtype=torch.float64)),
        torch.linspace(1.0, 0.01, 80, dtype=torch.float64),
        torch.linalg.svdvals(torch.randn(64, 64, generator=seeded(0), dtype=torch.float64)),
    ],
    ids=["exponential", "linear", "noise"],
)
def test_what_is_no_power_law_is_said_to_be_poor(values: Tensor) -> None:
    law = fit_power_law(values)
    assert law is not None
    assert law.poor and law.ks > 0.3


def test_the_power_law_ignores_rounding_and_scale() -> None:
    values = torch.arange(1, 41, dtype=torch.float64) ** -0.7
    padded = torch.cat([values, torch.full((24,), 1e-9, dtype=torch.float64)])
    exact, scaled = fit_power_law(values), fit_power_law(1e-5 * padded)
    assert exact is not None and scaled is not None
    assert scaled.alpha == pytest.approx(exact.alpha, rel=1e-9) == pytest.approx(0.7, rel=1e-9)
    assert exact.ks < 1e-9


def test_too_little_for_a_fit() -> None:
    zeros = torch.zeros(30, dtype=torch.float64)
    assert fit_power_law(zeros) is None
    assert fit_power_law(torch.tensor([3.0, 1.0, 0.0]).double()) is None
    assert fit_density_law(zeros) is None
    assert fit_density_law(torch.ones(30, dtype=torch.float64)) is None
    flat = fit_power_law(torch.ones(30, dtype=torch.float64))
    assert flat is not None and abs(flat.alpha) < 1e-12


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_a_planted_density_exponent_is_found(alpha: float) -> None:
    scores, poor = [], 0
    for seed in range(100):
        law = fit_density_law(pareto(alpha, 300, seed))
        assert law is not None
        assert law.stderr == pytest.approx((law.alpha - 1) / law.tail**0.5)
        scores.append((law.alpha - alpha) / law.stderr)
        poor += law.poor
    found = torch.tensor(scores)
    # The choice of xmin widens the scores a little beyond the printed standard error.
    assert abs(found.mean()) < 0.4
    assert 0.8 < found.std() < 1.4
    assert poor <= 5, "the 10 % test is lenient, since xmin was chosen to pass it"


def test_the_density_law_has_the_lower_end_that_was_planted() -> None:
    """A uniform bulk below λ = 1, and the law above it."""
    bulk = torch.rand(400, generator=seeded(1), dtype=torch.float64).sqrt()
    values = torch.cat([pareto(2.5, 400, 2), bulk]).sort(descending=True).values
    law = fit_density_law(values)
    assert law is not None and not law.poor
    assert 0.9 < law.xmin < 1.4
    assert law.alpha == pytest.approx(2.5, abs=4 * law.stderr)


def test_a_density_that_is_no_power_law_is_poor() -> None:
    values = torch.linalg.svdvals(torch.randn(800, 1000, generator=seeded(3)).double())
    law = fit_density_law(values)
    assert law is not None
    assert law.poor or law.alpha > 6  # the edge of a bulk, at best an absurdly steep law


@pytest.mark.parametrize(("rows", "columns"), [(64, 100), (150, 200), (200, 150)])
def test_the_density_law_is_that_of_weightwatcher(rows: int, columns: int) -> None:
    """Same definition from 20 eigenvalues on: exponent, its error, lower end and KS distance."""
    ww = pytest.importorskip(
        "weightwatcher.WW_powerlaw",
        reason="weightwatcher is not installed (it is in the extra dev)",
    )
    mixing = torch.randn(columns, columns, generator=seeded(5), dtype=torch.float64)
    weight = torch.randn(rows, columns, generator=seeded(4), dtype=torch.float64) @ mixing
    values = torch.linalg.svdvals(weight)
    ours, theirs = fit_density_law(values), ww.WWFit(values.square().numpy())
    assert ours is not None
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-9)
    assert ours.stderr == pytest.approx(theirs.sigma, rel=1e-9)
    assert ours.xmin == pytest.approx(theirs.xmin, rel=1e-9)
    assert ours.ks == pytest.approx(theirs.D, rel=1e-9)
