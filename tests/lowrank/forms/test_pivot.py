"""Pivoted forms: the same function with rank² numbers less for each side, well conditioned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.lowrank.forms import FORMS
from pipeline.lowrank.forms.interpolative import pivot_rows
from pipeline.lowrank.forms.surgery import unfilled
from pipeline.lowrank.network.costs import count_params
from tests.lowrank.layer_kinds import LAYER_KINDS, build, configured, make_case

METHODS = configured()
CONV = next(kind for kind in LAYER_KINDS if kind.name == "conv2d grouped")
LINEAR = next(kind for kind in LAYER_KINDS if kind.name == "linear wide")


@pytest.mark.parametrize(
    ("rows", "rank", "decades"), [(40, 7, 0), (60, 30, 12), (9, 9, 0), (5, 1, 0)]
)
def test_pivots_span_the_matrix_with_small_coefficients(rows: int, rank: int, decades: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    scales = torch.logspace(0, -decades, rank, dtype=torch.float64)
    matrix = torch.randn(rows, rank, generator=generator, dtype=torch.float64) * scales
    pivots, coefficients, basis = pivot_rows(matrix)
    others = [i for i in range(rows) if i not in pivots.tolist()]
    assert torch.equal(matrix[pivots], basis) and len(set(pivots.tolist())) == rank
    # Relative to the largest entry: a column of size 1e-12 is recovered to rounding of the others.
    assert torch.allclose(coefficients @ basis, matrix[others], atol=1e-12)
    assert coefficients.numel() == 0 or coefficients.abs().max() <= 3.0 + 1e-9


def test_a_matrix_without_full_rank_has_pivots_too() -> None:
    matrix = torch.outer(torch.arange(1.0, 7.0), torch.tensor([1.0, -2.0, 3.0])).double()
    pivots, coefficients, basis = pivot_rows(matrix)
    others = [i for i in range(6) if i not in pivots.tolist()]
    assert torch.allclose(coefficients @ basis, matrix[others], atol=1e-12)
    assert coefficients.abs().max() <= 3.0 + 1e-9
    _, zero, _ = pivot_rows(torch.zeros(4, 2, dtype=torch.float64))
    assert torch.equal(zero, torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("plain", "kind", "ranks", "saved"),
    [("svd", LINEAR, (4,), 16), ("svd", CONV, (2,), 3 * 4), ("tucker2", CONV, (3, 2), 3 * (9 + 4))],
)
def test_the_same_function_with_fewer_parameters(plain, kind, ranks, saved) -> None:  # type: ignore[no-untyped-def]
    case = make_case(kind)
    first, second = (build(case, METHODS[n], ranks) for n in (plain, f"pivoted_{plain}"))
    assert count_params(first) - count_params(second) == saved
    assert torch.allclose(first(case.example), second(case.example), atol=1e-10)
    assert torch.allclose(first.dense_weight(), second.dense_weight(), atol=1e-10)
    assert (first(case.example) - case.module(case.example)).abs().max() > 1e-3
    _same_in_training(second, case.example)


def _same_in_training(layer: nn.Module, example: torch.Tensor) -> None:
    """Multiplied out there: the same values, and the same gradients for every parameter."""
    answers, gradients = [], []
    for training in (False, True):
        answers.append(layer.train(training)(example))
        loss = (answers[-1] * torch.arange(answers[-1].numel()).view_as(answers[-1])).sum()
        gradients.append(torch.autograd.grad(loss, list(layer.parameters())))
    layer.eval()
    assert torch.allclose(*answers, atol=1e-10)
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0 and torch.allclose(one, other, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("kind", [LINEAR, CONV], ids=lambda kind: kind.name)
def test_full_rank_costs_what_dense_costs(kind) -> None:  # type: ignore[no-untyped-def]
    case = make_case(kind)
    name = "pivoted_tucker2" if kind is CONV else "pivoted_svd"
    full = [len(case.spectra.views[view].eigenvalues) for view in METHODS[name].views]
    ranks = torch.cartesian_prod(*(torch.arange(1, size + 1) for size in full)).reshape(
        -1, len(full)
    )
    params, macs = FORMS[name].costs(case.target, ranks)
    assert params[-1] == case.target.params and macs[-1] == case.target.macs
    assert (params[:-1] <= params[-1]).all(), "cost grows with every rank"
    whole = METHODS[name].candidate(case.target, case.weight, case.spectra, full)
    assert whole is not None and whole.params == case.target.params
    assert whole.squared_error == pytest.approx(0.0, abs=1e-12 * case.spectra.squared_norm)


def test_a_side_of_full_rank_has_no_layer() -> None:
    case = make_case(CONV)
    outputs, inputs = case.target.group_shape[:2]
    sizes = {
        ranks: len(unfilled("layer", case.module, FORMS["pivoted_tucker2"], ranks))
        for ranks in ((outputs - 1, inputs - 1), (outputs, inputs - 1), (outputs - 1, inputs))
    }
    assert list(sizes.values()) == [3, 2, 2]


def test_low_precision_loses_no_more_than_plain_factors() -> None:
    case = make_case(LINEAR, torch.bfloat16)
    errors = []
    for name in ("svd", "pivoted_svd"):
        layer = build(case, METHODS[name], (8,))
        factors = METHODS[name].factorize(case.weight, case.spectra, (8,))
        exact = FORMS[name].reconstruct(factors)
        errors.append(torch.linalg.vector_norm(layer.dense_weight() - exact).item())
    assert 0.0 < errors[1] <= 3.0 * errors[0]


def test_the_state_survives_a_round_trip_with_its_indices() -> None:
    case = make_case(CONV, torch.float32)
    layer = build(case, METHODS["pivoted_tucker2"], (3, 2))
    other = unfilled("layer", case.module, FORMS["pivoted_tucker2"], (3, 2))
    assert isinstance(other, nn.Sequential)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(case.example), layer(case.example))
