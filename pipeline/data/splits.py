"""Pure parts of the data: a split in memory, and the rules by which examples get into splits."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.data.rows import Rows
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import PADDING, count_examples

# Tensors of one row an example: one of them, or several by name.
Values = Tensor | dict[str, Tensor]
# {split: {"inputs", "inputs.NAME", "labels" or "labels.NAME": (N, …)}}, in the layout of the files.
Splits = dict[str, dict[str, Rows]]
TokenSplits = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Channels:
    """Mean and standard deviation of each channel (dimension 1), in the unit of the network's
    inputs, in which the bytes 0…255 of an image are 0…1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, stored: Tensor) -> Tensor:
        """(x − mean)/std of stored values, as float32; the layout in memory is kept."""
        shape = [1, -1] + [1] * (stored.dim() - 2)
        mean = torch.tensor(self.mean, dtype=torch.float32).view(shape)
        std = torch.tensor(self.std, dtype=torch.float32).view(shape)
        scale = 1.0 / (_unit(stored) * std)
        return torch.mul(stored, scale).sub_(mean / std)


class Split:
    """Examples as they are stored: inputs, one tensor (N, …) or several by the names of the
    forward's keywords, and labels (N, …), one or several or none.

    channels: {"inputs" or "inputs.NAME": how that input is normalised}. An input without an entry
    is only converted: uint8 counts as x/255, floating values become float32, ids stay int64.
    """

    def __init__(
        self,
        inputs: Values,
        labels: Values | None = None,
        channels: Mapping[str, Channels] | None = None,
    ) -> None:
        self.stored = inputs
        self.labels = labels
        self.channels = dict(channels or {})

    def __len__(self) -> int:
        return count_examples(self.stored)

    @cached_property
    def inputs(self) -> Any:
        """All inputs, as the network reads them; made at the first call and kept."""
        return self.normalise(self.stored)

    def batch(self, chosen: Tensor | slice) -> tuple[Any, Any]:
        """(inputs as the network reads them and `calling.call` takes them, labels or None) of the
        chosen examples, each a tensor or {name: tensor}."""
        labels = None if self.labels is None else taken(self.labels, chosen)
        return self.normalise(taken(self.stored, chosen)), labels

    def followed_by(self, other: Split) -> Split:
        """A split with these examples, and after them those of another split of the same data."""
        both = copy.copy(self)
        both.__dict__.pop("inputs", None)
        both.stored = _joined(self.stored, other.stored)
        if self.labels is not None and other.labels is not None:
            both.labels = _joined(self.labels, other.labels)
        return both

    def normalise(self, stored: Values) -> Values:
        """Values as stored → values as the network reads them."""
        if isinstance(stored, dict):
            return {key: self._one(f"inputs.{key}", value) for key, value in stored.items()}
        return self._one("inputs", stored)

    def _one(self, name: str, stored: Tensor) -> Tensor:
        if name in self.channels:
            return self.channels[name].normalise(stored)
        if stored.dtype == torch.uint8:
            return torch.mul(stored, 1.0 / 255)
        # A copy: a network that works in place must not write into what is stored.
        return stored.to(torch.float32, copy=True) if stored.is_floating_point() else stored


class TokenSplit(Split):
    """Sequences of token ids, (N, T) int64 with PADDING after the last token of a shorter one, one
    tensor or several by name, and labels: (N,) classes, or (N, T) a label at each token."""

    def _one(self, name: str, stored: Tensor) -> Tensor:
        """The token ids, cut to the length of the longest of these sequences, where no label at
        each token asks for the whole length."""
        if stored.dim() != 2 or stored.dtype != torch.int64 or self._labelled_by_token:
            return super()._one(name, stored)
        return stored[:, : int((stored != PADDING).any(0).sum())]

    @property
    def _labelled_by_token(self) -> bool:
        return any(one.dim() > 1 and one.shape[1] for one in tensors(self.labels))


def tensors(values: Values | None) -> list[Tensor]:
    """The tensors of an input or of labels: one, several or none."""
    if values is None:
        return []
    return list(values.values()) if isinstance(values, dict) else [values]


def taken(values: Values, chosen: Tensor | slice) -> Values:
    """The chosen rows."""
    if isinstance(values, dict):
        return {key: value[chosen] for key, value in values.items()}
    return values[chosen]


def moved(values: Values, device: torch.device, dtype: torch.dtype | None = None) -> Values:
    """The values on a device; floating ones as `dtype`, where one is given."""
    if isinstance(values, dict):
        return {key: value.to(device, _kept(value, dtype)) for key, value in values.items()}
    return values.to(device, _kept(values, dtype))


def _kept(value: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and value.is_floating_point() else value.dtype


def named(name: Literal["inputs", "labels"], values: Values | None) -> dict[str, Tensor]:
    """Values under the names that they have on disk: NAME, or NAME.KEY for each of several."""
    if isinstance(values, dict):
        return {f"{name}.{key}": value for key, value in values.items()}
    return {} if values is None else {name: values}


def unnamed(name: str, stored: Mapping[str, Tensor]) -> Values | None:
    """The values that have these names on disk; None where there are none."""
    if name in stored:
        return stored[name]
    several = {
        key.removeprefix(f"{name}."): value
        for key, value in stored.items()
        if key.startswith(f"{name}.")
    }
    return several or None


def _joined(first: Values, second: Values) -> Values:
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: torch.cat([value, second[key]]) for key, value in first.items()}
    assert isinstance(first, Tensor) and isinstance(second, Tensor)
    return torch.cat([first, second])


def _unit(stored: Tensor) -> float:
    return 255.0 if stored.dtype == torch.uint8 else 1.0


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
