"""Extracted adapters: optimal, of the planted rank, and read by peft itself."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config.compose import compose_params
from pipeline.lowrank import Budget, Compute, Energy, Error, LowRankError
from pipeline.lowrank.adapters.extract import AdaptedLayer, extract_adapter, save_adapter
from pipeline.lowrank.planning.policies import POLICIES, Policy, make_policy
from tests.imports import ROOT


def pair(shape: tuple[int, ...] = (24, 16), rank: int | None = None) -> tuple[nn.Module, nn.Module]:
    """(base, tuned): one layer inside a module, whose change has this rank, or full rank."""
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(*shape[1::-1], shape[2])
    base = nn.Sequential(layer).double()
    tuned = copy.deepcopy(base)
    matrix = tuned[0].weight.detach().flatten(1)
    if rank is None:
        change = torch.randn_like(matrix)
    else:
        change = torch.randn_like(matrix[:, :rank]) @ torch.randn_like(matrix[:rank])
    tuned[0].weight.data += change.view(shape)
    return base, tuned


def product(layer: AdaptedLayer) -> Tensor:
    return layer.left @ layer.right.flatten(1)


def change_of(base: nn.Module, tuned: nn.Module, name: str = "0") -> Tensor:
    before, after = (m.get_submodule(name).weight.detach() for m in (base, tuned))
    return (after - before).double().flatten(1)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (20, 6, 3, 3)])
def test_the_error_is_eckart_youngs_in_both_norms(shape: tuple[int, ...]) -> None:
    base, tuned = pair(shape)
    layer = extract_adapter(base, tuned, Compute(3.0)).layers["0"]
    delta = change_of(base, tuned)
    values, rank = torch.linalg.svdvals(delta), layer.rank
    assert 1 <= rank < len(values) - 1
    error = delta - product(layer)
    tail = values[rank:].square().sum().sqrt()
    assert torch.linalg.matrix_norm(error, 2).item() == pytest.approx(values[rank].item(), rel=1e-9)
    assert error.norm().item() == pytest.approx(tail.item(), rel=1e-9)
    assert layer.relative_error == pytest.approx((tail / delta.norm()).item(), rel=1e-9)
    # σ_{r+1}, which the course module (docs/theorems.md) writes for the Frobenius norm, is too
    # small for it.
    assert error.norm() > 1.2 * values[rank]
    assert torch.allclose(layer.left.T @ layer.left, values[:rank].diag(), atol=1e-9)
    assert torch.allclose(layer.left.norm(), layer.right.norm())
    assert layer.change == pytest.approx((delta.norm() / base[0].weight.norm()).item())


@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("policy", [Energy(1.0), Error(0.0)], ids=lambda p: p.name)
def test_a_planted_rank_is_found(policy: Policy, rank: int) -> None:
    base, tuned = pair(rank=rank)
    layer = extract_adapter(base, tuned, policy).layers["0"]
    assert layer.rank == rank
    assert torch.allclose(product(layer), change_of(base, tuned), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_chooses_ranks(name: str) -> None:
    options = compose_params(ROOT / "conf", [f"rank_select={name}"])["rank_select"]
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(40, 32), nn.Linear(32, 48), nn.Linear(48, 10))
    tuned = copy.deepcopy(base)
    for index, layer in enumerate(tuned):
        rows, columns = layer.weight.shape
        noise, planted = torch.randn(rows, columns), torch.randn(rows, 2) @ torch.randn(2, columns)
        layer.weight.data += planted + 0.05 * (1 + index) * noise
    layers = extract_adapter(base, tuned, make_policy(options["policy"], options)).layers
    assert list(layers) == ["0", "1", "2"]
    for key, layer in layers.items():
        delta = change_of(base, tuned, key)
        assert 1 <= layer.rank <= min(delta.shape)
        found = (delta - product(layer)).norm() / delta.norm()
        assert layer.relative_error == pytest.approx(found.item(), rel=1e-5, abs=1e-7)
        assert layer.why


def test_a_budget_is_kept_and_spent_where_it_pays() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    tuned = copy.deepcopy(base)
    tuned[0].weight.data += torch.randn(32, 2) @ torch.randn(2, 32)
    tuned[1].weight.data += torch.randn(32, 32)
    layers = extract_adapter(base, tuned, Budget(params=0.5)).layers
    assert sum(x.params for x in layers.values()) <= 0.5 * 2 * 32 * 32
    assert layers["0"].relative_error < 1e-6
    assert layers["1"].rank > layers["0"].rank >= 2


def test_what_is_left_out_has_its_reason() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(
        nn.Embedding(7, 12), nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 9), nn.Linear(9, 9)
    )
    tuned = copy.deepcopy(base)
    for parameter in tuned[:4].parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    found = extract_adapter(base, tuned, Energy(1.0), exclude=["3"])
    assert list(found.layers) == ["1"]  # 4 is unchanged
    other = "no weight of a Linear or an ungrouped convolution"
    keys = ("0.weight", "1.bias", "2.weight", "2.bias", "3.bias")
    assert found.left_out == {**dict.fromkeys(keys, other), "3.weight": "excluded"}
    chosen = extract_adapter(base, tuned, Energy(1.0), include=["3"])
    assert chosen.left_out["1.weight"] == "not included"
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    moved = copy.deepcopy(grouped)
    moved[0].weight.data += 1.0
    with pytest.raises(LowRankError, match=r"no changed layer .*0.weight: no weight of a Linear"):
        extract_adapter(grouped, moved, Energy(1.0))


def test_misfits_are_named() -> None:
    base, tuned = pair()
    with pytest.raises(LowRankError, match="the same weights: there is nothing to extract"):
        extract_adapter(base, base, Energy())
    with pytest.raises(LowRankError, match=r"not of one architecture: only one .* 1\.bias"):
        extract_adapter(base, nn.Sequential(nn.Linear(16, 24), nn.Linear(2, 2)), Energy())
    with pytest.raises(
        LowRankError, match=r"0\.weight has shape \(24, 16\) in base and \(24, 17\)"
    ):
        extract_adapter(base, nn.Sequential(nn.Linear(17, 24)), Energy())
    tuned[0].weight.data[0, 0] = float("nan")
    with pytest.raises(LowRankError, match=r"0\.weight of tuned holds NaN"):
        extract_adapter(base, tuned, Energy())
    first, second = pair()
    whole = extract_adapter(first[0], second[0], Energy())
    with pytest.raises(LowRankError, match="one single layer"):
        save_adapter(Path("unused"), whole)


def test_state_dicts_do_as_well_as_modules() -> None:
    base, tuned = pair((20, 6, 3, 3))
    one = extract_adapter(base, tuned, Energy(0.9)).layers["0"]
    other = extract_adapter(base.state_dict(), tuned.state_dict(), Energy(0.9)).layers["0"]
    assert torch.equal(one.left, other.left) and torch.equal(one.right, other.right)
    assert one.right.shape == (one.rank, 6, 3, 3)


def transformer(kind: str) -> nn.Module:
    """A small network of transformers with random weights, from its configuration."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 4}
    if kind == "llama":
        config = transformers.LlamaConfig(
            **ids, **sizes, num_hidden_layers=2, num_key_value_heads=2
        )
        return transformers.LlamaForCausalLM(config).eval()
    if kind == "gpt2":
        config = transformers.GPT2Config(**ids, n_embd=24, n_layer=2, n_head=4, n_positions=16)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.BertConfig(
        **ids, **sizes, num_hidden_layers=2, max_position_embeddings=16
    )
    return transformers.BertModel(config).eval()


class Plain(nn.Module):
    """No network of transformers: a kernel, and names that are tails of each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = nn.ModuleDict({"fc": nn.Linear(8, 12)})  # stays as it is
        self.fc = nn.Linear(12, 10)
        self.blockxfc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu().mean((2, 3))
        return self.blockxfc(self.fc(self.block["fc"](y).relu()))


def changed(base: nn.Module, seed: int = 1) -> nn.Module:
    """A copy whose matrices and kernels moved, embeddings and tied heads not."""
    generator = torch.Generator().manual_seed(seed)
    tuned = copy.deepcopy(base)
    for name, module in tuned.named_modules():
        kind = type(module).__name__
        if kind in ("Linear", "Conv1D", "Conv2d") and not name.endswith(("block.fc", "lm_head")):
            step = torch.randn(module.weight.shape, generator=generator)
            module.weight.data += 0.2 * module.weight.std() * step
    return tuned


def run(model: nn.Module, kind: str) -> Tensor:
    torch.manual_seed(2)
    with torch.no_grad():
        if kind == "plain":
            return model(torch.randn(2, 3, 8, 8))
        return model(input_ids=torch.randint(3, 40, (2, 9)))[0]


@pytest.mark.parametrize("kind", ["plain", "llama", "gpt2", "bert"])
def test_peft_loads_the_adapter_and_gives_the_same_network(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = Plain().eval() if kind == "plain" else transformer(kind)
    tuned = changed(base)
    want = run(tuned, kind)
    assert (run(base, kind) - want).abs().max() > 1e-2
    save_adapter(tmp_path / "full", extract_adapter(base, tuned, Energy(1.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns of keys that it misses
        full = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "full")).eval()
    assert torch.allclose(run(full, kind), want, rtol=0, atol=1e-5)
    merged = full.merge_and_unload()
    assert torch.allclose(run(merged, kind), want, rtol=0, atol=1e-5)
    assert list(merged.state_dict()) == list(base.state_dict())
    # Truncated: exactly W + BA, layer by layer, at ranks of each layer's own.
    extraction = extract_adapter(base, tuned, Energy(0.8))
    save_adapter(tmp_path / "cut", extraction)
    assert len({layer.rank for layer in extraction.layers.values()}) > 1
    cut = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "cut"))
    merged = cut.merge_and_unload()
    for name, module in base.named_modules():
        if isinstance(weight := getattr(module, "weight", None), Tensor):
            expected = weight.detach().clone()
            if layer := extraction.layers.get(name):
                delta = product(layer).view(-1, *layer.right.shape[1:]).float()
                expected += delta.T if layer.transposed else delta
            got = merged.get_submodule(name).weight
            assert torch.allclose(got, expected, rtol=0, atol=1e-6), name


def test_the_folder_is_of_peft_and_says_where_it_belongs(tmp_path: Path) -> None:
    base, tuned = pair((20, 6, 3, 3), rank=2)
    save_adapter(tmp_path, extract_adapter(base, tuned, Energy(1.0)), "base/path", "CAUSAL_LM")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"]) == ("base/path", "CAUSAL_LM")
    assert config["rank_pattern"] == config["alpha_pattern"] == {"^0": 2}
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert shapes == {
        "base_model.model.0.lora_A.weight": (2, 6, 3, 3),
        "base_model.model.0.lora_B.weight": (20, 2, 1, 1),
    }
