"""The packed modules that the contract of openings is tested on: a new kind is a new row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PackedKind:
    """A network with packed modules, what it is called with, and the layers that it opens into."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    layers: tuple[str, ...]


class Attends(nn.Module):
    """Self-attention as a network; with `heads` of it returned too where weights are wanted."""

    def __init__(self, attention: nn.MultiheadAttention, **named: Any) -> None:
        super().__init__()
        self.attention, self.named = attention, named

    def forward(self, x: Tensor, memory: Tensor | None = None, **masks: Tensor) -> Any:
        other = x if memory is None else memory
        return self.attention(x, other, other, **self.named, **masks)


def attention(*, named: dict[str, Any] | None = None, **options: Any) -> Callable[[], nn.Module]:
    given = {"dropout": 0.0, "batch_first": True, **options}
    return lambda: Attends(nn.MultiheadAttention(12, 3, **given), **(named or {}))


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def upper(size: int, other: int | None = None) -> Tensor:
    return torch.ones(size, other or size, dtype=torch.bool).triu(1)


def padding(*lengths: int, width: int) -> Tensor:
    return torch.arange(width) >= torch.tensor(lengths)[:, None]


QKVO = tuple(f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
PLAIN: dict[str, Any] = {"need_weights": False}

ATTENTION = [
    PackedKind("mha weights", attention(), lambda: ((x(2, 5, 12),), {}), QKVO),
    PackedKind("mha plain", attention(named=PLAIN), lambda: ((x(2, 5, 12),), {}), QKVO),
    PackedKind(
        "mha each head's weights, dropout",
        attention(named={"average_attn_weights": False}, dropout=0.5),
        lambda: ((x(2, 5, 12),), {}),
        QKVO,
    ),
    PackedKind(
        "mha positions first, dropout",
        attention(named=PLAIN, batch_first=False, dropout=0.5),
        lambda: ((x(5, 2, 12),), {"attn_mask": upper(5)}),
        QKVO,
    ),
    PackedKind(
        "mha unbatched",
        attention(),
        lambda: ((x(5, 12),), {"key_padding_mask": torch.tensor([False] * 4 + [True])}),
        QKVO,
    ),
    PackedKind(
        "mha causal hint",
        attention(named={**PLAIN, "is_causal": True}),
        lambda: ((x(2, 5, 12),), {"attn_mask": upper(5)}),
        QKVO,
    ),
    PackedKind(
        "mha sizes of their own, no bias, both masks",
        attention(named=PLAIN, bias=False, kdim=7, vdim=7),
        lambda: (
            (x(2, 4, 12), x(2, 5, 7)),
            {"attn_mask": upper(4, 5), "key_padding_mask": padding(5, 3, width=5)},
        ),
        QKVO,
    ),
    PackedKind(
        "mha added keys, a mask a head",
        attention(add_bias_kv=True, add_zero_attn=True),
        lambda: (
            (x(2, 4, 12),),
            {"attn_mask": x(6, 4, 4), "key_padding_mask": x(2, 4)},
        ),
        QKVO,
    ),
]

PACKED_KINDS = [*ATTENTION]
