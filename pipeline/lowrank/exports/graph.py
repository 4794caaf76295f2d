"""A network as a graph, of which batch and length are free."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.base import Job
from pipeline.lowrank.exports.calls import Call, is_sequence
from pipeline.lowrank.exports.fresh import tensors_of
from pipeline.lowrank.exports.quiet import quiet
from pipeline.lowrank.exports.transformer import is_transformer


class Graphable(nn.Module):
    """A network whose outputs are tensors alone: a tensor as it is, several by their names. Its
    `forward` names the arguments of one call, which are the inputs of the graph."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network = network
        self.names = (*_positions(network, len(call.given)), *call.named)
        fixed = {"use_cache": False} if is_transformer(network) else {}

        def forward(*given: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
            found = tensors_of(self.network(*given, **named, **fixed))
            return found["output"] if list(found) == ["output"] else found

        either = inspect.Parameter.POSITIONAL_OR_KEYWORD
        known = [inspect.Parameter(name, either) for name in self.names]
        forward.__signature__ = inspect.Signature(known)  # type: ignore[attr-defined]
        self.forward = forward


def _positions(network: nn.Module, count: int) -> list[str]:
    """The names that the network's forward has for its first arguments."""
    names = []
    for name, one in inspect.signature(network.forward).parameters.items():
        if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            names.append(name)
    return names[:count] if len(names) >= count else [f"input_{i}" for i in range(count)]


def traced(job: Job) -> tuple[Graphable, Any]:
    """(the network whose outputs are tensors alone, its graph by torch.export).

    Raises LowRankError where torch.export refuses the network.
    """
    call = job.calls[0]
    network = Graphable(job.network, call).eval()
    axes = [_axes(value) for value in call.tensors.values()]
    sizes = dict(zip(network.names, axes, strict=True)) if job.options.dynamic else None
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                network, call.given, dict(call.named), dynamic_shapes=sizes, strict=False
            )
    except Exception as error:  # torch.export raises whatever its tracer meets
        reason = str(error).strip().splitlines()[0][:200]
        free = "with batch and length free (dynamic=false freezes them)" if sizes else ""
        raise LowRankError(
            f"torch.export cannot trace {type(job.network).__name__} {free}: {reason}; choose "
            "to=torch"
        ) from error
    return network, program


def _axes(value: Tensor) -> dict[int, Any]:
    """Which sizes are free: the batch, and the length of ids and masks."""
    free = {0: torch.export.Dim.DYNAMIC}
    if is_sequence(value):
        free[1] = torch.export.Dim.DYNAMIC
    return free
