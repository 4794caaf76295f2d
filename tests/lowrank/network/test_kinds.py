"""Subclasses: those that behave as their parents are targets, others are named with the reason."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank import (
    SVD,
    Fixed,
    Plan,
    PlannedLayer,
    apply_,
    certify,
    compress_,
    load_,
    plan,
    save,
    to_dense_,
)
from pipeline.lowrank.methods import METHODS, make_method
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.network.kinds import KINDS, Behaviour, behaviour_of, why_unknown
from pipeline.lowrank.network.same_padding import Conv2dSame
from tests.lowrank.layer_kinds import build, case_of, full_ranks


class Named(nn.Linear):
    """Runs its parent's code."""


class ByHand(nn.Linear):
    """As FalconLinear and the Linear of timm: its own code for the parent's product."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.act = torch.relu  # nothing that plain data could hold

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


def conv2d_same(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any) -> Tensor:
    pads: list[int] = []
    for size, kernel, step in zip(x.shape[2:], weight.shape[2:], stride, strict=True):
        total = max((-(-size // step) - 1) * step + kernel - size, 0)
        pads = [total // 2, total - total // 2, *pads]
    return functional.conv2d(functional.pad(x, pads), weight, bias, stride)


class Tensorflow(nn.Conv2d):
    """As Conv2dSame of timm: the zeros around an image follow from its size."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d_same(x, self.weight, self.bias, self.stride)


class Standardized(nn.Conv2d):
    """As StdConv2d of timm."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, self.weight - mean, self.bias)


class Scaled(Tensorflow):
    """As ScaledStdConv2dSame of timm."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(sizes[1], 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gain * (self.weight - self.weight.mean((1, 2, 3), keepdim=True))
        return conv2d_same(x, weight, self.bias, self.stride)


class Modulated(nn.Linear):
    """Its weight depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * (1 + x.mean()), self.bias)


class Causal(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (self.kernel_size[0] - 1, 0)))


class ScaledTable(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * 4.0


class Adapted(nn.Linear):
    """As a layer with an adapter that adds nothing yet."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.lora_b = nn.Parameter(torch.zeros(sizes[1], 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.lora_b.sum()


class Routed(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x * 2, weight, bias)


def replaced() -> nn.Module:
    layer = nn.Linear(6, 5)
    layer.forward = lambda x: x  # type: ignore[method-assign,assignment,misc]
    return layer


BEHAVE: dict[str, tuple[Callable[[], nn.Module], Behaviour]] = {
    "subclass": (lambda: Named(6, 5), Behaviour("linear")),
    "by hand": (lambda: ByHand(6, 5), Behaviour("linear")),
    "attention's": (
        lambda: nn.MultiheadAttention(6, 2).out_proj,
        Behaviour("linear"),
    ),
    "same": (lambda: Tensorflow(4, 6, 3, 2), Behaviour("conv2d", same_padding=True)),
    "ours": (lambda: Conv2dSame(4, 6, 3, 2), Behaviour("conv2d", same_padding=True)),
    "same, nothing to pad": (lambda: Tensorflow(4, 6, 1), Behaviour("conv2d")),
    "standardized": (lambda: Standardized(4, 6, 3), Behaviour("conv2d", computed=True)),
    "scaled, same": (lambda: Scaled(4, 6, 3, 2), Behaviour("conv2d", True, True)),
    "normed": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)),
        Behaviour("conv1d", computed=True),
    ),
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "modulated": (lambda: Modulated(6, 5), "gives another output than Linear"),
    "causal": (lambda: Causal(4, 6, 3), "gives another output than Conv1d"),
    "scaled": (lambda: ScaledTable(9, 4), "gives another output than Embedding"),
    "adapted": (lambda: Adapted(6, 5), r"holds more than a weight and a bias \(lora_b\)"),
    "several outputs": (lambda: Routed(6, 5), "gives another output than Linear"),
    "inner code": (lambda: OwnConvolution(4, 6, 3), "gives another output than Conv2d"),
    "hooked": (
        lambda: nn.utils.weight_norm(nn.Linear(6, 5)),
        "computes its weight anew in every call",
    ),
    "replaced": (replaced, "its forward was replaced on the object"),
    "unknown": (lambda: nn.Bilinear(6, 5, 4), "Bilinear has no factorized form here"),
}


@pytest.mark.parametrize("name", BEHAVE)
def test_what_behaves_as_its_parent_is_known(name: str) -> None:
    """Also on another device or in another format: nothing but the class and options decides."""
    make, wanted = BEHAVE[name]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.device("meta"):
        module = make().bfloat16()
    assert behaviour_of(module) == behaviour_of(make()) == wanted
    torch.manual_seed(1)
    behaviour_of(module)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_behave_so_has_a_reason(name: str) -> None:
    make, reason = OTHERS[name]
    module = make()
    assert behaviour_of(module) is None
    assert re.search(reason, why_unknown(module))


class Net(nn.Module):
    """Subclasses of all sorts; every image size goes through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.pooled = Tensorflow(4, 12, 3, 2), Tensorflow(12, 16, (3, 2), (2, 1))
        self.odd, self.up = OwnConvolution(16, 16, 3), nn.ConvTranspose2d(16, 12, 3, 2, 1, 1)
        self.head = ByHand(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.odd(self.pooled(self.stem(x).relu()).relu()).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return out


X = torch.randn(6, 4, 21, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
def test_subclasses_are_compressed_and_come_back(metric: Any, tmp_path: Path) -> None:
    net = Net().eval()
    data = {"example": X[:1]} if metric == "weight" else {"calibration": [X[:4], X[4:]]}
    made = plan(net, Fixed(10), metric=metric, held_out=[], **data)  # type: ignore[arg-type]
    assert list(made.factorized) == ["stem", "pooled", "up", "head"]
    assert "gives another output than Conv2d" in made.skipped["odd"].reason
    dense = copy.deepcopy(net)
    apply_(net, made)
    net.train()(X).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    small = X[:, :, :18, :19]
    save(net.eval(), tmp_path)
    assert torch.equal(load_(Net(), tmp_path)(small), net(small))
    compressed = net(small)
    to_dense_(net)
    assert [type(m) for m in net.children()] == [type(m) for m in dense.children()]
    assert torch.allclose(net(small), compressed, atol=1e-5)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "cp"])
def test_same_padding_is_that_of_the_dense_layer_for_images_of_every_size(method: str) -> None:
    torch.manual_seed(0)
    layer = Tensorflow(5, 6, (3, 4), (2, 3)).double()
    case, one = case_of(layer, torch.randn(1, 5, 9, 9).double()), make_method(method, {})
    built = build(case, one, full_ranks(one.form, case))
    for size in range(4, 10):
        x = torch.randn(2, 5, size, 13 - size).double()
        assert torch.allclose(built(x), layer(x), atol=1e-10)


def test_networks_of_subclasses_and_transposed_convolutions_are_certified() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        Tensorflow(4, 12, 3, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 10, 3, 2, 1, 1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        ByHand(10 * 64, 12),
    )
    x = torch.randn(5, 4, 7, 8)
    done = compress_(copy.deepcopy(net), Fixed(6), x[:1])
    assert list(done.layers) == ["0", "2", "5"]
    bounds = certify(net, done.network, x, list(done.layers))
    assert list(bounds.layers) == ["0", "2", "5"] and bounds.network.certified
    assert all(0.05 < layer.tightness <= 1.0 for layer in bounds.layers.values())


def test_a_layer_that_is_given_more_than_its_input_stays_dense() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(4, 16, 3, 2), nn.ConvTranspose2d(16, 16, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(self.down(x), output_size=x.shape[2:])
            return out

    made = plan(Sized(), Fixed(3), torch.randn(1, 4, 10, 10))
    assert list(made.layers) == ["down"]
    assert made.skipped["up"].reason == "is called with more than its input (output_size)"


class Computed(nn.Module):
    """Weights that layers compute of what they hold: standardized, scaled, normed, spectral."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        parametrizations = nn.utils.parametrizations
        self.stem, self.wide = Scaled(4, 24, 3, 2), Standardized(24, 24, 3)
        self.normed = parametrizations.weight_norm(nn.Conv2d(24, 20, 3))
        self.spectral = parametrizations.spectral_norm(nn.Linear(20, 32))
        self.out = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed(self.wide(self.stem(x).relu()).relu()).relu()
        out: Tensor = self.out(self.spectral(x.mean((2, 3))).relu())
        return out


@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
def test_weights_that_layers_compute_are_factorized(metric: Any, tmp_path: Path) -> None:
    net = Computed().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    data = {"example": X[:1]} if metric == "weight" else {"calibration": [X[:4], X[4:]]}
    made = plan(net, Fixed(0.999), metric=metric, held_out=[], methods=[SVD()], **data)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert list(made.layers) == ["stem", "wide", "normed", "spectral", "out"] and not made.skipped
    assert "the weight that it computes" in made.layers["stem"].why
    assert "the weight that it computes" not in made.layers["out"].why
    assert made.expected.dense.params == count_params(net)
    full = {name: _full(made, net, name) for name in made.layers}
    dense = copy.deepcopy(net).eval()
    done = apply_(net, made.with_layers(**full))
    assert done.totals.params == count_params(net)
    assert torch.allclose(net.eval()(X), dense(X), atol=1e-5)
    net.train()(X).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    save(net.eval(), tmp_path)
    assert torch.equal(load_(Computed(), tmp_path)(X), net(X))
    to_dense_(net)
    assert type(net.normed) is nn.Conv2d and type(net.stem) is Conv2dSame
    assert torch.allclose(net(X), dense(X), atol=1e-5)


def _full(made: Plan, net: nn.Module, name: str) -> PlannedLayer:
    assert made.analysis is not None
    shape = made.analysis.targets[name].group_shape
    return PlannedLayer("svd", (min(shape[0], math.prod(shape[1:])),))


def test_the_page_on_layers_has_every_kind() -> None:
    rows = Path("docs/layers.md").read_text().splitlines()
    for layer, kind in KINDS.items():
        assert any(f"`nn.{layer.__name__}`" in row and f"| {kind} |" in row for row in rows), kind
