"""The contract of openings: an open module computes what the packed one does, and comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from pipeline import lowrank as lr
from pipeline.lowrank.forms.surgery import layer_at
from pipeline.lowrank.methods import Method
from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.lowrank.network.opening import closed_reasons, module_at, opened
from pipeline.lowrank.network.targets import dense_weight
from tests.lowrank.network.packed_kinds import PACKED_KINDS, PackedKind

EACH = pytest.mark.parametrize("kind", PACKED_KINDS, ids=lambda kind: kind.name)


class One(nn.Module):
    """The network as one of one batch, and the first tensor of its outputs as what it predicts."""

    def __init__(self, kind: PackedKind) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = kind.make().double()
            for parameter in self.net.parameters():
                nn.init.normal_(parameter, std=0.5)
            self.head = nn.Linear(12, 3).double()
            self.given, self.named = kind.inputs()

    def forward(self, scale: Tensor) -> Tensor:
        given = (self.given[0] * scale.flatten()[0], *self.given[1:])
        first: Tensor = self.head(tensors(self.net(*given, **self.named))[0])
        return first.reshape(-1, 3)


def tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [tensor for one in output for tensor in tensors(one)]
    return []


def outputs(one: One) -> list[Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return tensors(one.net(*one.given, **one.named))


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        for a, b in zip(found, expected, strict=True)
    )


BATCHES = [torch.tensor([scale], dtype=torch.float64) for scale in (1.0, 0.7, -0.4, 0.2)]


def low(one: One, metric: str, method: Method | None = None) -> lr.Plan:
    task = lr.tasks.get_task("classification")
    return lr.plan(
        one,
        lr.Fixed(2),
        BATCHES[0],
        calibration=[] if metric == "weight" else BATCHES,
        held_out=[],
        metric=metric,  # type: ignore[arg-type]
        task=task,
        methods=[method or lr.SVD()],
        exclude=["head"],
    )


@EACH
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_open_it_computes_the_same_and_comes_back_the_same(
    kind: PackedKind, training: bool
) -> None:
    one = One(kind).train(training)
    modules, state = dict(one.named_modules()), one.state_dict(keep_vars=True)
    classes = {name: type(module) for name, module in modules.items()}
    before = outputs(one)
    with opened(one):
        for name in kind.layers:
            assert type(one.net.get_submodule(name)) is nn.Linear
            assert one.net.get_submodule(name).training == training
        assert same(outputs(one), before)
    with pytest.raises(ZeroDivisionError), opened(one):
        raise ZeroDivisionError
    after = one.state_dict(keep_vars=True)
    assert dict(one.named_modules()) == modules
    assert {name: type(module) for name, module in modules.items()} == classes
    assert list(after) == list(state)
    assert all(after[key] is state[key] for key in state)
    assert same(outputs(one), before)


@EACH
def test_a_layer_inside_shares_its_memory_with_the_packed_one(kind: PackedKind) -> None:
    one = One(kind)
    state = {key: value.clone() for key, value in one.state_dict().items()}
    for name in kind.layers:
        dense_weight(module_at(one, f"net.{name}")).mul_(2)
    changed = one.state_dict()
    assert list(changed) == list(state)
    matrices = sum(value.numel() for key, value in state.items() if value.dim() == 2)
    doubled = sum(int((changed[key] == 2 * state[key]).sum()) for key in state)
    assert doubled >= sum(dense_weight(layer_at(one, f"net.{n}")).numel() for n in kind.layers)
    assert doubled <= matrices


@EACH
def test_what_hooks_see_makes_up_the_gradient_of_the_weight(kind: PackedKind) -> None:
    one = One(kind).eval()
    with opened(one):
        layers = {name: one.net.get_submodule(name) for name in kind.layers}
        outputs(one)[0].square().sum().backward()
        expected = {name: layer.weight.grad.clone() for name, layer in layers.items()}
        seen = dict.fromkeys(kind.layers, torch.zeros((), dtype=torch.float64))

        def watch(name: str) -> Any:
            def add(grad: Tensor, rows: Tensor) -> None:
                seen[name] = seen[name] + grad.reshape(len(rows), -1).mT @ rows

            def hook(_: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
                rows = given[0].reshape(-1, given[0].shape[-1])
                output.register_hook(lambda grad: add(grad, rows))

            return hook

        for name, layer in layers.items():
            layer.register_forward_hook(watch(name))
        watched = outputs(one)
        watched[0].square().sum().backward()
    assert same(watched, outputs(one)), "also where the layers are called one step after the other"
    for name in kind.layers:
        torch.testing.assert_close(seen[name], expected[name], rtol=1e-9, atol=1e-9)


@EACH
@pytest.mark.parametrize("metric", ["input", "fisher"])  # the other tests take the weight's
def test_planned_and_applied_it_runs_forward_and_backward(kind: PackedKind, metric: str) -> None:
    one = One(kind).eval()
    keys, dense = list(one.state_dict()), outputs(one)
    chosen = low(one, metric)
    assert list(one.state_dict()) == keys, "plan changes nothing"
    assert {f"net.{name}" for name in kind.layers} == set(chosen.layers)
    assert not [n for n in chosen.skipped if n.startswith("net")]
    done = lr.apply_(one, chosen)
    assert done.ran
    assert done.network is one
    assert count_params(one) == done.totals.params
    assert network_totals(one, BATCHES[0]).macs == done.totals.macs
    low_rank = outputs(one)
    assert not same(low_rank, dense)
    one.train()(BATCHES[0]).sum().backward()
    held = list(one.net.parameters())
    assert all(p.grad is not None for p in held if p.requires_grad)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in held), "memory of their own"


@EACH
@pytest.mark.parametrize("method", [lr.SVD(), lr.PivotedSVD()], ids=lambda method: method.name)
def test_at_the_weights_own_rank_it_is_the_dense_network_and_made_dense_it_is_packed_again(
    kind: PackedKind, method: Method
) -> None:
    one = One(kind).eval()
    for name in kind.layers:
        weight = dense_weight(module_at(one, f"net.{name}"))
        weight.copy_(weight[:, :2] @ weight[:2])
    before, keys = outputs(one), list(one.state_dict())
    lr.apply_(one, low(one, "weight", method))
    assert any(isinstance(module, lr.Factorized) for module in one.modules())
    found = outputs(one)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, before, strict=True))
    assert same(outputs(copy.deepcopy(one)), found)
    lr.to_dense_(one)
    assert sorted(one.state_dict()) == sorted(keys)
    assert {type(m) for m in one.modules()} == {type(m) for m in One(kind).modules()}
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(outputs(one), before, strict=True))


@EACH
def test_saved_and_loaded_it_is_the_same_to_the_bit(kind: PackedKind, tmp_path: Path) -> None:
    one = One(kind).eval()
    chosen = low(one, "weight")
    name = kind.layers[0]
    some = lr.plan_from(
        one,
        chosen.analysis,  # type: ignore[arg-type]
        lr.Fixed(2),
        methods=[lr.SVD()],
        overrides={f"net.{other}": lr.Override(keep="dense") for other in kind.layers[1:]},
    )
    for each, folder in ((some, "some"), (chosen, "all")):
        network = copy.deepcopy(one)
        lr.apply_(network, each)
        assert isinstance(network.net.get_submodule(name), lr.Factorized)
        lr.save(network, tmp_path / folder)
        loaded = lr.load_(One(kind), tmp_path / folder)
        assert isinstance(loaded, One)
        assert all(map(torch.equal, outputs(loaded), outputs(network)))


class Chain(nn.Module):
    """A Linear, and a module that reads its output."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 12), last

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        if isinstance(self.last, nn.MultiheadAttention):
            return self.last(y, y, y)[0]
        return self.last(y)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.MultiheadAttention(12, 2, batch_first=True),
        lambda: nn.LSTM(12, 16, batch_first=True),
    ],
    ids=["attention", "lstm"],
)
def test_traced_compiled_and_exported_it_is_the_same_and_only_its_layers_have_bounds(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    net, given = Chain(make()).eval(), torch.randn(2, 5, 12)
    dense = copy.deepcopy(net)
    names = list(lr.compress_(net, lr.Fixed(3), given[:1], metric="weight").plan.factorized)
    bounds = lr.certify(dense, net, given, names)
    assert set(bounds.layers) == set(names) > {"first"}
    assert not bounds.network.certified
    assert str(bounds.network.reason).startswith("at 'last'")
    expected = tensors(net(given))
    graph = fx.symbolic_trace(net)
    assert "last" in {node.target for node in graph.graph.nodes}, "one call, as of the dense module"
    for other in (
        graph,
        torch.compile(net, backend="eager"),
        torch.export.export(net, (given,)).module(),
    ):
        found = tensors(other(given))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


class Wrapped(nn.Module):
    """A layer and an adapter beside it, with the weight of the layer, as of peft's LoRA."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.adapter = layer, nn.Linear(layer.in_features, layer.out_features)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.adapter(x)


@EACH
def test_adapters_that_wrap_factors_compute_and_are_kept(kind: PackedKind) -> None:
    one = One(kind).eval()
    lr.apply_(one, low(one, "weight"))
    before = outputs(one)
    layers = {name: one.net.get_submodule(name) for name in kind.layers}
    adapters = []
    for layer in layers.values():
        assert isinstance(layer, lr.Factorized)
        for place in range(len(layer)):
            layer[place] = Wrapped(layer[place])  # type: ignore[arg-type]
            adapters.append(layer[place].adapter.double())  # type: ignore[operator]
            nn.init.zeros_(adapters[-1].weight)
            nn.init.zeros_(adapters[-1].bias)
    assert same(outputs(one), before)
    one(BATCHES[0]).sum().backward()
    assert all(adapter.weight.grad is not None for adapter in adapters)
    one.net.get_submodule(kind.layers[0])[1].adapter.bias.data += 0.5  # type: ignore[operator,index]
    assert not same(outputs(one), before)


def test_a_failed_apply_packs_it_again() -> None:
    class Insists(One):
        def forward(self, scale: Tensor) -> Tensor:
            if any(isinstance(module, lr.Factorized) for module in self.modules()):
                raise TypeError("no factors")
            return super().forward(scale)

    one = Insists(PACKED_KINDS[0]).eval()
    chosen, modules, state = low(one, "weight"), list(one.modules()), one.state_dict()
    with pytest.raises(lr.LowRankError, match=r"'net\.attention\.q_proj': with it factorized"):
        lr.apply_(one, chosen)
    assert list(one.modules()) == modules
    assert one.state_dict().keys() == state.keys()
    assert type(one.net.attention) is nn.MultiheadAttention


def test_hooks_freezing_and_attributes_stay() -> None:
    one = One(PACKED_KINDS[0]).eval()
    attention = one.net.attention
    assert isinstance(attention, nn.MultiheadAttention)
    attention.in_proj_weight.requires_grad_(False)
    calls: list[int] = []
    handle = attention.register_forward_hook(lambda *_: calls.append(1))
    lr.apply_(one, low(one, "weight"))
    assert one.net.attention is attention
    assert isinstance(attention, nn.MultiheadAttention)
    assert not any(p.requires_grad for p in attention.q_proj.parameters() if p.dim() == 2)
    assert all(p.requires_grad for p in attention.out_proj.parameters())
    calls.clear()
    outputs(one)
    assert calls == [1]
    handle.remove()
    outputs(one)
    assert calls == [1]
    assert (attention.embed_dim, attention.num_heads, attention.batch_first) == (12, 3, True)
    assert attention.in_proj_weight.shape == (36, 12)
    assert attention.in_proj_bias.shape == (36,)


def test_tied_modules_stay_packed_with_the_reason() -> None:
    net = nn.ModuleList(nn.MultiheadAttention(8, 2) for _ in range(2))
    net[1].in_proj_weight = net[0].in_proj_weight
    assert closed_reasons(net) == {
        "0": "its parameters are tied to 1",
        "1": "its parameters are tied to 0",
    }
    with opened(net):
        assert all(type(one) is nn.MultiheadAttention for one in net)
