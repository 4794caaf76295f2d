"""One contract for every method on every layer kind: a new method is a new row."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from pipeline.lowrank.analysis.spectra import analyze_weight
from pipeline.lowrank.forms.surgery import unfilled
from pipeline.lowrank.methods import METHODS, Method, candidates_of
from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.lowrank.network.linalg import relative_error
from tests.lowrank.layer_kinds import (
    LAYER_KINDS,
    Case,
    LayerKind,
    build,
    configured,
    full_ranks,
    make_case,
)

CONFIGURED = configured(cp_iterations=12, cp_rank_grid=3)


@dataclass(frozen=True)
class Row:
    """A method, the layer kinds that it has a form for, and how near the largest ranks come to
    the dense layer: to rounding, but for the penalty of CP, 1e-3 of ‖K‖² and more where
    components of a generic kernel must cancel."""

    method: Method
    kinds: tuple[str, ...]
    full_rank_error: float = 1e-7


KERNELS = tuple(kind.name for kind in LAYER_KINDS if kind.is_kernel)
PLANAR = tuple(name for name in KERNELS if "2d" in name)
UNGROUPED = tuple(n for n in KERNELS if "grouped" not in n and "3d" not in n)
ROWS = [
    Row(CONFIGURED["svd"], tuple(kind.name for kind in LAYER_KINDS)),
    Row(CONFIGURED["svd_in"], KERNELS),
    Row(CONFIGURED["spatial_svd"], PLANAR),
    Row(CONFIGURED["tucker2"], KERNELS),
    Row(CONFIGURED["pivoted_svd"], tuple(kind.name for kind in LAYER_KINDS)),
    Row(CONFIGURED["pivoted_tucker2"], KERNELS),
    Row(CONFIGURED["tucker"], UNGROUPED),
    Row(CONFIGURED["cp"], KERNELS, full_rank_error=0.2),
]
PAIRS = [
    pytest.param(row, kind, id=f"{row.method.name}-{kind.name}")
    for row in ROWS
    for kind in LAYER_KINDS
    if kind.name in row.kinds
]
PLAIN = next(kind for kind in LAYER_KINDS if kind.name == "conv2d")
# What rounds is the method's, what is written into is the layer's: each method once, and one
# method on each sort of layer.
SORTS = ("linear wide", "transformers conv1d", "embedding", "conv1d", "conv2d grouped", "conv3d")
IN_LOW_PRECISION = [
    pair
    for pair in PAIRS
    for row, kind in [pair.values]
    if kind is PLAIN or (row.method.name == "svd" and kind.name in SORTS)
]


def ranks_of(case: Case, method: Method, most: int | None = None) -> tuple[int, ...]:
    """`most` in each mode, or what the mode holds where that is less; all of it for None."""
    return tuple(min(size, most or size) for size in full_ranks(method.form, case))


def test_every_method_has_a_row() -> None:
    assert {row.method.name for row in ROWS} == set(METHODS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method.name)
def test_a_kind_without_a_form_has_no_candidates(row: Row) -> None:
    for kind in LAYER_KINDS:
        if kind.is_kernel and kind.name not in row.kinds:
            case = make_case(kind)
            assert not row.method.candidates(case.target, case.weight, case.spectra)


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_every_candidate_costs_and_errs_as_predicted(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    candidates = row.method.candidates(case.target, case.weight, case.spectra)
    assert candidates, "these layers are all big enough to pay"
    norm = case.spectra.squared_norm
    for candidate in candidates[:: max(1, len(candidates) // 8)]:
        layer = build(case, row.method, candidate.ranks)
        assert candidate.params == count_params(layer) < case.target.params
        assert candidate.macs == network_totals(layer, case.example).macs
        assert candidate.macs < case.target.macs or kind.entries
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
def test_full_rank_is_the_identity(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    layer = build(case, row.method, ranks_of(case, row.method))
    assert relative_error(case.weight, layer.dense_weight()) < row.full_rank_error


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_error_falls_as_ranks_grow(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    chosen = list(dict.fromkeys(ranks_of(case, row.method, most) for most in (1, 2, 3, 5)))
    assert len(chosen) >= 2
    errors = [
        relative_error(case.weight, build(case, row.method, r).dense_weight()) for r in chosen
    ]
    assert all(1.0 > larger > smaller for larger, smaller in pairwise(errors))


@pytest.mark.parametrize(("row", "kind"), IN_LOW_PRECISION)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_low_precision_is_stored_as_it_was(row: Row, kind: LayerKind, dtype: torch.dtype) -> None:
    case = make_case(kind, dtype)
    layer = build(case, row.method, ranks_of(case, row.method, 3))
    assert {p.dtype for p in layer.parameters()} == {dtype}
    # The same weights in float64: decomposing is exact, only storing the factors rounds.
    exact = Case(
        copy.deepcopy(case.module).double(),
        case.example,
        case.target,
        case.weight.double(),
        case.spectra,
    )
    stored = relative_error(case.weight, layer.dense_weight())
    ideal = build(exact, row.method, ranks_of(case, row.method, 3)).dense_weight()
    assert stored == pytest.approx(
        relative_error(exact.weight, ideal), abs=10 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_state_dict_round_trip_to_the_bit(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    ranks = ranks_of(case, row.method, 2)
    layer = build(case, row.method, ranks)
    again = build(make_case(kind), row.method, ranks)  # the same weights give the same factors
    other = unfilled("layer", case.module, row.method.form, ranks)
    other.load_state_dict(copy.deepcopy(again.state_dict()))
    assert torch.equal(other(case.example), layer(case.example))


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_channels_enter_at_the_first_factor_and_leave_at_the_last(
    row: Row, kind: LayerKind
) -> None:
    """A metric scales the channels of the weight before and divides the scales out of the first
    and the last factor afterwards: nothing else may depend on them. The basis may come from
    another weight: the error then is that of a projection, never above ‖W‖."""
    case = make_case(kind)
    groups, (outputs, inputs) = case.target.groups, case.target.shape[:2]
    generator = torch.Generator().manual_seed(1)
    mix_out = torch.randn(groups, outputs // groups, outputs // groups, generator=generator)
    mix_in = torch.randn(inputs, inputs, generator=generator)
    mix_out, mix_in = mix_out.double(), mix_in.double()

    def mixed_out(factor: torch.Tensor) -> torch.Tensor:
        apart = factor.reshape(groups, outputs // groups, -1)
        return (mix_out @ apart).reshape(factor.shape)

    def mixed_in(factor: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oi...,ij->oj...", factor, mix_in)

    ranks = ranks_of(case, row.method, 2)
    first, *inner, last = row.method.factorize(case.weight, case.spectra, ranks)
    dense = row.method.form.reconstruct([first, *inner, last])
    moved = row.method.form.reconstruct([mixed_in(first), *inner, mixed_out(last)])
    assert torch.allclose(moved, mixed_out(mixed_in(dense)), rtol=1e-9, atol=1e-9)

    other = mixed_out(mixed_in(case.weight))
    if row.method.name in ("svd", "svd_in", "spatial_svd"):
        foreign = row.method.form.reconstruct(row.method.factorize(other, case.spectra, ranks))
        assert 0.0 < relative_error(other, foreign) < 1.0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method.name)
def test_a_zero_weight_factorizes_to_zero(row: Row) -> None:
    case = make_case(PLAIN)
    zero = torch.zeros_like(case.weight)
    factors = row.method.factorize(zero, analyze_weight(zero), ranks_of(case, row.method, 2))
    for found in (factors, row.method.form.balanced(factors)):
        assert all(torch.isfinite(factor).all() for factor in found)
        assert relative_error(zero, row.method.form.reconstruct(found)) == 0.0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method.name)
def test_the_result_exports_and_compiles(row: Row) -> None:
    torch.compiler.reset()  # it counts how often a forward was compiled, over all tests
    case = make_case(PLAIN, torch.float32)
    layer = build(case, row.method, ranks_of(case, row.method, 3)).eval()
    exported = torch.export.export(layer, (case.example,)).module()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for other in (exported, compiled):
        assert torch.allclose(other(case.example), layer(case.example), atol=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_results_compile_to_machine_code() -> None:
    """Layers of all sorts in one graph, by torch.compile's own backend."""
    case = make_case(PLAIN, torch.float32)
    methods = [CONFIGURED[name] for name in ("spatial_svd", "pivoted_tucker2", "cp")]
    layers = [build(case, method, ranks_of(case, method, 3)).eval() for method in methods]
    with torch.no_grad():
        compiled = torch.compile(lambda x: [layer(x) for layer in layers], fullgraph=True)
        for layer, answer in zip(layers, compiled(case.example), strict=True):
            assert torch.allclose(answer, layer(case.example), atol=1e-5)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("kind", [k for k in LAYER_KINDS if not k.is_kernel], ids=lambda k: k.name)
def test_on_a_matrix_every_method_is_the_svd(name: str, kind: LayerKind) -> None:
    case = make_case(kind)
    found = candidates_of(
        case.target, {case.target.name: case.weight}, case.spectra, [name], CONFIGURED
    )
    form = METHODS[name].on_matrices
    assert found == CONFIGURED[form].candidates(case.target, case.weight, case.spectra)
    assert {candidate.method for candidate in found} == {form}
    assert all(math.isfinite(candidate.squared_error) for candidate in found)
