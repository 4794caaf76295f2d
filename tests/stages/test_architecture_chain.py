"""The chain from prepare to evaluate on a vision transformer and a mixture of experts, from
folders of transformers."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from pipeline.lowrank.forms.files import load
from pipeline.lowrank.planning.files import load_plan
from tests.models.transformers_case import VOCABULARY, write_book, write_model, write_tokenizer
from tests.stages.test_task_chain import COMMON, drawn
from tests.stages.test_task_chain import run_chain as run_on_tensors
from tests.stages.test_transformer_chain import run_chain, workspace

__all__ = ["workspace"]  # fixtures


def test_a_vision_transformer(workspace: Path) -> None:
    dense = write_model(workspace / "net", "classification")
    images = drawn(260, 1, 16, 16)
    with torch.no_grad():
        labels = dense(images).logits.argmax(1)
    labels[:30] = (labels[:30] + 1) % 3
    save_file({"inputs": images, "labels": labels}, workspace / "data.safetensors")
    common = [line for line in COMMON if not line.startswith("baseline")]
    metrics = run_on_tensors(workspace, [
        *common, "task=classification", "model=huggingface", "model.name=net",
        "baseline=pretrained", "data.normalise=none", "fine_tune=none",
        "data.class_names=[a,b,c]",
    ])  # fmt: skip
    assert metrics["dense"]["accuracy"] > 0.8
    assert metrics["compressed"]["accuracy"] > 0.5
    assert metrics["compression_ratio"] > 1.5


def test_a_mixture_of_experts(workspace: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, num_local_experts=4, pad_token_id=0,
        max_position_embeddings=64, eos_token_id=1, initializer_range=0.1,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).save_pretrained(workspace / "net")
    write_tokenizer(workspace / "net")
    book = write_book(workspace / "b.txt", 16)
    metrics = run_chain(workspace, ["task=causal_lm", "model.name=net", f"data.path={book}"])
    assert metrics["dense"]["perplexity_ratio"] == 1
    assert 0.5 < metrics["compressed"]["perplexity_ratio"] < 2
    plan = load_plan(workspace / "out/plan.json")
    experts = {name for name in plan.layers if ".experts." in name}
    assert len(experts) == 4, "both parameters of both layers"
    factorized = experts & plan.factorized.keys()
    modules = dict(load(workspace / "out/compressed").named_modules())
    assert factorized and factorized <= modules.keys()
