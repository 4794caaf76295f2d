"""How far the outputs of two networks are apart, without any bound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.bounds.carried import leaves
from pipeline.lowrank.bounds.linear import example_norms
from pipeline.lowrank.bounds.record import NetworkBound, Quantiles
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import (
    call,
    count_examples,
    device_of,
    evaluating,
    placed,
    rows_of,
)


def float64_gib(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) * 8 / 2**30


def measured_alone(
    dense: nn.Module, approximate: nn.Module, inputs: Any, batch_size: int, reason: str
) -> NetworkBound:
    """What was measured of networks that cannot be certified, in their own number formats."""
    inputs, found = placed(inputs, device_of(dense)), []
    with evaluating(dense), evaluating(approximate):
        for start in range(0, count_examples(inputs), batch_size):
            batch = rows_of(inputs, slice(start, start + batch_size))
            apart = outputs_of(dense, batch).double() - outputs_of(approximate, batch).double()
            found.append(example_norms(apart).cpu())
    measured = torch.cat(found)
    return NetworkBound(False, reason, len(measured), quantiles(measured))


def outputs_of(model: nn.Module, batch: Any) -> Tensor:
    """(N, numbers) that the network gives for a batch: those of a tensor, or of all tensors in a
    tuple or mapping, side by side."""
    count = count_examples(batch)
    with torch.no_grad():
        found = [
            leaf.reshape(count, -1)
            for leaf in leaves(call(model, batch))
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.shape[:1] == (count,)
        ]
    if not found:
        raise LowRankError(
            "the network gives no tensor with a row an example; its error is undefined"
        )
    return torch.cat(found, dim=1)


def quantiles(values: Tensor) -> Quantiles:
    return Quantiles(*(values.quantile(q).item() for q in (0.5, 0.9, 1.0)))
