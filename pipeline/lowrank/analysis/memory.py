"""What the sums of moments take of memory, known before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.kinds import LOOKUPS
from pipeline.lowrank.network.targets import dense_weight, groups_of

WIDEST = 16_384  # a layer with more outputs has the diagonal of its outputs' moments alone
_SUM, _WORKING = 8, 16  # bytes an entry of a matrix: of its sum, and of one batch's product


def blocks_within(
    targets: Mapping[str, nn.Module], gradients: bool, limit: int
) -> list[dict[str, nn.Module]]:
    """Targets in consecutive blocks whose sums fit into `limit` bytes, with the work on the largest
    of them. Raises LowRankError where one target alone does not fit."""
    blocks: list[dict[str, nn.Module]] = [{}]
    held, largest = 0, 0
    for name, module in targets.items():
        sizes = _entries(module, gradients)
        if (needed := _SUM * sum(sizes) + _WORKING * max(sizes)) > limit:
            raise LowRankError(
                f"layer {name!r}: its sums take {needed / 2**30:.2g} GiB, and memory_gib is "
                f"{limit / 2**30:.2g}; raise memory_gib, or leave the layer out with "
                f"analyze.exclude=[{name}]"
            )
        if _SUM * (held + sum(sizes)) + _WORKING * max(largest, *sizes) > limit:
            blocks.append({})
            held, largest = 0, 0
        blocks[-1][name] = module
        held, largest = held + sum(sizes), max(largest, *sizes)
    return blocks


def _entries(module: nn.Module, gradients: bool) -> tuple[int, int]:
    """How many numbers the sums of a layer's inputs and of its gradients have."""
    weight, groups = dense_weight(module), groups_of(module)
    rows, columns = weight.shape[0] // groups, weight[0].numel()
    inputs = columns if isinstance(module, LOOKUPS) else columns**2
    outputs = rows if rows > WIDEST else rows**2
    return groups * inputs, groups * outputs if gradients else 0
