"""Adapters on factors: trained, merged, and nothing else about the network changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank import LowRankError
from pipeline.lowrank.adapters.attach import (
    Adapter,
    AdapterOptions,
    attach_,
    freeze_,
    merge_,
)
from pipeline.lowrank.forms import get_form
from pipeline.lowrank.forms.surgery import Factorized, unfilled
from tests.lowrank.network.expert_kinds import GatedExperts, Mixture

# name → (dense layer, form, ranks, input): factors that are Linears, 1×1 and k×k kernels,
# depthwise ones (the middle of CP), strided and of all dimensions.
LAYERS: dict[str, tuple[nn.Module, str, Sequence[int], tuple[int, ...]]] = {
    "linear": (nn.Linear(20, 16), "svd", (7,), (3, 20)),
    "conv2d svd": (nn.Conv2d(8, 12, 3, stride=(2, 1), padding=1), "svd", (8,), (2, 8, 6, 6)),
    "conv2d tucker2": (nn.Conv2d(12, 16, 3, bias=False), "tucker2", (9, 7), (2, 12, 6, 6)),
    "conv2d cp": (nn.Conv2d(12, 16, 3), "cp", (11,), (2, 12, 6, 6)),
    "conv1d tucker2": (nn.Conv1d(12, 16, 5, dilation=2), "tucker2", (9, 7), (2, 12, 20)),
    "conv3d tucker2": (nn.Conv3d(8, 10, 2), "tucker2", (6, 5), (1, 8, 4, 4, 4)),
}
INITS = ("zeros", "svd")


class Network(nn.Module):
    """A factorized layer between layers that are not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        module, form, ranks, shape = LAYERS[kind]
        torch.manual_seed(0)
        self.layer = unfilled("layer", module, get_form(form), ranks)
        self.layer.double().requires_grad_(True)
        for parameter in self.layer.parameters():
            nn.init.normal_(parameter, std=0.5)
        width = self.layer[-1].weight.shape[0]
        self.norm = nn.LayerNorm(width).double()
        self.head = nn.Linear(width, 5).double()
        self.example = torch.randn(shape, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y = y.flatten(2).mean(-1) if y.dim() > 2 else y
        return self.head(self.norm(y).tanh())


def trained(network: nn.Module, steps: int = 3) -> nn.Module:
    """A few large steps, so that every trained tensor moves visibly."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        network(network.example).square().sum().backward()
        optimizer.step()
    return network


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("kind", LAYERS)
def test_merging_keeps_the_output_and_the_architecture(kind: str, init: str) -> None:
    network = Network(kind)
    before = copy.deepcopy(network)
    adapted = attach_(network, AdapterOptions(rank=1, alpha=2.0, init=init, others=()), seed=0)
    assert adapted
    start = network(network.example)
    rounding = 0.0 if init == "zeros" else 1e-12
    assert torch.allclose(start, before(network.example), rtol=0, atol=rounding)
    output = trained(network)(network.example).detach()
    merge_(network)
    assert torch.equal(network(network.example), output)
    assert (output - start).abs().max() > 1e-3  # they learned something
    assert list(network.state_dict()) == list(before.state_dict())
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in before.named_parameters()]
    assert [type(m) for m in network.modules()] == [type(m) for m in before.modules()]
    assert isinstance(network.layer, Factorized)
    assert network.layer.ranks == before.layer.ranks
    assert all(p.requires_grad for p in network.parameters())
    for name, value in network.state_dict().items():
        assert value.shape == before.state_dict()[name].shape
        if name.removesuffix(".weight") not in adapted and not _small(value, 1):
            assert torch.equal(value, before.state_dict()[name]), name


@pytest.mark.parametrize("kind", LAYERS)
def test_what_an_adapter_adds_has_its_rank(kind: str) -> None:
    network = Network(kind)
    before = copy.deepcopy(network)
    adapted = attach_(network, AdapterOptions(rank=1, init="zeros", others=()), seed=0)
    merge_(trained(network))
    for name in adapted:
        change = network.get_submodule(name).weight - before.get_submodule(name).weight
        values = torch.linalg.svdvals(change.detach().flatten(1))
        assert values[0] > 1e-4
        assert values[1:].max() < 1e-12 * values[0].clamp_min(1.0)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("others", [(), ("vectors",), ("dense",), ("vectors", "dense")])
@pytest.mark.parametrize("kind", ["linear", "conv2d tucker2", "conv2d cp"])
def test_trained_parameters_are_counted_by_the_formula(
    kind: str, others: Sequence[str], rank: int
) -> None:
    network = Network(kind)
    expected = 0
    for factor in network.layer:
        rows, columns = factor.weight.flatten(1).shape
        expected += min(rank * (rows + columns), rows * columns)
    vectors = sum(p.numel() for p in network.parameters() if p.dim() <= 1)
    expected += vectors * ("vectors" in others)
    expected += network.head.weight.numel() * ("dense" in others)
    attach_(network, AdapterOptions(rank=rank, others=others), seed=0)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == expected


def test_svd_takes_the_leading_directions_out_of_the_factor() -> None:
    network = Network("linear")
    weight = network.layer[0].weight.detach().clone()
    attach_(network, AdapterOptions(rank=3, alpha=1.5), seed=0)
    frozen = network.layer[0].parametrizations.weight.original
    values = torch.linalg.svdvals(weight)
    left = torch.linalg.svdvals(frozen)
    assert torch.allclose(left[: len(values) - 3], values[3:], rtol=0, atol=1e-9)
    adapter = network.layer[0].parametrizations.weight[0]
    assert isinstance(adapter, Adapter)
    assert torch.allclose(adapter.left.norm(), adapter.right.norm(), rtol=1e-9)


def test_zeros_depend_on_the_seed_alone() -> None:
    def right(seed: int) -> Tensor:
        network = Network("linear")
        attach_(network, AdapterOptions(rank=2, init="zeros"), seed)
        return network.layer[0].parametrizations.weight[0].right

    torch.manual_seed(7)
    first = right(3)
    assert torch.equal(first, right(3))
    assert not torch.equal(first, right(4))
    assert first.abs().max() <= 1 / math.sqrt(20)


def test_merged_is_adapted_under_autocast_too() -> None:
    network = Network("linear").float()
    attach_(network, AdapterOptions(rank=2, init="zeros"), seed=0)
    network.layer[0].parametrizations.weight[0].left.data.normal_()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(network.example.float())
        merge_(network)
        assert torch.equal(network(network.example.float()), output)


def test_patterns_choose_layers() -> None:
    network = nn.Sequential(Network("linear").layer, nn.Tanh(), Network("linear").layer)
    assert attach_(network, AdapterOptions(rank=1, targets=("2",), others=()), 0) == ["2.0", "2.1"]
    assert not any(p.requires_grad for p in network[0].parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "AdapterOptions: rank=0: choose a number of at least 1"),
        ({"alpha": 0.0}, r"alpha=0\.0: choose a number above 0"),
        ({"init": "ones"}, "init='ones': unknown; choose one of zeros, svd"),
        ({"targets": ()}, r"targets=\(\): give at least 1"),
        ({"others": ("norms",)}, r"others\.0='norms': unknown; choose one of vectors, dense"),
        ({"rnak": 3}, "AdapterOptions has no option 'rnak': did you mean 'rank'"),
        (
            {"targets": ("stem*",)},
            r"pattern 'stem\*' matches no compressed layer \(there are ",
        ),
    ],
)
def test_impossible_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        attach_(Network("linear"), AdapterOptions(**options), seed=0)  # type: ignore[arg-type]


def test_narrowed_layers_are_trained_as_factors_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30), nn.Linear(30, 3))
    inputs = torch.randn(64, 12)
    chosen = lr.AnalysisOptions(metric="weight", exclude=("3",))
    analysis = lr.analyze(network, inputs[:1], chosen=chosen)
    plan = lr.plan_from(
        network, analysis, lr.Budget(params=0.4, scope="targets"), methods=[lr.Interpolative()]
    )
    lr.apply_(network, plan)
    narrow, dense = network[0].weight.shape, network[3].weight.clone()
    assert narrow[0] < 40
    assert {id(one) for one in freeze_(network, ())} == {id(network[i].weight) for i in (0, 2)}
    assert attach_(network, AdapterOptions(rank=1, others=()), seed=0) == ["0", "2"]
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    before = network(inputs)
    before.square().mean().backward()
    optimizer.step()
    after = network(inputs)
    merge_(network)
    assert not torch.allclose(before, after)
    assert torch.allclose(network(inputs), after, atol=1e-6)
    assert network[0].weight.shape == narrow
    assert torch.equal(network[3].weight, dense)
    lr.save(network, tmp_path)
    fresh = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30), nn.Linear(30, 3))
    assert torch.equal(lr.load_(fresh, tmp_path)(inputs), network(inputs))


def test_narrowed_experts_in_one_tensor_are_trained_too() -> None:
    torch.manual_seed(0)
    net, x = Mixture(channels=16).double(), torch.randn(32, 5, dtype=torch.float64)
    plan = lr.plan(net, lr.Budget(params=0.8), x[:1], methods=[lr.Interpolative()])
    lr.apply_(net, plan)
    before, keys = net(x), list(net.state_dict())
    names = [f"experts.stacks.{key}" for key in ("up", "down")]
    assert lr.attach_(net, AdapterOptions(rank=1, others=()), 0) == names
    shapes = [tuple(p.shape) for p in net.parameters() if p.requires_grad]
    width = plan.layers[names[0]].ranks[0]
    assert shapes == [(3 * 8, 1), (1, 2 * width), (3 * width, 1), (1, 8)]
    assert torch.allclose(net(x), before)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    merge_(net)
    assert torch.allclose(net(x), before)
    assert (list(net.state_dict()), type(net.experts)) == (keys, GatedExperts)


def test_a_network_without_factors_says_what_to_do() -> None:
    with pytest.raises(LowRankError, match=r"\(there are none\).*train all parameters"):
        attach_(nn.Linear(3, 3), AdapterOptions(), seed=0)


def _small(weight: Tensor, rank: int) -> bool:
    """Whether a factor is trained itself because an adapter would be no smaller."""
    if weight.dim() < 2:
        return False
    rows, columns = weight.flatten(1).shape
    return rank * (rows + columns) >= rows * columns
