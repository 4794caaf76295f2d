"""Products with the weight of a factorized stack run through its factors, and give what its numbers
would give, gradients too."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.analysis.spectra import analyze_weight
from pipeline.lowrank.forms import get_form
from pipeline.lowrank.forms.on_demand import OnDemand
from pipeline.lowrank.forms.surgery import Factorized, fill_, unfilled
from pipeline.lowrank.methods import make_method
from pipeline.lowrank.network.products import product_of
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.network.targets import dense_weight

GROUPS, ROWS, COLUMNS = 3, 6, 5
SOME = torch.tensor([0, 2, 2, 1])
ENDS = torch.tensor([1, 4, 4], dtype=torch.int32)


def factorized(
    method: str, rank: int, shape: tuple[int, ...], in_first: bool, split: int = 0
) -> Factorized:
    torch.manual_seed(0)
    stack = Stack(nn.Parameter(torch.randn(shape, dtype=torch.float64)), in_first, split)
    weight = dense_weight(stack)
    layer = unfilled("stack", stack, get_form(method), (rank,))
    spectra = analyze_weight(weight, stack.groups)
    fill_(layer, make_method(method, {}).factorize(weight, spectra, (rank,)), None)
    return layer


def grouped(x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(weight, OnDemand):
        return functional.grouped_mm(x, weight, offs=ENDS)
    stops = [0, *ENDS.tolist()]
    return torch.cat([x[a:b] @ weight[g] for g, (a, b) in enumerate(pairwise(stops))])


# {a product: (what is multiplied, how)}, for a weight (groups, ROWS, COLUMNS).
PRODUCTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor]]] = {
    "one expert": ((7, ROWS), lambda x, w: x @ w[1]),
    "linear of one": ((2, 7, COLUMNS), lambda x, w: functional.linear(x, w[torch.tensor(2)])),
    "linear with a bias": ((4, COLUMNS), lambda x, w: functional.linear(x, w[0], x.new_ones(ROWS))),
    "one on the left": ((COLUMNS, 4), lambda x, w: w[1] @ x),
    "a vector": ((COLUMNS,), lambda x, w: w[1] @ x),
    "all experts": ((GROUPS, 7, ROWS), torch.bmm),
    "all on the left": ((GROUPS, COLUMNS, 4), lambda x, w: torch.bmm(w, x)),
    "all, of the same": ((7, ROWS), torch.matmul),
    "batches of all": ((2, GROUPS, 7, ROWS), torch.matmul),
    "all transposed": ((GROUPS, 7, COLUMNS), lambda x, w: x @ w.transpose(1, 2)),
    "some": ((4, ROWS), lambda x, w: torch.bmm(x.unsqueeze(1), w[SOME]).squeeze(1)),
    "some on the left": ((4, COLUMNS), lambda x, w: torch.bmm(w[SOME], x.unsqueeze(-1))),
    "each": ((7, COLUMNS), lambda x, w: sum(functional.linear(x, one) for one in w)),
    "all, and a bias": (
        (GROUPS, 7, ROWS),
        lambda x, w: torch.baddbmm(x.new_ones(GROUPS, 1, COLUMNS), x, w),
    ),
    "one on the left, and a bias": (
        (COLUMNS, 4),
        lambda x, w: torch.addmm(x.new_ones(4), w[1], x),
    ),
    "by groups": ((4, ROWS), grouped),
    "by groups, transposed": ((4, COLUMNS), lambda x, w: grouped(x, w.mT)),
    "in another format": ((7, ROWS), lambda x, w: x.float() @ w[1].to(dtype=torch.float32)),
}


@pytest.mark.parametrize("in_first", [False, True], ids=["out first", "in first"])
@pytest.mark.parametrize("method", ["svd", "pivoted_svd"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_runs_through_the_factors(product: str, method: str, in_first: bool) -> None:
    size, run = PRODUCTS[product]
    for rank in (3, 5):
        layer = factorized(method, rank, (GROUPS, ROWS, COLUMNS), in_first)
        factors, whole = list(layer.parameters()), layer._multiplied_out()
        x = torch.randn(size, dtype=torch.float64, requires_grad=True)
        weight = layer.weight
        assert weight.shape == whole.shape == (GROUPS, ROWS, COLUMNS)
        found, expected = run(x, weight), run(x, whole)
        close = 1e-5 if found.dtype == torch.float32 else 1e-8
        assert_same(found, expected, [x, *factors], close)
        assert isinstance(weight, OnDemand) and weight._made is None, "nothing is multiplied out"


def assert_same(found: Tensor, expected: Tensor, sources: list[Tensor], close: float) -> None:
    """The same numbers, and the same gradients of them."""
    assert type(found) is Tensor
    assert torch.allclose(found, expected, atol=close)
    slopes = torch.autograd.grad(found.square().sum(), sources, retain_graph=True)
    known = torch.autograd.grad(expected.square().sum(), sources, retain_graph=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(slopes, known, strict=True))


# {an equation: (what is multiplied, the weight, whether it has the inputs first, its rows)}
ONE_MATRIX = {
    "ibh,hnd->ibnd": ((4, 3, 6), (6, 2, 5), True, 1),
    "ibnd,hnd->ibh": ((4, 3, 2, 5), (6, 2, 5), False, 1),
    "... nd, ndh -> ... h": ((4, 3, 2, 5), (2, 5, 6), True, 2),
    "bh,ndh->bnd": ((4, 6), (2, 5, 6), False, 2),
    "h,hnd->nd": ((6,), (6, 2, 5), True, 1),
}
NOT_ONE_MATRIX = {
    "ibnd,snd->ibns": ((4, 3, 2, 5), (6, 2, 5)),  # each n by itself
    "ibnd,hnd->inbh": ((4, 3, 2, 5), (6, 2, 5)),  # n stays, d is summed over
    "ibdn,hnd->ibh": ((4, 3, 5, 2), (6, 2, 5)),  # another order
    "ibh,hnd->nibd": ((4, 3, 6), (6, 2, 5)),
    "iih,hnd->ind": ((4, 4, 6), (6, 2, 5)),
    "bn,hnd->bhd": ((4, 2), (6, 2, 5)),  # what is summed over lies between
    "ibh,hnd->ibn": ((4, 3, 6), (6, 2, 5)),
    "bh,hnd": ((4, 6), (6, 2, 5)),
}


@pytest.mark.parametrize("method", ["svd", "pivoted_svd"])
@pytest.mark.parametrize("equation", ONE_MATRIX)
def test_an_einsum_with_one_matrix_runs_through_its_factors(equation: str, method: str) -> None:
    size, shape, in_first, split = ONE_MATRIX[equation]
    layer = factorized(method, 3, shape, in_first, split)
    factors, whole = list(layer.parameters()), layer._multiplied_out()
    assert sum(factor.numel() for factor in factors) < whole.numel()
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    weight = layer.weight
    assert weight.shape == whole.shape == shape
    for operands in ((x, weight), ([x, weight],)):
        found = torch.einsum(equation, *operands)
        assert_same(found, torch.einsum(equation, x, whole), [x, *factors], 1e-8)
    assert isinstance(weight, OnDemand) and weight._made is None, "nothing is multiplied out"
    read, made = equation.replace(" ", "").split("->")
    swapped = ",".join(reversed(read.split(","))) + "->" + made
    assert torch.equal(torch.einsum(swapped, weight, x), found)
    assert weight._made is None
    assert torch.allclose(weight.flip(0), whole.flip(0)), "any other use has the numbers"
    assert torch.allclose(weight[0], whole[0])
    assert torch.allclose(weight.mT, whole.mT)


@pytest.mark.parametrize("equation", NOT_ONE_MATRIX)
def test_an_einsum_that_is_no_product_with_one_matrix_takes_the_numbers(equation: str) -> None:
    size, shape = NOT_ONE_MATRIX[equation]
    x = torch.randn(size, dtype=torch.float64)
    assert product_of(torch.einsum, (equation, x, whole := torch.randn(shape)), {}, whole) is None
    for split in (1, 2):
        for in_first in (False, True):
            layer = factorized("svd", 2, shape, in_first, split)
            expected = torch.einsum(equation, x, layer._multiplied_out())
            assert torch.allclose(torch.einsum(equation, x, layer.weight), expected)


@pytest.mark.parametrize("method", ["svd", "pivoted_svd"])
def test_at_full_rank_the_numbers_are_those_of_the_parameter(method: str) -> None:
    one, several = (ROWS, COLUMNS), (GROUPS, ROWS, COLUMNS)
    for shape, split, rank in ((several, 0, 5), (one, 0, 5), (several, 1, 3), (several, 2, 5)):
        for in_first in (False, True):
            torch.manual_seed(0)
            dense = torch.randn(shape, dtype=torch.float64)
            layer = factorized(method, rank, shape, in_first, split)
            assert torch.allclose(layer.weight + 0, dense)
            assert torch.allclose(layer.as_dense().weight, dense)  # type: ignore[arg-type]
