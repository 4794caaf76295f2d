"""Calling a network with whatever its batches are, and what of these is padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PADDING = -1  # in place of a token id: not part of the text, and masked in every model


def call(model: nn.Module, batch: Any) -> Any:
    """model(batch), where a tuple is spread over arguments and a dict over keywords."""
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    return model(batch)


def padding_mask(batch: Any) -> Tensor | None:
    """(N, T) bool, false at padding: a dict's `attention_mask`, or a tensor of token ids, where
    negative ones stand for no token. None for any other batch."""
    if isinstance(batch, dict):
        mask = batch.get("attention_mask")
        return None if mask is None else mask.bool()
    if isinstance(batch, Tensor) and batch.dim() == 2 and batch.dtype == torch.int64:
        return batch >= 0
    return None
