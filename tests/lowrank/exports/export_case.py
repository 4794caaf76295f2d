"""Networks that are exported, compressed, with an example each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.models.resnet import ResNet
from tests.lowrank.exports.own_network import Attention, Experts, OwnNet, Recurrent, UNet
from tests.lowrank.network.expert_kinds import EXPERT_KINDS

OWN = {"_target_": "tests.lowrank.exports.own_network.OwnNet", "width": 24, "classes": 5}
_SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def own_case() -> tuple[nn.Module, torch.Tensor]:
    """A CNN whose layers have pivots on both sides, and a batch of three."""
    torch.manual_seed(0)
    net = OwnNet(24, 5).eval()
    example = torch.randn(3, 3, 8, 8)
    lr.compress_(
        net,
        lr.Fixed({"stem": (12, 3), "twice": (14, 15), "head": 2}),
        example[:1],
        methods=[lr.PivotedTucker2(), lr.PivotedSVD()],
    )
    return net, example


def other_case(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """Networks of torch alone whose layers, or parts of them, are factorized."""
    torch.manual_seed(0)
    networks: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "digits": (lambda: ResNet(widths=[12], blocks=[1], hidden=16), (2, 1, 8, 8)),
        "unet": (UNet, (2, 1, 8, 8)),
        "lstm": (Recurrent, (2, 5, 16)),
        "attention": (Attention, (2, 5, 24)),
        "experts": (Experts, (6, 16)),
    }
    make, shape = networks[kind]
    net, example = make().eval(), torch.randn(shape)
    lr.compress_(net, lr.Energy(0.6), example[:1])
    assert any(isinstance(module, lr.Factorized) for module in net.modules())
    return net, example


def narrowed_case() -> Any:
    """A Llama whose MLPs are narrower than its configuration says."""
    import transformers as t

    torch.manual_seed(0)
    model = t.LlamaForCausalLM(t.LlamaConfig(**_SIZES)).eval()
    ids = torch.randint(2, 300, (8, 10))
    batches = [{"input_ids": one[None]} for one in ids]
    plan = lr.plan(
        model,
        lr.Budget(params=0.8, scope="targets"),
        calibration=batches,
        methods=[lr.Interpolative()],
        task="causal_lm",
        contest_examples=0,
    )
    assert plan.widths
    lr.apply_(model, plan)
    return model


def narrower_experts_case(kind: str, *widths: int) -> Any:
    """A mixture of random weights, the experts of whose layers have these widths of 48, in the
    order of the layers."""
    (chosen,) = (one for one in EXPERT_KINDS if one.name == kind)
    model: Any = chosen.make().float()
    example = {"input_ids": torch.randint(2, 60, (1, 10))}
    plan = lr.plan(model, lr.Budget(params=1.0), example, methods=[lr.Interpolative()])
    assert plan.narrowing is not None
    found = [one for one in plan.narrowing.found.values() if one.groups > 1]
    layers = {
        member.layer: lr.PlannedLayer("interpolative", (width,))
        for one, width in zip(found, widths, strict=True)
        for member in one.layers
    }
    lr.apply_(model, plan.with_layers(**layers))
    return model


def fewer_heads_case(kind: str) -> Any:
    """A language model of random weights with half of its heads, and of the width of its MLPs."""
    import transformers as t

    torch.manual_seed(0)
    if kind == "llama":
        model: Any = t.LlamaForCausalLM(t.LlamaConfig(**_SIZES, num_key_value_heads=2))
    else:
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        model = t.GPT2LMHeadModel(t.GPT2Config(vocab_size=300, initializer_range=0.3, **sizes))
    example = {"input_ids": torch.randint(2, 300, (1, 10))}
    plan = lr.plan(model.eval(), lr.Budget(params=1.0), example, methods=[lr.Interpolative()])
    assert plan.narrowing is not None
    half = {
        member.layer: lr.PlannedLayer("interpolative", (one.width // 2,))
        for one in plan.narrowing.found.values()
        for member in one.layers
    }
    lr.apply_(model, plan.with_layers(**half))
    return model


def transformer_case(kind: str) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """A transformer of random weights, factorized, and its example (None: one is made)."""
    import transformers as t

    torch.manual_seed(0)
    ids = torch.randint(2, 300, (2, 10))
    tokens: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    example = None
    if kind in ("llama", "qwen2"):
        name = {"llama": "Llama", "qwen2": "Qwen2"}[kind]
        config = getattr(t, f"{name}Config")(
            **_SIZES, num_key_value_heads=2, tie_word_embeddings=kind == "llama", eos_token_id=1
        )
        model = getattr(t, f"{name}ForCausalLM")(config)
    elif kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        model = t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=300, bos_token_id=0, eos_token_id=1, **sizes)
        )
    elif kind == "bert":
        model = t.BertForSequenceClassification(t.BertConfig(**_SIZES, num_labels=3))
    elif kind == "bert base":
        model = t.BertModel(t.BertConfig(**_SIZES))
    elif kind == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        model = t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=300, decoder_start_token_id=0, **sizes)
        )
        tokens = example = {**tokens, "decoder_input_ids": ids}
    else:
        assert kind == "vit"
        sizes = {k: _SIZES[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size")}
        model = t.ViTForImageClassification(
            t.ViTConfig(**sizes, num_attention_heads=4, image_size=16, patch_size=4)
        )
        tokens = example = {"pixel_values": torch.randn(2, 3, 16, 16)}
    model = model.eval()
    lr.compress_(model, lr.Energy(0.7), {key: value[:1] for key, value in tokens.items()})
    return model, example
