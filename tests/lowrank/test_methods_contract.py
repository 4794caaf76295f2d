"""One contract for every method on every layer kind: a new method is a new row."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pipeline.lowrank.cost import count_params, network_macs
from pipeline.lowrank.linalg import relative_error
from pipeline.lowrank.methods import METHODS, Method, candidates_of, make_methods
from pipeline.lowrank.spectrum import analyze_weight
from pipeline.lowrank.surgery import Factorized, fill_, skeleton
from tests.lowrank.layer_kinds import LAYER_KINDS, Case, LayerKind, make_case

CONFIGURED = make_methods(list(METHODS), cp_iterations=60, cp_rank_grid=4)


@dataclass(frozen=True)
class Row:
    method: Method
    full_rank: bool  # whether the largest ranks give the dense layer back


ROWS = [
    Row(CONFIGURED["svd"], full_rank=True),
    Row(CONFIGURED["tucker2"], full_rank=True),
    Row(CONFIGURED["cp"], full_rank=False),
]
PAIRS = [
    pytest.param(row, kind, id=f"{row.method.name}-{kind.name}")
    for row in ROWS
    for kind in LAYER_KINDS
    if kind.is_kernel or row.method.name == "svd"
]


def build(case: Case, method: Method, ranks: tuple[int, ...]) -> Factorized:
    layer = skeleton("layer", case.module, method.name, ranks)
    bias = case.module.bias
    assert bias is None or isinstance(bias, nn.Parameter)
    fill_(layer, method.factorize(case.weight, case.spectra, ranks), bias)
    return layer


def full_ranks(case: Case, method: Method) -> tuple[int, ...]:
    shape = case.target.shape
    if method.name == "svd":
        return (min(shape[0], case.weight[0].numel()),)
    return shape[0], shape[1]


def test_every_method_has_a_row() -> None:
    assert {row.method.name for row in ROWS} == set(METHODS)


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_every_candidate_costs_and_errs_as_predicted(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    candidates = row.method.candidates(case.target, case.weight, case.spectra)
    assert candidates, "these layers are all big enough to pay"
    norm = case.spectra.squared_norm
    for candidate in candidates[:: max(1, len(candidates) // 12)]:
        layer = build(case, row.method, candidate.ranks)
        assert candidate.params == count_params(layer) < case.target.params
        assert candidate.macs == network_macs(layer, case.example)["total"] < case.target.macs
        squared = relative_error(case.weight, layer.dense_weight()) ** 2
        predicted = candidate.squared_error / norm
        if candidate.error_kind == "exact":
            assert squared == pytest.approx(predicted, abs=1e-11)
        else:
            assert candidate.error_kind == "upper_bound"
            assert squared <= predicted + 1e-11
        certificate = row.method.certify(case.spectra, candidate.ranks)
        assert certificate.lower / norm - 1e-11 <= squared <= certificate.upper / norm + 1e-11


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_the_factorized_layer_is_the_dense_layer_with_its_reconstruction(
    row: Row, kind: LayerKind
) -> None:
    case = make_case(kind)
    ranks = row.method.candidates(case.target, case.weight, case.spectra)[-1].ranks
    layer = build(case, row.method, ranks)
    dense = layer.to_dense(case.module)
    assert torch.allclose(layer(case.example), dense(case.example), atol=1e-12)
    changed = (layer(case.example) - case.module(case.example)).abs().max()
    assert changed > 1e-3, "a truncation that changes nothing tests nothing"


@pytest.mark.parametrize(("row", "kind"), [p for p in PAIRS if p.values[0].full_rank])  # type: ignore[union-attr]
def test_full_rank_is_the_identity(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    layer = build(case, row.method, full_ranks(case, row.method))
    assert torch.allclose(layer(case.example), case.module(case.example), atol=1e-7)


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_error_falls_as_ranks_grow(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    size = 1 if row.method.name != "tucker2" else 2
    errors = [
        relative_error(case.weight, build(case, row.method, (rank,) * size).dense_weight())
        for rank in (1, 3, 5)
    ]
    assert 1.0 > errors[0] > errors[1] > errors[2]
    assert errors[0] < 1.0


@pytest.mark.parametrize(("row", "kind"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_low_precision_is_stored_as_it_was(row: Row, kind: LayerKind, dtype: torch.dtype) -> None:
    case = make_case(kind, dtype)
    exact = make_case(kind)
    ranks = row.method.candidates(case.target, case.weight, case.spectra)[-1].ranks
    layer = build(case, row.method, ranks)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    stored = relative_error(case.weight, layer.dense_weight())
    ideal = relative_error(exact.weight, build(exact, row.method, ranks).dense_weight())
    assert stored == pytest.approx(ideal, abs=50 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_state_dict_round_trip_to_the_bit(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    ranks = row.method.candidates(case.target, case.weight, case.spectra)[0].ranks
    layer = build(case, row.method, ranks)
    other = skeleton("layer", case.module, row.method.name, ranks)
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(other(case.example), layer(case.example))


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_the_same_weights_give_the_same_factors(row: Row, kind: LayerKind) -> None:
    first, second = make_case(kind), make_case(kind)
    ranks = row.method.candidates(first.target, first.weight, first.spectra)[-1].ranks
    one = row.method.factorize(first.weight, first.spectra, ranks)
    two = row.method.factorize(second.weight, second.spectra, ranks)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method.name)
def test_a_zero_weight_factorizes_to_zero(row: Row) -> None:
    kind = LAYER_KINDS[5]
    case = make_case(kind)
    zero = torch.zeros_like(case.weight)
    factors = row.method.factorize(
        zero, analyze_weight(zero), (2, 2)[: 1 + (row.method.name == "tucker2")]
    )
    assert all(torch.isfinite(factor).all() for factor in factors)
    assert relative_error(zero, row.method.reconstruct(factors)) == 0.0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method.name)
def test_the_result_exports(row: Row) -> None:
    case = make_case(LAYER_KINDS[5], torch.float32)
    ranks = row.method.candidates(case.target, case.weight, case.spectra)[-1].ranks
    layer = build(case, row.method, ranks).eval()
    exported = torch.export.export(layer, (case.example,)).module()
    assert torch.allclose(exported(case.example), layer(case.example), atol=1e-6)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("kind", [k for k in LAYER_KINDS if not k.is_kernel], ids=lambda k: k.name)
def test_on_a_matrix_every_method_is_the_svd(name: str, kind: LayerKind) -> None:
    case = make_case(kind)
    found = candidates_of(case.target, case.weight, case.spectra, [name], CONFIGURED)
    assert found == CONFIGURED["svd"].candidates(case.target, case.weight, case.spectra)
    assert {candidate.method for candidate in found} == {"svd"}
