"""nn.MultiheadAttention, opened into the Linears of queries, keys, values and outputs."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.network.opening.base import Opening, joined, linear, part

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_WEIGHTS = tuple(f"{name}_weight" for name in _PROJECTIONS)


class OpenAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention whose matrices are layers. It answers for the packed parameters, which
    are put together when they are read."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module  # type: ignore[assignment]

    @property
    def in_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        """(3 · embed_dim, embed_dim); None where keys or values have a size of their own."""
        return torch.cat(_weights(self)) if self._qkv_same_embed_dim else None

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """(3 · embed_dim,), or None."""
        biases = [getattr(self, name).bias for name in _PROJECTIONS]
        return None if biases[0] is None else torch.cat(biases)

    @property
    def q_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        return None if self._qkv_same_embed_dim else _weights(self)[0]

    @property
    def k_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        return None if self._qkv_same_embed_dim else _weights(self)[1]

    @property
    def v_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        return None if self._qkv_same_embed_dim else _weights(self)[2]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of nn.MultiheadAttention; nested tensors are refused, as they are there outside of the
        fast path."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        if query.is_nested or key.is_nested or value.is_nested:
            raise RuntimeError("MultiheadAttention with layers takes no nested tensors")
        batched = query.dim() == 3
        # The layers read what was given, so that they see one tensor where it is one.
        q = self._rows(self.q_proj(query), batched)
        k = self._rows(self.k_proj(key), batched)
        v = self._rows(self.v_proj(value), batched)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
        q, k, v = (self._heads(x) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
        hinted = is_causal and key_padding_mask is None and not need_weights
        mask = None if hinted else self._mask(attn_mask, key_padding_mask, q, k)
        mixed, weights = self._attend((q, k, v), mask, hinted, need_weights)
        mixed = mixed.transpose(1, 2).flatten(2)
        if not batched:
            mixed = mixed.squeeze(0)
        elif not self.batch_first:
            mixed = mixed.transpose(0, 1)
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return self.out_proj(mixed), weights

    def _rows(self, value: Tensor, batched: bool) -> Tensor:
        """The value as (N, positions, channels)."""
        if not batched:
            return value[None]
        return value if self.batch_first else value.transpose(0, 1)

    def _heads(self, rows: Tensor) -> Tensor:
        """(N, positions, embed_dim) as (N, heads, positions, channels)."""
        return rows.view(*rows.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _mask(
        self, attention: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor
    ) -> Tensor | None:
        """What is added to the scores, (N or 1, heads or 1, L or 1, S); None for nothing."""
        found: Tensor | None = None
        if attention is not None:
            of_heads = attention.dim() == 3  # (N · heads, L, S)
            shaped = attention.view(*q.shape[:2], *attention.shape[1:]) if of_heads else attention
            found = _added(shaped, q, k)
        if padding is not None:
            other = _added(padding.reshape(len(k), 1, 1, -1), q, k)
            found = other if found is None else found + other
        return found

    def _attend(
        self, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, causal: bool, weighted: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The values as they are mixed, (N, heads, L, channels), and by which weights where these
        are wanted."""
        q, k, v = qkv
        dropout = self.dropout if self.training else 0.0
        if not weighted:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
            return mixed, None
        scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.mT
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        if dropout:
            weights = functional.dropout(weights, dropout)
        return weights @ v, weights


class Attention(Opening):
    """nn.MultiheadAttention ↔ OpenAttention."""

    def fits(self, module: nn.Module) -> bool:
        return type(module) is nn.MultiheadAttention and "in_proj_weight" in module._parameters

    def obstacle(self, module: nn.Module) -> str | None:
        known = {*_WEIGHTS, "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"}
        if others := module._parameters.keys() - known:
            return f"holds {', '.join(sorted(others))}, which its own class does not have"
        return super().obstacle(module)

    def open_(self, module: nn.Module) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        size, held = module.embed_dim, module._parameters
        packed, bias = held.pop("in_proj_weight"), held.pop("in_proj_bias")
        apart = [held.pop(name, None) for name in _WEIGHTS]
        rows = [slice(i * size, (i + 1) * size) for i in range(3)]
        output = module._modules.pop("out_proj")
        if packed is None:
            weights = [cast(nn.Parameter, weight) for weight in apart]
        else:
            weights = [part(packed, index) for index in rows]
        biases = [None if bias is None else part(bias, index) for index in rows]
        module.__class__ = OpenAttention
        for name, weight, one in zip(_PROJECTIONS, weights, biases, strict=True):
            module._modules[name] = linear(weight, one, training=module.training)
        module._modules["out_proj"] = _plain_linear(output)

    def is_open(self, module: nn.Module) -> bool:
        return type(module) is OpenAttention

    def close_(self, module: nn.Module) -> None:
        assert isinstance(module, OpenAttention)
        weights, held = _weights(module), module._parameters
        biases = [getattr(module, name).bias for name in _PROJECTIONS]
        for name in _PROJECTIONS:
            del module._modules[name]
        output = module._modules["out_proj"]
        others = [held.pop(name, None) for name in ("bias_k", "bias_v")]
        module.__class__ = nn.MultiheadAttention  # type: ignore[assignment]
        together = module._qkv_same_embed_dim
        for name, weight in zip(_WEIGHTS, weights, strict=True):
            held[name] = None if together else nn.Parameter(weight.detach(), weight.requires_grad)
        held["in_proj_weight"] = joined(weights) if together else None
        held["in_proj_bias"] = None if biases[0] is None else joined(biases)
        held["bias_k"], held["bias_v"] = others
        if type(output) is nn.Linear:
            output.__class__ = _OUTPUT


_OUTPUT = nn.modules.linear.NonDynamicallyQuantizableLinear  # the same function as a Linear


def _plain_linear(output: nn.Module | None) -> nn.Module | None:
    """A Linear with the very parameters, hooks and attributes of torch's own class for outputs; any
    other module as it is."""
    if type(output) is not _OUTPUT:
        return output
    plain = nn.Linear.__new__(nn.Linear)
    vars(plain).update(vars(output))
    vars(plain)["_parameters"] = dict(output._parameters)
    return plain


def _weights(module: OpenAttention) -> list[Tensor]:
    return [getattr(module, name).weight for name in _PROJECTIONS]


def _added(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """A mask (…, S) in numbers that are added to scores, where true is −∞; keys that the module
    itself adds are never masked."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, float("-inf"))
    return functional.pad(mask.to(q.dtype), (0, k.shape[-2] - mask.shape[-1]))
