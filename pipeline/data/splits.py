"""Pure parts of the data: a split in memory, and the rules by which examples get into splits."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import PADDING

# {split: {"inputs" or "labels": (N, …)}}, in the layout of the files.
Splits = dict[str, dict[str, Tensor]]


class Split:
    """Examples as stored, (N, C, …) uint8 or float32, and labels (N, …).

    The inputs that it gives are float32 and normalised by channel: (x − mean)/std, where uint8
    counts as x/255. Without mean and std the values are only converted.
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

    def followed_by(self, other: Split) -> Split:
        """A split with these examples, and after them those of another split of the same data."""
        both = copy.copy(self)
        both.__dict__.pop("inputs", None)
        both.stored = torch.cat([self.stored, other.stored])
        both.labels = torch.cat([self.labels, other.labels])
        return both

    def normalise(self, stored: Tensor) -> Tensor:
        """Values as stored → values as the network reads them; the layout in memory is kept."""
        scale = 1.0 / (self._unit * self._std)
        return torch.mul(stored, scale).sub_(self._mean / self._std)


class TokenSplit(Split):
    """Sequences of token ids, (N, T) int64 with PADDING after the last token of a shorter one,
    and labels: (N,) classes, (N, T) the next tokens, or (N, 0) where there are none."""

    def normalise(self, stored: Tensor) -> Tensor:
        """The token ids, cut to the length of the longest of these sequences."""
        return stored[:, : int((stored != PADDING).any(0).sum())]


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


def consecutive_ranges(
    counts: Sequence[int], sizes: Mapping[str, int], *, rest: str, unit: str
) -> dict[str, range]:
    """Ranges of whole documents, in the documents' order: `rest` first, then the splits of
    `sizes`, each just long enough for its size.

    counts: what each document holds, in the unit of `sizes`, which `unit` names. What a split's
    documents hold beyond its size is left unused: no document is in two splits.

    Raises LowRankError where the documents are too few or too short.
    """
    ranges, end = {}, len(counts)
    for split, size in reversed(list(sizes.items())):
        start, held = end, 0
        while held < size and start > 0:
            start -= 1
            held += counts[start]
        if held < size or start == 0:
            raise LowRankError(
                f"{len(counts)} documents of {sum(counts)} {unit} are too few for "
                + " + ".join(f"data.{name} ({needed} {unit})" for name, needed in sizes.items())
                + f" and a {rest} split, which share none; ask for smaller splits, give more "
                "text, or mark the chapters of a long one (a form feed starts a document)"
            )
        ranges[split], end = range(start, end), start
    return {rest: range(end), **dict(reversed(list(ranges.items())))}
