"""The packed modules that the contract of openings is tested on: a new kind is a new row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


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


def inside(*names: str, layers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}.{layer}" for name in names for layer in layers)


SELF = tuple(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
CROSS = tuple(name.replace("self_attn", "multihead_attn") for name in SELF)
FORWARD = ("linear1", "linear2")


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2)


TRANSFORMERS = [
    PackedKind(
        "transformer encoder, padding",
        encoder,
        lambda: ((x(2, 5, 12),), {"src_key_padding_mask": padding(5, 3, width=5)}),
        inside("layers.0", "layers.1", layers=(*SELF, *FORWARD)),
    ),
    PackedKind(
        "transformer decoder layer",
        lambda: nn.TransformerDecoderLayer(12, 2, 16, dropout=0.0, norm_first=True),
        lambda: ((x(4, 2, 12), x(5, 2, 12)), {"tgt_mask": upper(4), "tgt_is_causal": True}),
        (*SELF, *CROSS, *FORWARD),
    ),
]


class Reads(nn.Module):
    """A recurrent network; packs sequences of the given lengths, and unpacks the outputs."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor, hx: Any = None, lengths: Tensor | None = None) -> Any:
        if lengths is None:
            return self.recurrent(x, hx)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, last = self.recurrent(packed, hx)
        return pad_packed_sequence(out, batch_first=True)[0], last


def recurrent(kind: type[nn.Module], *sizes: int, **options: Any) -> Callable[[], nn.Module]:
    return lambda: Reads(kind(*sizes, **options))


def both(*places: str) -> tuple[str, ...]:
    return tuple(f"{kind}_{place}" for place in places for kind in ("input", "hidden"))


LENGTHS = {"lengths": torch.tensor([3, 5, 1])}
RECURRENT = [
    PackedKind(
        "lstm of two layers, both directions, dropout, packed",
        recurrent(nn.LSTM, 9, 6, 2, bidirectional=True, dropout=0.4, batch_first=True),
        lambda: ((x(3, 5, 9),), LENGTHS),
        inside("recurrent", layers=both("l0", "l0_reverse", "l1", "l1_reverse")),
    ),
    PackedKind(
        "lstm projected, states given",
        recurrent(nn.LSTM, 9, 14, 2, proj_size=12),
        lambda: ((x(5, 3, 9), (x(2, 3, 12), x(2, 3, 14))), {}),
        inside("recurrent", layers=(*both("l0", "l1"), "projection_l0", "projection_l1")),
    ),
    PackedKind(
        "lstm unbatched without bias",
        recurrent(nn.LSTM, 9, 12, bias=False),
        lambda: ((x(5, 9), (x(1, 12), x(1, 12))), {}),
        inside("recurrent", layers=both("l0")),
    ),
    PackedKind(
        "gru both directions",
        recurrent(nn.GRU, 9, 6, bidirectional=True, batch_first=True),
        lambda: ((x(3, 5, 9),), {}),
        inside("recurrent", layers=both("l0", "l0_reverse")),
    ),
    PackedKind(
        "gru packed, states given",
        recurrent(nn.GRU, 9, 12),
        lambda: ((x(3, 5, 9), x(1, 3, 12)), LENGTHS),
        inside("recurrent", layers=both("l0")),
    ),
    PackedKind(
        "rnn of relu",
        recurrent(nn.RNN, 9, 12, 2, nonlinearity="relu", dropout=0.4),
        lambda: ((x(5, 3, 9),), {}),
        inside("recurrent", layers=both("l0", "l1")),
    ),
    PackedKind(
        "lstm cell",
        recurrent(nn.LSTMCell, 9, 12),
        lambda: ((x(3, 9), (x(3, 12), x(3, 12))), {}),
        ("recurrent.input", "recurrent.hidden"),
    ),
    PackedKind(
        "gru cell unbatched",
        recurrent(nn.GRUCell, 9, 12),
        lambda: ((x(9),), {}),
        ("recurrent.input", "recurrent.hidden"),
    ),
    PackedKind(
        "rnn cell without bias",
        recurrent(nn.RNNCell, 9, 12, bias=False),
        lambda: ((x(3, 9),), {}),
        ("recurrent.input", "recurrent.hidden"),
    ),
]

PACKED_KINDS = [*ATTENTION, *TRANSFORMERS, *RECURRENT]
