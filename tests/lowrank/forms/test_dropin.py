"""A factorized layer in the place of a dense one: what reads, trains, traces, wraps or compresses
the dense layer does the same with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.lowrank import (
    SVD,
    Budget,
    Factorized,
    Fixed,
    LowRankError,
    PivotedTucker2,
    compress_,
    load_,
    names_inside,
    save,
    to_dense_,
)
from pipeline.lowrank.adapters.attach import freeze_
from pipeline.lowrank.forms.surgery import plain_attributes
from pipeline.lowrank.methods import Method
from tests.lowrank.layer_kinds import LAYER_KINDS, LayerKind, build, configured, make_case

FORMS = configured()
X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
PIVOTED, PLAIN = PivotedTucker2(), SVD()


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()


def compressed(method: Method = PIVOTED) -> nn.Sequential:
    net = mlp()
    compress_(net, Fixed(8), X[:1], methods=[method])
    assert isinstance(net[0], Factorized) and isinstance(net[2], Factorized)
    return net


# -- what is read --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYER_KINDS, ids=lambda kind: kind.name)
def test_the_weight_and_all_plain_attributes_are_those_of_the_dense_layer(kind: LayerKind) -> None:
    case = make_case(kind)
    method = FORMS["svd"]
    layer = build(case, method, (2,))
    dense = layer.to_dense(case.module)
    assert layer.weight.shape == case.module.weight.shape
    assert layer.weight.dtype == case.module.weight.dtype
    assert layer.weight.stride() == case.module.weight.stride()
    assert torch.allclose(layer.weight, dense.weight, atol=1e-6)
    if getattr(case.module, "bias", None) is None:
        assert layer.bias is None
    else:
        assert torch.equal(layer.bias, case.module.bias)
    known = plain_attributes(case.module)
    assert known and {key: getattr(layer, key) for key in known} == known
    again = layer.as_dense()
    assert type(again) is type(case.module) and plain_attributes(again) == known
    assert again.state_dict().keys() == case.module.state_dict().keys()
    assert torch.allclose(again(case.example), dense(case.example), atol=1e-5)


@pytest.mark.parametrize("method", [PLAIN, PIVOTED], ids=["svd", "pivoted"])
def test_the_weight_is_no_parameter_and_its_gradients_reach_the_factors(method: Method) -> None:
    net = compressed(method)
    layer = net[0]
    assert not [n for n, _ in net.named_parameters() if n == "0.weight"]
    assert not [n for n in net.state_dict() if n == "0.weight"]
    run, read = copy.deepcopy(layer), copy.deepcopy(layer)
    run(X).square().sum().backward()
    functional.linear(X, read.weight, read.bias).square().sum().backward()
    for one, other in zip(run.parameters(), read.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_the_weight_keeps_dtype_under_autocast_and_the_layout_of_kernels() -> None:
    net = compressed().bfloat16()
    assert net[0].weight.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert compressed()[0].weight.dtype == torch.float32
    conv = nn.Sequential(nn.Conv2d(16, 16, 3)).to(memory_format=torch.channels_last)
    stride = conv[0].weight.stride()
    compress_(conv, Fixed((4, 4)), torch.randn(1, 16, 8, 8))
    assert isinstance(conv[0], Factorized) and conv[0].weight.stride() == stride


def test_without_gradients_only_who_asks_for_numbers_pays_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = compressed()
    layer, products = net[0], []
    form = type(layer.form)
    reconstruct = form.reconstruct
    monkeypatch.setattr(
        form, "reconstruct", lambda self, f: products.append(1) or reconstruct(self, f)
    )
    wanted = layer.to_dense(mlp()[0]).weight
    products.clear()
    with torch.no_grad():
        weight = layer.weight
        assert isinstance(weight, Tensor) and not weight.requires_grad and not products
        assert (weight.dtype, weight.shape, weight.size(0)) == (torch.float32, (64, 64), 64)
        assert weight.device == X.device and weight.is_floating_point() and not products
        answers = [functional.linear(X, weight, layer.bias), X @ weight.T + layer.bias, layer(X)]
        assert all(torch.allclose(a, answers[0], atol=1e-5) for a in answers)
        assert not products, "products with it run the layer"
        assert torch.allclose(weight, wanted, atol=1e-6) and type(weight + 0) is Tensor
        assert len(products) == 1, "once for each time the weight is read"
        assert weight.data_ptr() == weight.data_ptr() and weight.tolist() == weight.clone().tolist()
        assert torch.equal(copy.deepcopy(weight), weight) and str(weight).startswith("tensor(")
    with torch.inference_mode():
        assert torch.allclose(functional.linear(X, layer.weight, layer.bias), layer(X), atol=1e-5)


def test_a_loaded_network_answers_too(tmp_path: Any) -> None:
    net = compressed()
    save(net, tmp_path)
    loaded = load_(mlp(), tmp_path)
    assert torch.equal(loaded[0].weight, net[0].weight) and loaded[0].in_features == 64


def test_freezing_takes_the_factors_alone() -> None:
    net = compressed()
    assert all(isinstance(weight, nn.Parameter) for weight in freeze_(net, ()))
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        n for n, _ in net.named_parameters() if n.endswith("weight")
    }


class ReadsWeights(nn.Module):
    """Casts to a layer's dtype, as T5 does, and calls F.linear with its weight, as BEiT does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        self.qkv(x)
        h = functional.linear(x, self.qkv.weight, self.qkv.bias)
        h = h.to(self.out.weight.dtype).reshape(*x.shape[:-1], self.out.in_features)
        result: Tensor = self.out(h)
        return result


def _t5() -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=300, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4
    )
    ids = torch.ones(1, 5).long()
    net = transformers.T5ForConditionalGeneration(config)
    return net, {"input_ids": ids, "decoder_input_ids": ids}


def _vit() -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    return transformers.ViTForImageClassification(config), {
        "pixel_values": torch.randn(1, 3, 32, 32)
    }


@pytest.mark.parametrize(
    "make", [_t5, _vit, lambda: (ReadsWeights(), {"x": X})], ids=["T5", "ViT", "reads weights"]
)
def test_networks_that_read_their_layers_run_forward_and_backward(
    make: Callable[[], tuple[nn.Module, dict[str, Tensor]]],
) -> None:
    net, example = make()
    compress_(net, Budget(params=0.7, scope="targets"), example)
    names = [n for n, m in net.named_modules() if isinstance(m, Factorized)]
    assert names
    for training in (False, True):
        output = net.train(training)(**example)
        value = output if isinstance(output, Tensor) else output.logits
        net.zero_grad()
        value.square().sum().backward()
        for name in names:
            gradients = [p.grad for p in net.get_submodule(name).parameters()]
            assert all(g is not None and torch.isfinite(g).all() for g in gradients), name


# -- what traces, compiles, wraps ----------------------------------------------------------

INPUTS = [torch.randn(64), torch.randn(0, 64), torch.randn(5, 64), torch.randn(2, 3, 64)]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_fx_traces_pivoted_layers(training: bool) -> None:
    net = compressed().train(training)
    traced = torch.fx.symbolic_trace(net)
    for x in INPUTS:
        assert traced(x).shape == net(x).shape
        assert torch.allclose(traced(x), net(x), atol=1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_dynamo_needs_one_graph_and_gives_the_same_gradients(training: bool) -> None:
    net = compressed().train(training)
    traced = torch.compile(copy.deepcopy(net), backend="aot_eager", fullgraph=True)
    for run in (net, traced):
        run(X).square().sum().backward()
    for one, other in zip(net.parameters(), traced.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_torchscript_takes_a_network_by_script_or_by_trace() -> None:
    for net, made in (
        (compressed(PLAIN), torch.jit.script),
        (compressed(PIVOTED), lambda net: torch.jit.trace(net, X)),
    ):
        assert torch.allclose(made(net)(X), net(X), atol=1e-6)


def test_export_with_a_batch_of_any_size() -> None:
    net = compressed()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(net, (X,), dynamic_shapes=({0: batch},)).module()
    assert torch.allclose(exported(X[:3]), net(X[:3]), atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_the_same_with_checkpointing(reentrant: bool) -> None:
    plainly = compressed().train()
    saving = copy.deepcopy(plainly)
    x = X.clone().requires_grad_()
    plainly(x).square().sum().backward()
    checkpoint(saving, x, use_reentrant=reentrant).square().sum().backward()
    for one, other in zip(plainly.parameters(), saving.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


class Doubled(nn.Module):
    """As an adapter does: keeps the layer's weight in sight, and computes something else."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base(x)


def test_what_wraps_a_layer_inside_is_run_in_training_too() -> None:
    net = compressed()
    before = net(X)
    pivots = net[2][-1]
    pivots.rest = Doubled(pivots.rest)
    after = net(X)
    assert not torch.allclose(after, before, atol=1e-3)
    assert torch.allclose(net.train()(X), after, atol=1e-6)


def _llama() -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=300,
    )
    return transformers.LlamaForCausalLM(config).eval(), {"input_ids": torch.arange(8)[None]}


@pytest.mark.parametrize("by", ["all-linear", "names"])
def test_peft_adapters_work_in_eval_and_train_and_are_merged(by: str) -> None:
    peft = pytest.importorskip("peft")
    net, x = _llama()
    scope = Budget(params=0.7, scope="targets")
    compress_(net, scope, x, include=["model.layers.*"])
    before = net(**x).logits
    names = names_inside(net, ["q_proj", "mlp.down_proj"])
    assert "model.layers.0.self_attn.q_proj.1.rest" in names
    targets = by if by == "all-linear" else names
    config = peft.LoraConfig(target_modules=targets, r=4, init_lora_weights=False)
    tuned = peft.get_peft_model(net, config)
    adapted = tuned.eval()(**x).logits
    assert not torch.allclose(adapted, before, atol=1e-2)
    trained = tuned.train()(**x).logits
    assert torch.allclose(trained, adapted, atol=1e-5)
    trained.square().sum().backward()
    adapters = [p for n, p in tuned.named_parameters() if "lora_" in n]
    assert adapters and all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters)
    merged = tuned.merge_and_unload()
    for training in (False, True):
        assert torch.allclose(merged.train(training)(**x).logits, adapted, atol=1e-5)


def test_peft_refuses_the_name_of_a_factorized_layer_and_takes_the_names_inside() -> None:
    peft = pytest.importorskip("peft")
    net = nn.Sequential(compressed(), nn.Linear(64, 8))
    before = net(X)
    with pytest.raises(ValueError, match=r"(?s)Factorized.*is not supported"):
        peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(target_modules=["0.0"]))
    names = names_inside(net, ["0.0"])
    tuned = peft.get_peft_model(net, peft.LoraConfig(target_modules=names))
    assert torch.allclose(tuned.eval()(X), before, atol=1e-6)


def test_names_inside_keeps_dense_layers_and_refuses_unknown_ones() -> None:
    net = nn.ModuleDict({"a": compressed(), "b": nn.Linear(2, 2)})
    assert names_inside(net, ["b", "a.0"]) == ["b", "a.0.0", "a.0.1.rest"]
    with pytest.raises(LowRankError, match="no layer has the name 'c'"):
        names_inside(net, ["c"])


def test_torchao_quantizes_what_is_inside() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    net = compressed()
    before = net(X)
    quantization.quantize_(net, quantization.Int8WeightOnlyConfig())
    for training in (False, True):
        assert torch.allclose(net.train(training)(X), before, atol=0.05)
    assert net[0].weight.shape == (64, 64) and net[0].weight.dtype == torch.float32


# -- made dense again ----------------------------------------------------------------------


@pytest.mark.parametrize("method", [PLAIN, PIVOTED], ids=["svd", "pivoted"])
def test_made_dense_it_is_the_same_function_and_is_compressed_anew(method: Method) -> None:
    net = compressed(method)
    net[0].requires_grad_(False)
    before = net(X)
    to_dense_(net)
    assert type(net[0]) is nn.Linear and not net[0].weight.requires_grad
    assert net[2].weight.requires_grad and torch.allclose(net(X), before, atol=1e-5)
    done = compress_(net, Fixed(4), X[:1])
    assert list(done.layers) == ["0", "2"] and torch.isfinite(net.train()(X)).all()


def test_a_root_that_is_factorized_is_made_dense_by_the_return_value() -> None:
    dense = nn.Linear(64, 64)
    net = compress_(dense, Fixed(8), X[:1]).network
    again = to_dense_(net)
    assert type(again) is nn.Linear and torch.allclose(again(X), net(X), atol=1e-5)
