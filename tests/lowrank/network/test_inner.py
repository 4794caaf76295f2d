"""Inner dimensions are found where narrowing them is what it seems, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.survey import survey
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.costs import network_totals
from pipeline.lowrank.network.inner.finding import InnerDimensions, find_inner
from pipeline.lowrank.network.inner.narrowing import narrowed, silenced
from pipeline.lowrank.network.opening import module_at, replace_
from tests.lowrank.inner_cases import FOUND, LEFT, Attention, InnerCase, Pair, named

CASES = pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)


def inner_of(net: nn.Module, inputs: Tensor) -> InnerDimensions:
    return find_inner(net, inputs[:1], list(survey(net, inputs[:1]).targets))


@pytest.mark.parametrize("case", [*FOUND, *LEFT], ids=lambda case: case.name)
def test_what_is_found_and_why_other_channels_are_left(case: InnerCase) -> None:
    net, inputs = case.network(), case.inputs()
    modules, before = list(net.modules()), {k: v.clone() for k, v in net.state_dict().items()}
    inner = inner_of(net, inputs)
    assert {name: one.width for name, one in inner.found.items()} == case.found
    assert inner.left.keys() == case.left.keys()
    assert all(words in inner.left[name] for name, words in case.left.items())
    assert list(net.modules()) == modules
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not net.training


@CASES
def test_narrower_is_ignoring_the_other_channels(case: InnerCase) -> None:
    """In any order of the channels that are kept, on the network itself."""
    small, ignoring, inputs = case.network(), case.network(), case.inputs()
    for dimension in inner_of(small, inputs).found.values():
        kept = torch.randperm(dimension.width)[: dimension.width // 2 + 1]
        for member in dimension:
            layer = narrowed(module_at(small, member.layer), member, kept, dimension.width)
            small = replace_(small, member.layer, layer)
        for member in dimension.readers:
            layer = silenced(module_at(ignoring, member.layer), member, kept, dimension.width)
            ignoring = replace_(ignoring, member.layer, layer)
    assert torch.allclose(small(inputs), ignoring(inputs), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(small(inputs), case.network()(inputs), rtol=1e-3)
    assert sum(p.numel() for p in small.parameters()) < sum(
        p.numel() for p in ignoring.parameters()
    )


def test_a_weight_that_another_module_multiplies_by_makes_channels_too() -> None:
    class ByHand(Pair):
        def forward(self, x: Tensor) -> Tensor:
            hidden = nn.functional.linear(x, self.first.weight, self.first.bias)
            found: Tensor = self.second(self.between(hidden))
            return found

    torch.manual_seed(0)
    net, inputs = ByHand(torch.relu).double().eval(), torch.randn(1, 6, dtype=torch.float64)
    (dimension,) = inner_of(net, inputs).found.values()
    assert (dimension.of("makes"), dimension.of("reads")) == (["first"], ["second"])


def test_what_is_counted_by_chance_stays() -> None:
    """Of what is as many as the heads only what has to change with them is of the dimension."""
    case = named("counting")
    dimension = inner_of(case.network(), case.inputs()).found["0.out"]
    (counting,) = (member for member in dimension if member.role == "counts")
    assert counting.layer == "0"
    assert counting.sizes == {"heads": 2, "kv_heads": 1, "scale": 2}


@CASES
def test_a_member_costs_what_is_left_of_it(case: InnerCase) -> None:
    net, inputs = case.network(), case.inputs()
    facts = survey(net, inputs[:1])
    for dimension in find_inner(net, inputs[:1], list(facts.targets)).found.values():
        kept = torch.arange(dimension.width)[::2]
        gone = {}
        for member in dimension:
            module = module_at(net, member.layer)
            layer = narrowed(module, member, kept, dimension.width)
            size = sum(p.numel() for p in layer.parameters())
            gone[member.layer] = sum(p.numel() for p in module.parameters()) - size
            if member.layer in facts.targets:
                params, _ = member.cost(facts.targets[member.layer], len(kept), dimension.width)
                assert params == size
        others = [name for name in gone if name not in facts.targets]
        lost = dimension.width - len(kept)
        assert sum(gone[name] for name in others) == lost * dimension.other_params


class Pooled(Attention):
    """Values are pooled along the tokens, each head by itself, by one convolution for all heads."""

    def __init__(self) -> None:
        super().__init__(counted=False)
        self.pool = nn.Conv1d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (-1, 4)).transpose(1, 2) for m in (self.q, self.k, self.v))
        v = self.pool(v.flatten(0, 1).mT).mT.unflatten(0, v.shape[:2])
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2)).mean(1)
        return found


def test_what_runs_once_for_each_channel_runs_less_often() -> None:
    torch.manual_seed(0)
    net, inputs = Pooled().double().eval(), torch.randn(1, 5, 8, dtype=torch.float64)
    targets, before = survey(net, inputs).targets, network_totals(net, inputs).macs
    (dimension,) = inner_of(net, inputs).found.values()
    assert dimension.width == 3 and "pool" not in {member.layer for member in dimension}
    saved = 2 * dimension.other_macs
    for member in dimension:
        _, left = member.cost(targets[member.layer], 1, 3)
        saved += targets[member.layer].macs - left
        layer = narrowed(module_at(net, member.layer), member, torch.tensor([2]), 3)
        net = replace_(net, member.layer, layer)
    assert network_totals(net, inputs).macs == before - saved


def test_a_reader_that_is_zero_by_chance_is_seen() -> None:
    net = Pair(torch.relu, lambda hidden: (hidden * net.scale).sum(-1, keepdim=True)).double()  # type: ignore[operator]
    net.scale = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    inner = inner_of(net.eval(), torch.randn(1, 6, dtype=torch.float64))
    assert not inner.found
    assert "outputs" in inner.left["second"]


class InSingle(Pair):
    """Refuses float64, as kernels of experts do."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            raise RuntimeError("expected Float32, got Double")
        return super().forward(x)


def test_a_network_that_refuses_float64_is_tried_in_float32() -> None:
    torch.manual_seed(0)
    net, inputs = InSingle(torch.tanh).eval(), torch.randn(1, 6)
    assert list(inner_of(net, inputs).found) == ["second"]
    with pytest.raises(LowRankError, match=r"does not run the example .*leave interpolative out"):
        find_inner(net, inputs[:, :5], ["first", "second"])


def test_layers_that_are_no_targets_bar_their_dimension() -> None:
    net, inputs = named("gated").network(), named("gated").inputs()
    inner = find_inner(net, inputs[:1], ["down", "up", "head"])
    assert not inner.found
    assert "gate, which makes or reads its channels, is no target" in inner.left["down"]


def test_of_a_chain_the_dimension_with_more_parameters_is_chosen() -> None:
    layers = (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 20))
    inner = inner_of(nn.Sequential(*layers).eval(), torch.randn(1, 4))
    assert list(inner.found) == ["4"]
    assert inner.left == {"2": "shares 2 with the dimension before 4, which was preferred"}


class Blocks(nn.Module):
    """Blocks that are alike; those in `odd` read their hidden channels backwards."""

    def __init__(self, count: int, odd: set[int]) -> None:
        super().__init__()
        self.odd = odd
        self.up = nn.ModuleList(nn.Linear(6, 40) for _ in range(count))
        self.down = nn.ModuleList(nn.Linear(40, 6) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for place, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            hidden = torch.relu(up(x))
            x = x + down(hidden.flip(-1) if place in self.odd else hidden)
        return x


class Forked(nn.Module):
    """Channels with many readers come in the place of a small pair, which stood in the way of
    another one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 30)
        self.first, self.second, self.third = nn.Linear(30, 6), nn.Linear(6, 8), nn.Linear(8, 40)
        self.wide = nn.ModuleList(nn.Linear(30, 40) for _ in range(2))
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x)) * self.scale
        found: Tensor = self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return found + self.wide[0](x) + self.wide[1](x)


def test_a_dimension_counts_again_where_the_one_before_it_has_gone() -> None:
    torch.manual_seed(0)
    inner = inner_of(Forked().eval(), torch.randn(1, 4))
    assert {name: one.width for name, one in inner.found.items()} == {"first": 30, "third": 8}
    assert inner.left.keys() == {"second"}


def test_blocks_are_told_apart() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(1, 6)
    some = inner_of(Blocks(9, {2, 5, 6}).eval(), inputs)
    assert set(some.found) == {f"down.{place}" for place in (0, 1, 3, 4, 7, 8)}
    none = inner_of(Blocks(9, set(range(9))).eval(), inputs)
    assert not none.found
    assert none.left["down.5"].startswith("as down.0: with half of its channels")
