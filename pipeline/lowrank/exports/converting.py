"""The network that is exported: in one of the forms, and in a number format."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms import FORMS
from pipeline.lowrank.forms.base import weights_of
from pipeline.lowrank.forms.dense import to_dense_
from pipeline.lowrank.forms.pivoted import Pivoted
from pipeline.lowrank.forms.running import has_pivots, multiply_out_
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.network.opening import replace_


def in_form(model: nn.Module, form: str) -> nn.Module:
    """The network, of the same function: itself where it has that form, else a copy.

    form: "pivoted" is as it stands; "plain" has its pivots multiplied into whole factors, and those
        layers multiplied out that are no smaller then than a dense one; "dense" has all layers
        multiplied out.

    Raises LowRankError for a layer that can't be multiplied out.
    """
    if form == "pivoted" or not any(is_factorized(module) for module in model.modules()):
        return model
    if form == "dense":
        dense = to_dense_(copy.deepcopy(model))
        left = [name for name, module in dense.named_modules() if is_factorized(module)]
        if left:
            raise LowRankError(f"{left[0]} can't be multiplied out: choose form=pivoted")
        return dense
    return _plain(copy.deepcopy(model))


def in_dtype(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """The network with what it saves (parameters and buffers of a floating type) in a number
    format, on the CPU: itself where it is so, else a copy. What it does not save keeps its format:
    it is made anew when the network is."""
    saved = list(model.state_dict(keep_vars=True).values())
    if not any(_changes(tensor, dtype) for tensor in saved):
        return model
    twin = copy.deepcopy(model).to("cpu")
    for tensor in twin.state_dict(keep_vars=True).values():
        if dtype is not None and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return twin


def is_factorized(module: nn.Module) -> bool:
    """Whether a module stands for one layer of the network in factors."""
    return bool(getattr(module, "stands_for_one_layer", False))


def _changes(tensor: torch.Tensor, dtype: torch.dtype | None) -> bool:
    other = dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype
    return other or tensor.device.type != "cpu"


def _plain(model: nn.Module) -> nn.Module:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Factorized) and has_pivots(layer):
            whole = multiply_out_(copy.deepcopy(layer))
            dense = layer.as_dense()
            smaller = count_params(whole) < count_params(dense)
            model = replace_(model, name, _of_whole_factors(whole) if smaller else dense)
    return model


@torch.no_grad()
def _of_whole_factors(layer: nn.Module) -> nn.Module:
    """The layer with the form that its whole factors have (a side of full rank had no factor), and
    these balanced, as they lose least to 8 bits."""
    assert isinstance(layer, Factorized) and isinstance(layer.form, Pivoted)
    form, weights = layer.form.form, weights_of(list(layer))
    if form.name == "tucker2" and len(weights) == 2:
        form = FORMS["svd" if weights[1][0, 0].numel() == 1 else "svd_in"]
    layer.form = form
    form.store(list(layer), form.balanced([factor.double() for factor in layer.factors]))
    return layer
