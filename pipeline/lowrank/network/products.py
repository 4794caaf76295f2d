"""Products of states with a weight, as code outside of any layer writes them: one normal form for
all the functions of torch that multiply by a matrix, or by one matrix a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

_MATMUL = {"matmul", "__matmul__", "mm", "bmm"}
_ADDED = {"addmm", "baddbmm"}  # these with what is added before the operands
GROUPED = {"grouped_mm", "_grouped_mm", "grouped_mm_fallback"}
_TURNED = {Tensor.mT.__get__, Tensor.T.__get__, torch.t, Tensor.t, torch.adjoint}  # type: ignore[attr-defined]
_SAME = {Tensor.contiguous, Tensor.clone, Tensor.detach, Tensor.to, Tensor.type_as, Tensor.float}
_SAME |= {Tensor.bfloat16, Tensor.half, Tensor.double}


@dataclass(frozen=True)
class Product:
    """x · A, A one of the factors' or weights' matrices (…, k, n), or A · x.

    x: the other operand.
    turned: the function multiplies by the transpose of the weight's last two dimensions.
    on_left: the weight stands on the left, A · x.
    bias: what is added.
    ends: where the rows of each group end in x, in products by groups.
    split: in a product with one matrix that has more than two dimensions, how many of the first
        ones are together its rows; 0 where the last two are matrices.
    shape: those dimensions of the result that are together the columns of the product, with split.
    """

    x: Tensor
    turned: bool = False
    on_left: bool = False
    bias: Tensor | None = None
    ends: Tensor | None = None
    split: int = 0
    shape: tuple[int, ...] = ()

    def in_first(self, swapped: bool) -> bool:
        """Whether what is multiplied by has the inputs before the outputs, as it is stored.

        swapped: whether the weight is what is stored with its last two dimensions swapped.
        """
        return (self.on_left or self.turned) == swapped


def product_of(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], weight: Tensor
) -> Product | None:
    """The product with `weight` that a call of `func` is, or None where it is no such product that
    is known here."""
    name = getattr(func, "__name__", "")
    try:
        if func is functional.linear:
            return _of_linear(weight, *args, **kwargs)
        if name in GROUPED:
            return _of_groups(weight, *args, **kwargs)
        if name in _MATMUL and len(args) == 2 and not kwargs:
            one, other = args
            return _between(one, other, weight)
        if name == "__rmatmul__" and len(args) == 2:
            return _between(args[1], args[0], weight)
        if func is torch.functional.einsum:
            return _of_labels(weight, *args, **kwargs)
        if name in _ADDED and len(args) == 3 and not kwargs and args[0] is not weight:
            found = _between(args[1], args[2], weight)
            return None if found is None else replace(found, bias=args[0])
    except TypeError:
        pass
    return None


def in_steps(func: Callable[..., Any], kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The same function of torch with its products seen one by one; None where it is one of which
    nothing else is known. Attention is that takes each projection's weight by itself."""
    separate = kwargs.get("use_separate_proj_weight") is True
    return _ATTENTION if func is functional.multi_head_attention_forward and separate else None


def _unasked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch in Python, by its own code, that does not ask at its beginning whether
    its arguments or a mode take its place."""
    known = {**function.__globals__, "has_torch_function": lambda _: False}
    made = FunctionType(function.__code__, known, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


_ATTENTION = _unasked(functional.multi_head_attention_forward)


def _of_linear(kept: Tensor, /, input: Any, weight: Any, bias: Any = None) -> Product | None:
    if weight is not kept or input is kept or kept.dim() != 2:
        return None
    return Product(input, turned=True, bias=bias)


def _of_groups(
    kept: Tensor, /, input: Any, mat2: Any = None, *, offs: Any = None, **further: Any
) -> Product | None:
    other = further.pop("weight", mat2)
    plain = all(value is None for value in further.values())
    fits = other is kept and input is not kept and input.dim() == 2 and kept.dim() == 3
    return Product(input, ends=offs) if plain and fits and offs is not None else None


def _between(one: Any, other: Any, weight: Tensor) -> Product | None:
    if one is other or min(one.dim(), other.dim()) < 1 or weight.dim() < 2:
        return None
    return Product(one) if other is weight else Product(other, on_left=True)


def _of_labels(kept: Tensor, /, equation: Any, *operands: Any) -> Product | None:
    """A product with one matrix: the labels that are summed over are the last ones of x, and the
    first or the last ones of the weight, whose others are the last ones of the result. Or with one
    matrix a group, whose label comes first: eti,eio->eto."""
    given = operands[0] if len(operands) == 1 else operands
    if not isinstance(equation, str) or not isinstance(given, list | tuple) or len(given) != 2:
        return None
    read, _, made = equation.replace(" ", "").partition("->")
    labels = read.split(",")
    if len(labels) != 2:
        return None
    x, of_x, of_kept = given[0], labels[0], labels[1]
    if x is kept:
        x, of_x, of_kept = given[1], labels[1], labels[0]
    if x is kept or len(set(of_kept)) < len(of_kept) or "." in of_kept:
        return None
    for split in range(1, len(of_kept)):
        first, last = of_kept[:split], of_kept[split:]
        for turned, summed, free in ((False, first, last), (True, last, first)):
            lead = of_x.removesuffix(summed)
            others = lead.replace("...", "")
            alone = len({*others, *of_kept}) == len(others) + len(of_kept)
            if lead != of_x and alone and made == lead + free:
                return _with_one_matrix(x, kept, split, turned)
    return _of_each_group(x, of_x, kept, of_kept, made)


def _of_each_group(x: Any, of_x: str, kept: Tensor, of_kept: str, made: str) -> Product | None:
    """The product of einsum with one matrix a group; all groups may read the same rows."""
    if kept.dim() != 3 or "." in of_x:
        return None
    group, first, last = list(of_kept)
    row, sides = of_x.removeprefix(group)[:1], kept.shape[1:]
    for turned, summed, free in ((False, first, last), (True, last, first)):
        fits = of_x.removeprefix(group) == row + summed and made == group + row + free
        if fits and row not in of_kept and x.shape[-1] == sides[turned]:
            each = x if of_x[0] == group else x.expand(len(kept), *x.shape)
            return Product(each, turned)
    return None


def _with_one_matrix(x: Tensor, kept: Tensor, split: int, turned: bool) -> Product | None:
    first, last = kept.shape[:split], kept.shape[split:]
    summed, free = (last, first) if turned else (first, last)
    if x.shape[-len(summed) :] != summed:
        return None  # one number for all of them
    if kept.dim() == 2:
        return Product(x, turned)
    return Product(x.flatten(-len(summed)), turned, split=split, shape=tuple(free))


def is_transposed(func: Callable[..., Any], args: Sequence[Any], dims: int) -> bool:
    """Whether a call swaps the last two dimensions of a tensor with `dims` dimensions."""
    if func in _TURNED:
        return dims == 2 or func in (Tensor.mT.__get__, torch.adjoint)  # type: ignore[attr-defined]
    if getattr(func, "__name__", "") not in ("transpose", "swapaxes", "swapdims"):
        return False
    return len(args) == 3 and {a % dims for a in args[1:]} == {dims - 2, dims - 1}


def is_same(func: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether a call gives the same matrices, perhaps in another layout or number format, or with
    rows that are passed on."""
    if func is Tensor.type:
        return len(args) > 1
    return func in _SAME or func is with_pivots


def with_pivots(rest: Tensor, order: Tensor) -> Tensor:
    """(…, rows, n): row i is row order[i] of the identity above `rest`.

    rest: (…, m, n); order: (…, rows), rows = m + n.
    """
    if has_torch_function((rest,)):  # who watches `rest` takes this for the same
        found: Tensor = handle_torch_function(with_pivots, (rest,), rest, order)
        return found
    rank = rest.shape[-1]
    eye = torch.eye(rank, dtype=rest.dtype, device=rest.device)
    stacked = torch.cat([eye.expand(*rest.shape[:-2], -1, -1), rest], -2)
    return stacked.gather(-2, order[..., None].expand(*order.shape, rank))


def picked(func: Callable[..., Any], args: Sequence[Any]) -> int | Tensor | None:
    """The groups that a call takes of a stack: one, or a vector of them; None where it does
    something else."""
    if getattr(func, "__name__", "") != "__getitem__" or len(args) != 2:
        return None
    index = args[1]
    if isinstance(index, int) and not isinstance(index, bool):
        return index
    whole = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32)
    if not whole or index.dim() > 1:
        return None
    found: Tensor = index
    return found if found.dim() else int(found)
