"""One contract for every form on every layer kind, with factors that no solver found: a new form
is a new row."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms import FORMS, Form, Pivoted, get_form
from pipeline.lowrank.forms.base import weights_of
from pipeline.lowrank.forms.surgery import Factorized, fill_, unfilled
from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.lowrank.network.linalg import relative_error
from tests.lowrank.layer_kinds import LAYER_KINDS, Case, LayerKind, full_ranks, make_case


@dataclass(frozen=True)
class Row:
    form: Form
    kinds: tuple[str, ...]


ALL = tuple(kind.name for kind in LAYER_KINDS)
KERNELS = tuple(kind.name for kind in LAYER_KINDS if kind.is_kernel)
PLANAR = tuple(name for name in KERNELS if "2d" in name)
UNGROUPED = tuple(n for n in KERNELS if "grouped" not in n and "3d" not in n)
ROWS = [
    Row(FORMS["svd"], ALL),
    Row(FORMS["svd_in"], KERNELS),
    Row(FORMS["spatial_svd"], PLANAR),
    Row(FORMS["tucker2"], KERNELS),
    Row(FORMS["tucker"], UNGROUPED),
    Row(FORMS["cp"], KERNELS),
    Row(FORMS["pivoted_svd"], ALL),
    Row(FORMS["pivoted_tucker2"], KERNELS),
]
PAIRS = [
    pytest.param(row, kind, id=f"{row.form.name}-{kind.name}")
    for row in ROWS
    for kind in LAYER_KINDS
    if kind.name in row.kinds
]


def ranks_of(form: Form, case: Case) -> list[tuple[int, ...]]:
    """Rank one, two in each mode, one below full, full."""
    full = full_ranks(form, case)
    below = tuple(max(1, size - 1) for size in full)
    some = tuple(min(2, size) for size in full)
    return list(dict.fromkeys([(1,) * len(full), some, below, full]))


def drawn(form: Form, case: Case, ranks: Sequence[int]) -> list[Tensor]:
    """Random float64 factors in the shapes that the form has them in."""
    plain = form.form if isinstance(form, Pivoted) else form
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        for weight in weights_of(plain.layers(case.module, ranks))
    ]


def filled(form: Form, case: Case, ranks: Sequence[int], factors: Sequence[Tensor]) -> Factorized:
    layer = unfilled("layer", case.module, form, ranks)
    fill_(layer, factors, getattr(case.module, "bias", None))
    return layer


def test_every_form_has_a_row() -> None:
    assert {row.form.name for row in ROWS} == set(FORMS)
    assert all(get_form(name).name == name for name in FORMS)
    with pytest.raises(LowRankError, match="unknown form 'tuker2': did you mean 'tucker2'"):
        get_form("tuker2")


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_costs_are_those_of_the_modules(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    every = ranks_of(row.form, case)
    params, macs = row.form.costs(case.target, torch.tensor(every))
    assert params.dtype == macs.dtype == torch.int64
    for place, ranks in enumerate(every):
        layer = unfilled("layer", case.module, row.form, ranks)
        assert int(params[place]) == count_params(layer) > 0
        factors = drawn(row.form, case, ranks)
        built = filled(row.form, case, ranks, factors)
        assert int(macs[place]) == network_totals(built, case.example).macs
    assert bool((params.diff() >= 0).all()), "more rank costs no less"


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_what_is_stored_comes_back(row: Row, kind: LayerKind) -> None:
    """To the bit where the factors are stored as they are; as their product with pivots."""
    case = make_case(kind)
    for ranks in ranks_of(row.form, case):
        layers, factors = row.form.layers(case.module, ranks), drawn(row.form, case, ranks)
        with torch.no_grad():
            row.form.store(layers, factors)
        found = row.form.stored(layers)
        assert [f.shape for f in found] == [f.shape for f in factors]
        if not isinstance(row.form, Pivoted):
            assert all(map(torch.equal, found, factors))
        wanted = row.form.reconstruct(factors)
        assert wanted.shape == case.weight.shape
        assert wanted.abs().max() > 0.01
        assert relative_error(wanted, row.form.reconstruct(found)) < 1e-11


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_the_layer_is_the_dense_layer_with_its_reconstruction(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    for ranks in ranks_of(row.form, case):
        factors = drawn(row.form, case, ranks)
        layer = filled(row.form, case, ranks, factors).eval()
        assert (layer.form, layer.ranks) == (row.form, ranks)
        assert relative_error(row.form.reconstruct(factors), layer.dense_weight()) < 1e-11
        output, dense = layer(case.example), layer.to_dense(case.module)(case.example)
        assert torch.allclose(output, dense, atol=1e-10 * dense.abs().max().item())
        assert layer(case.example[0]).shape == case.module(case.example[0]).shape  # unbatched
        assert (output - case.module(case.example)).abs().max() > 1e-3


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_balanced_factors_have_their_product_and_forget_their_sizes(
    row: Row, kind: LayerKind
) -> None:
    """A metric that is divided out of the first and the last factor may leave one of them a
    thousand times larger, where SGD diverges."""
    case, form = make_case(kind), row.form
    ranks = tuple(min(3, size) for size in full_ranks(form, case))
    first, *inner, last = drawn(form, case, ranks)
    dense = form.reconstruct([first, *inner, last])
    ready = form.balanced([first, *inner, last])
    again = form.balanced([1e3 * first, *inner, 1e-3 * last])
    for found in (ready, again):
        assert relative_error(dense, form.reconstruct(found)) < 1e-12
    if not isinstance(form, Pivoted):  # pivots are the product's own
        for one, other in zip(ready, again, strict=True):
            assert torch.allclose(one.abs(), other.abs(), rtol=1e-6, atol=1e-9)
        sizes = [float(torch.linalg.vector_norm(factor)) for factor in again]
        assert max(sizes) < 10 * min(sizes)


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_a_state_dict_round_trip_is_to_the_bit(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    ranks = ranks_of(row.form, case)[1]
    layer = filled(row.form, case, ranks, drawn(row.form, case, ranks))
    other = unfilled("layer", case.module, row.form, ranks)
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    assert torch.equal(other(case.example), layer(case.example))


@pytest.mark.parametrize(("row", "kind"), PAIRS)
def test_ranks_that_the_layer_cannot_have_are_refused(row: Row, kind: LayerKind) -> None:
    case = make_case(kind)
    full = full_ranks(row.form, case)
    wrong: list[tuple[int, ...]] = [(*full, 1), full[1:]]
    for place in range(len(full)):
        for value in (0, -1, full[place] + 1):
            wrong.append((*full[:place], value, *full[place + 1 :]))
    for ranks in wrong:
        with pytest.raises(LowRankError, match=r"layer 'layer' .*rank.*correct it") as info:
            unfilled("layer", case.module, row.form, ranks)
        assert "\n" not in str(info.value)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.form.name)
def test_a_kind_without_the_form_is_refused(row: Row) -> None:
    for kind in LAYER_KINDS:
        if kind.is_kernel and kind.name not in row.kinds:
            case = make_case(kind)
            count = 2 + len(case.weight.shape[2:]) if row.form.name == "tucker" else 1
            shape = case.target.group_shape
            if row.form.name == "tucker" and case.target.groups > 1:
                continue  # that shape is one that the form has; its method offers nothing there
            assert row.form.check_ranks(shape, (1,) * count)


@pytest.mark.parametrize("shape", [(6, 6), (6, 9), (9, 6), (8, 8)])
@pytest.mark.parametrize("taps", [(), (1, 1), (3, 2)], ids=["matrix", "1x1", "kernel"])
@pytest.mark.parametrize("bias", [True, False])
def test_full_rank_pivots_run_and_are_exact(
    shape: tuple[int, int], taps: tuple[int, ...], bias: bool
) -> None:
    """A side of full rank has no layer of its own: what is left must still be the dense layer."""
    outputs, inputs = shape
    torch.manual_seed(0)
    if taps:
        module: torch.nn.Module = torch.nn.Conv2d(inputs, outputs, taps, bias=bias).double()
        example = torch.randn(2, inputs, 4, 4, dtype=torch.float64)
    else:
        module = torch.nn.Linear(inputs, outputs, bias=bias).double()
        example = torch.randn(2, inputs, dtype=torch.float64)
    weight = module.weight.detach()
    rank = min(outputs, inputs * math.prod(taps))
    left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    ones = [1] * len(taps)
    factors = [
        (values[:, None] * right)[:rank].reshape(rank, inputs, *taps),
        left[:, :rank].reshape(outputs, rank, *ones),
    ]
    form = FORMS["pivoted_svd"]
    layer = unfilled("layer", module, form, (rank,))
    fill_(layer, factors, getattr(module, "bias", None))
    for training in (False, True):
        assert torch.allclose(layer.train(training)(example), module(example), atol=1e-12)
    assert relative_error(weight, layer.dense_weight()) < 1e-13
    assert count_params(layer) == count_params(module)
