"""The functions and methods in a traced graph, by the names that fx has for them, sorted by what
they do to an error."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from pipeline.lowrank.bounds.linear import is_linear

# Functions that are a layer without weights: the arguments after the input are the layer's.
AS_MODULE: dict[Any, Callable[..., nn.Module]] = {
    **dict.fromkeys((functional.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((functional.tanh, torch.tanh, "tanh"), nn.Tanh),
    **dict.fromkeys((functional.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid),
    functional.relu6: nn.ReLU6,
    functional.gelu: nn.GELU,
    functional.silu: nn.SiLU,
    functional.mish: nn.Mish,
    functional.selu: nn.SELU,
    functional.hardswish: nn.Hardswish,
    functional.hardsigmoid: nn.Hardsigmoid,
    functional.hardtanh: nn.Hardtanh,
    functional.softplus: nn.Softplus,
    functional.leaky_relu: nn.LeakyReLU,
    functional.elu: nn.ELU,
    functional.max_pool1d: nn.MaxPool1d,
    functional.max_pool2d: nn.MaxPool2d,
    functional.max_pool3d: nn.MaxPool3d,
    functional.adaptive_max_pool1d: nn.AdaptiveMaxPool1d,
    functional.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    functional.adaptive_max_pool3d: nn.AdaptiveMaxPool3d,
}
# Values are moved or left out, never changed: the constant is 1.
REARRANGE: tuple[Any, ...] = (
    torch.flatten,
    torch.reshape,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.movedim,
    torch.flip,
    torch.chunk,
    torch.split,
    torch.clone,
    operator.getitem,
    functional.pixel_shuffle,
    "flatten",
    "reshape",
    "view",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "movedim",
    "flip",
    "chunk",
    "split",
    "clone",
    "contiguous",
    "unflatten",
    "view_as",
    "reshape_as",
)
# Linear with non-negative entries (with zeros outside): a test of its row and column sums.
NON_NEGATIVE: tuple[Any, ...] = (
    torch.mean,
    torch.sum,
    "mean",
    "sum",
    functional.avg_pool1d,
    functional.avg_pool2d,
    functional.avg_pool3d,
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
    functional.pad,
)
ADD: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
SUBTRACT: tuple[Any, ...] = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
MULTIPLY: tuple[Any, ...] = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
DIVIDE: tuple[Any, ...] = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
NEGATE: tuple[Any, ...] = (operator.neg, torch.neg, "neg")
CONCATENATE: tuple[Any, ...] = (torch.cat, torch.concat, torch.stack)
DROPOUT: tuple[Any, ...] = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
)
PRODUCTS: tuple[Any, ...] = (
    functional.scaled_dot_product_attention,
    functional.multi_head_attention_forward,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    operator.matmul,
    "matmul",
    "bmm",
)
# Methods and attributes whose value is the same for every input of one shape.
SHAPES: tuple[Any, ...] = ("size", "dim", "numel", "ndimension")
SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device")


def of_shape_only(target: Any, args: tuple[Any, ...]) -> bool:
    """Whether the value depends on the shape of its input and not on the numbers in it."""
    if target is builtins.getattr:
        return args[1] in SHAPE_ATTRIBUTES
    return target in SHAPES


def in_place(target: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the function or method changes its first argument."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    augmented = target in (operator.iadd, operator.isub, operator.imul, operator.itruediv)
    return augmented or bool(kwargs.get("inplace")) or (name.endswith("_") and name[:1] != "_")


class Tracer(fx.Tracer):
    """Traces a network into a graph in which every linear layer is one call, whoever wrote its
    class."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_linear(m) or super().is_leaf_module(m, module_qualified_name)
