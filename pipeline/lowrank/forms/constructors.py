"""How a standard layer is made: its class in torch.nn and the arguments of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.same_padding import SAME

# What a layer is made with anywhere: it is told where it runs and in which format.
_PLACEMENT = ("device", "dtype")


def constructor_of(layer: nn.Module) -> dict[str, Any]:
    """{"kind": the name of the layer's class, argument: value} in the plain types of JSON.

    A layer of torch.nn is made with what it remembers of its own arguments. Another one has a
    method `constructor` that says the same, and is written out in `exports.standalone`.

    Raises LowRankError for a layer that is neither, as an adapter's wrapper is.
    """
    own = getattr(layer, "constructor", None)
    if own is not None:
        found: dict[str, Any] = own()
        return found
    cls = type(layer)
    if getattr(nn, cls.__name__, None) is not cls and cls not in SAME.values():
        raise LowRankError(
            f"a factor is a {cls.__name__}, which is no layer of torch.nn: merge adapters "
            "(lr.merge_), or choose form=dense"
        )
    arguments = [p for p in inspect.signature(cls.__init__).parameters if hasattr(layer, p)]
    facts = {key: getattr(layer, key) for key in arguments if key not in (*_PLACEMENT, "self")}
    return {"kind": cls.__name__, **{key: _plain(value) for key, value in facts.items()}}


def _plain(value: object) -> object:
    """A bias counts by whether it is there; sizes are lists in JSON."""
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return value
