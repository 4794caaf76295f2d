"""The mixtures of experts that stacks are tested on, as small as they can be: a new architecture is
a new row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_COMMON = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}


@dataclass(frozen=True)
class ExpertKind:
    """An architecture of transformers with experts in one parameter.

    implementations: the ways to run experts that it knows.
    in_first: whether its experts are stored inputs first.
    """

    name: str
    options: dict[str, Any] = field(hash=False)
    implementations: tuple[str, ...] = ("eager", "batched_mm", "grouped_mm")
    in_first: bool = False

    def make(self, implementation: str = "eager") -> nn.Module:
        import transformers

        options = {**_COMMON, **self.options}
        options = {key: value for key, value in options.items() if value is not None}
        text = f"{self.name}TextConfig"
        config = getattr(
            transformers, text if hasattr(transformers, text) else f"{self.name}Config"
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: nn.Module = getattr(transformers, f"{self.name}ForCausalLM")(config(**options))
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.15)
        if len(self.implementations) > 1:
            model.set_experts_implementation(implementation)
        # torch's grouped products know no float64
        return model.eval() if implementation == "grouped_mm" else model.double().eval()


_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

EXPERT_KINDS = [
    ExpertKind("Mixtral", _EXPERTS),
    ExpertKind(
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
    ),
    ExpertKind(
        "DeepseekV3",
        {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
            **_MLA,
        },
    ),
    ExpertKind("GptOss", {**_EXPERTS, "head_dim": 8}, in_first=True),
    ExpertKind(
        "Llama4",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "head_dim": 8,
            "intermediate_size_mlp": 48,
            "interleave_moe_layer_step": 1,
            "attention_chunk_size": 32,
        },
        ("eager",),
        in_first=True,
    ),
    ExpertKind("GraniteMoe", _EXPERTS),
    ExpertKind("JetMoe", {**_EXPERTS, "num_attention_heads": None, "kv_channels": 8}, ("eager",)),
]


class Experts(nn.Module):
    """Experts as a person writes them, each token through one of them."""

    def __init__(self, groups: int = 3, inputs: int = 6, outputs: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, inputs, outputs) / inputs**0.5)

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        result = x.new_zeros(len(x), self.weight.shape[-1])
        for index in range(len(self.weight)):
            rows = (chosen == index).nonzero().flatten()
            result = result.index_add(0, rows, x[rows] @ self.weight[index])
        return result


class Routed(nn.Module):
    """A classifier of vectors: the first number of each says which expert it goes to."""

    def __init__(self, groups: int = 3, inputs: int = 6, outputs: int = 5) -> None:
        super().__init__()
        self.experts = Experts(groups, inputs, outputs)
        self.head = nn.Linear(outputs, 4)

    def forward(self, x: Tensor) -> Tensor:
        groups = len(self.experts.weight)
        chosen = (x[:, 0] * groups).long().clamp(0, groups - 1)
        result: Tensor = self.head(torch.tanh(self.experts(x, chosen)))
        return result


class ByHand(nn.Module):
    """A classifier that reads the weights of two layers, and a matrix of its own, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 12, bias=False), nn.Linear(10, 4)
        self.offset = nn.Parameter(torch.randn(12))
        self.middle = nn.Parameter(torch.randn(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(functional.linear(x, self.qkv.weight, self.offset))
        x = torch.tanh(x @ self.middle)
        return functional.linear(x, self.out.weight, self.out.bias)


class GatedExperts(nn.Module):
    """Gated experts as a person writes them, with biases, gate and value one after the other, and
    the number of their channels; all of them read each token, and what they make is weighted.

    between: what is done to the hidden channels; given their expert's number too.
    """

    def __init__(
        self, between: Callable[[Tensor, int], Tensor], groups: int, channels: int
    ) -> None:
        super().__init__()
        self.between, self.channels = between, channels
        self.up = nn.Parameter(torch.randn(groups, 8, 2 * channels) / 3)
        self.up_bias = nn.Parameter(torch.randn(groups, 2 * channels))
        self.down = nn.Parameter(torch.randn(groups, channels, 8) / 3)

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        for index in range(len(self.up)):
            made = torch.einsum("ti,io->to", x, self.up[index]) + self.up_bias[index]
            gate, value = made.chunk(2, -1)
            hidden = self.between(functional.silu(gate) * value, index).view(-1, self.channels)
            out = torch.einsum("to,oi->ti", hidden, self.down[index])
            found = found + shares[:, index, None] * out
        return found


class Mixture(nn.Module):
    """A classifier of vectors with such experts beside a residual stream."""

    def __init__(
        self,
        between: Callable[[Tensor, int], Tensor] = lambda hidden, _: hidden,
        groups: int = 3,
        channels: int = 12,
    ) -> None:
        super().__init__()
        self.first, self.router = nn.Linear(5, 8), nn.Linear(8, groups)
        self.experts, self.head = GatedExperts(between, groups, channels), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = torch.tanh(self.first(x))
        shares = self.router(states).softmax(-1)
        found: Tensor = self.head(states + self.experts(states, shares))
        return found


class AllAtOnce(nn.Module):
    """Experts that all read every vector, in one product for all of them; outputs first."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 3)
        self.up, self.down = (
            nn.Parameter(torch.randn(3, 6, 16)),
            nn.Parameter(torch.randn(3, 4, 16)),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("ti,eio->eto", x, self.up).tanh()
        made = torch.einsum("eto,eio->eti", hidden, self.down)
        found: Tensor = torch.einsum("eti,te->ti", made, self.router(x).softmax(-1))
        return found
