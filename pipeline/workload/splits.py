"""Pure parts of the data: a split in memory, and who goes into which split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError


class Split:
    """Examples as stored, (N, C, …) uint8 or float32, and labels (N,) int64.

    What comes out is float32 and normalised by channel: (x − mean)/std, where uint8 counts as
    x/255. Without mean and std the values are only converted.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.stored = inputs
        self.labels = labels
        self._unit = 255.0 if inputs.dtype == torch.uint8 else 1.0
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        self._mean = torch.tensor(mean or [0.0], dtype=torch.float32).view(shape)
        self._std = torch.tensor(std or [1.0], dtype=torch.float32).view(shape)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def inputs(self) -> Tensor:
        """All inputs, normalised; made at the first call and kept."""
        return self.normalise(self.stored)

    def batch(self, chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        """(inputs, labels) of the chosen examples, normalised."""
        return self.normalise(self.stored[chosen]), self.labels[chosen]

    def normalise(self, stored: Tensor) -> Tensor:
        """Values as stored → values as the network reads them; the layout in memory is kept."""
        scale = 1.0 / (self._unit * self._std)
        return torch.mul(stored, scale).sub_(self._mean / self._std)


def stratified_indices(
    labels: Tensor, sizes: Mapping[str, int | None], *, rest: str, seed: int
) -> dict[str, Tensor]:
    """Disjoint, shuffled index sets of exactly the given sizes, classes in proportion.

    The split called `rest` is filled last: with everything left where its size is None.
    Classes get the largest remainders, so every class count is within one of its proportion
    of what was left. Raises LowRankError where the sizes ask for more than there is.
    """
    asked = sum(size or 0 for size in sizes.values()) + (sizes[rest] is None)
    if asked > len(labels):
        parts = " + ".join(f"data.{k}={v}" for k, v in sizes.items() if v is not None)
        raise LowRankError(
            f"{len(labels)} examples are too few for {parts}"
            f"{' and a train split' if sizes[rest] is None else ''}; ask for smaller splits"
        )
    generator = torch.Generator().manual_seed(seed)
    pools = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        pools.append(members[torch.randperm(len(members), generator=generator)])
    indices: dict[str, Tensor] = {}
    for split in [*(k for k in sizes if k != rest), rest]:
        size = sizes[split]
        total = sum(len(pool) for pool in pools)
        counts = _proportional(total if size is None else size, [len(pool) for pool in pools])
        taken = torch.cat([pool[:count] for pool, count in zip(pools, counts, strict=True)])
        pools = [pool[count:] for pool, count in zip(pools, counts, strict=True)]
        indices[split] = taken[torch.randperm(len(taken), generator=generator)]
    return indices


def _proportional(size: int, available: Sequence[int]) -> list[int]:
    """`size` dealt out in proportion to `available`, whole numbers by largest remainder."""
    total = sum(available)
    counts = [size * count // total for count in available]
    remainders = [size * count % total for count in available]
    order = sorted(range(len(available)), key=lambda index: (-remainders[index], index))
    for index in order[: size - sum(counts)]:
        counts[index] += 1
    return counts
