"""Inputs and outputs of a layer as rows of vectors, one block a group, such that the layer is a
matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.network.kinds import padding_of


def input_rows(module: nn.Module, value: Tensor, mask: Tensor | None) -> Tensor:
    """(groups, positions, in/groups · taps): the vectors that a layer multiplies by its weight, one
    for each output position.

    value: the layer's input; a convolution's becomes patches, as of torch.nn.functional.unfold.
    mask: (N, T), false at padding, which is left out; None keeps all.
    """
    if isinstance(module, nn.modules.conv._ConvNd):
        return _patches(module, value)
    return _unpadded(value, mask)[None]


def output_rows(module: nn.Module, value: Tensor, mask: Tensor | None) -> Tensor:
    """(groups, positions, out/groups): the layer's output `value`, or its gradient, at the
    positions of `input_rows`."""
    if isinstance(module, nn.modules.conv._ConvNd):
        batch, channels = value.shape[:2]
        grouped = value.reshape(batch, module.groups, channels // module.groups, -1)
        return grouped.permute(1, 0, 3, 2).flatten(1, 2)
    return _unpadded(value, mask)[None]


def lookup_sums(
    module: nn.Embedding | nn.EmbeddingBag, ids: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """(Σx², Σx, positions), the sums (1, entries) float64: x says by how much each entry of the
    table counts in an output, which of an Embedding is 1 for the entry that is read. An
    EmbeddingBag reads several at a position, in their sum or mean.

    ids: of any shape; mask: (N, T), false at padding, which is left out; None keeps all.
    """
    if isinstance(module, nn.EmbeddingBag):
        return _bags(module, ids)
    padded = mask is not None and ids.shape == mask.shape
    read = ids[mask] if padded else ids.flatten()
    counts = torch.bincount(read, minlength=module.num_embeddings).double()[None]
    return counts, counts, len(read)


def _bags(module: nn.EmbeddingBag, ids: Tensor) -> tuple[Tensor, Tensor, int]:
    """ids (bags, n); those at the padding index count nowhere, as in torch."""
    entries, (bags, _) = module.num_embeddings, ids.shape
    read = torch.ones_like(ids, dtype=torch.bool)
    if module.padding_idx is not None:
        read = ids != module.padding_idx
    bag = torch.arange(bags, device=ids.device)[:, None].expand_as(ids)
    places, counts = torch.unique((bag * entries + ids)[read], return_counts=True)
    share = counts.double()
    if module.mode == "mean":
        share = share / read.sum(1)[places // entries]
    squares = share.new_zeros(entries).index_add_(0, places % entries, share.square())
    total = share.new_zeros(entries).index_add_(0, places % entries, share)
    return squares[None], total[None], bags


def _unpadded(value: Tensor, mask: Tensor | None) -> Tensor:
    """(…, channels) → (positions, channels), positions that the mask marks 0 left out."""
    padded = mask is not None and value.shape[:-1] == mask.shape
    rows: Tensor = value[mask] if padded else value.flatten(0, -2)
    return rows


def _patches(module: nn.modules.conv._ConvNd, value: Tensor) -> Tensor:
    """im2col for any dimension, stride, padding, dilation and number of groups, and for transposed
    convolutions: (N, in, *size) → (groups, N · output positions, in/groups · taps)."""
    dims, steps = len(module.kernel_size), module.stride
    pads = [size for pair in reversed(padding_of(module, value.shape[2:])) for size in pair]
    if module.transposed:
        value, steps = _spread(value, steps), (1,) * dims
    if any(pads):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        value = functional.pad(value, pads, mode=mode)
    for axis, (size, step, gap) in enumerate(
        zip(module.kernel_size, steps, module.dilation, strict=True), start=2
    ):
        value = value.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap]
    if module.transposed:  # it is the convolution with the kernel turned round
        value = value.flip(tuple(range(2 + dims, 2 + 2 * dims)))
    # N, in, *positions, *taps → groups, N, *positions, in/groups, *taps
    batch, channels, *rest = value.shape
    value = value.reshape(batch, module.groups, channels // module.groups, *rest)
    positions = range(3, 3 + dims)
    taps = range(3 + dims, 3 + 2 * dims)
    value = value.permute(1, 0, *positions, 2, *taps)
    return value.flatten(2 + dims).flatten(1, -2)


def _spread(value: Tensor, steps: Sequence[int]) -> Tensor:
    """An image with steps − 1 zeros between its positions, along each axis."""
    axes = zip(value.shape[2:], steps, strict=True)
    found = value.new_zeros(*value.shape[:2], *((size - 1) * step + 1 for size, step in axes))
    places: tuple[slice, ...] = tuple(slice(None, None, step) for step in steps)
    found[(slice(None), slice(None), *places)] = value
    return found
