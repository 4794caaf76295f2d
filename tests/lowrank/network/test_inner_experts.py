"""Inner dimensions of experts in one tensor: each expert has channels of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.survey import survey
from pipeline.lowrank.network.inner.dimension import InnerDimension
from pipeline.lowrank.network.inner.finding import InnerDimensions, find_inner
from pipeline.lowrank.network.inner.narrowing import narrowed, silenced
from pipeline.lowrank.network.opening import replace_
from tests.lowrank.network.expert_kinds import EXPERT_KINDS, AllAtOnce, ByHand, ExpertKind, Mixture

IDS = torch.randint(60, (8, 12), generator=torch.Generator().manual_seed(1))
WIDTHS = {"Qwen3Moe": 24, "DeepseekV3": 24}
EACH = pytest.mark.parametrize("kind", EXPERT_KINDS, ids=lambda kind: kind.name)


def inner_of(net: nn.Module, example: Tensor) -> InnerDimensions:
    return find_inner(net, example, list(survey(net, example).targets))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double().eval()


def vectors(count: int, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def halved(net: nn.Module, dimensions: Iterable[InnerDimension]) -> tuple[nn.Module, nn.Module]:
    """The network with half of the channels of each expert, drawn by chance, and the network that
    only ignores the other ones."""
    generator = torch.Generator().manual_seed(3)
    small, ignoring = copy.deepcopy(net), copy.deepcopy(net)
    for dimension in dimensions:
        kept = dimension.drawn(dimension.width // 2, generator)
        for member in sorted(dimension, key=lambda one: one.role != "counts"):
            layer = narrowed(member.module(small), member, kept, dimension.width)
            small = replace_(small, member.layer, layer)
        for member in dimension.readers:
            layer = silenced(member.module(ignoring), member, kept, dimension.width)
            ignoring = replace_(ignoring, member.layer, layer)
    return small, ignoring


@EACH
def test_the_experts_of_a_mixture_are_narrowed_each_for_itself(kind: ExpertKind) -> None:
    pytest.importorskip("transformers")
    net = kind.make()
    targets = survey(net, IDS[:1]).targets
    found = [one for one in inner_of(net, IDS[:1]).found.values() if one.groups == 4]
    assert {one.width for one in found} == {WIDTHS.get(kind.name, 48)}
    inside = {member.layer for one in found for member in one.layers}
    experts = {name for name, target in targets.items() if target.groups == 4}
    # In attention of JetMoe the channels of a plain layer meet those of the experts.
    assert all("self_attention" in name for name in experts - inside)
    small, ignoring = halved(net, found)
    close = 1e-4 if kind.name == "DeepseekV3" else 1e-9  # its router runs in float32
    assert torch.allclose(small(IDS).logits, ignoring(IDS).logits, rtol=close, atol=close)
    assert not torch.allclose(small(IDS).logits, net(IDS).logits, rtol=0.01)
    before, after = survey(net, IDS[:1]).targets, survey(small, IDS[:1]).targets
    assert all(2 * after[name].params == before[name].params for name in inside)


def test_widths_and_halves_of_experts_are_aligned() -> None:
    sizes = {48: (8, 24), 700: (4, 348), 40: (8, 16), 6: (2, 2), 7: (1, 3), 8: (1, 4)}
    for width, (step, half) in sizes.items():
        one = InnerDimension(width, (), 0, groups=4)
        assert (one.step, one.half) == (step, half)
        assert (InnerDimension(width, (), 0).step, InnerDimension(width, (), 0).half) == (
            1,
            width // 2,
        )


def test_what_goes_with_the_channels_of_own_experts_is_found() -> None:
    net = seeded(Mixture)
    inner = inner_of(net, vectors(1))
    (dimension,) = inner.found.values()
    assert (dimension.width, dimension.groups) == (12, 3)
    assert {(m.layer, m.role, m.parts, m.in_first) for m in dimension.layers} == {
        ("experts.stacks.up", "makes", 2, True),
        ("experts.stacks.down", "reads", 1, True),
    }
    (counting,) = (member for member in dimension if member.role == "counts")
    assert (counting.layer, dict(counting.sizes)) == ("experts", {"channels": 1, "up_bias": 2})
    assert dimension.other_params == 2 * 3
    small, ignoring = halved(net, [dimension])
    assert torch.allclose(small(vectors(9)), ignoring(vectors(9)))
    gone = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in small.parameters())
    assert gone == 3 * 6 * (2 * 8 + 2 + 8)


def test_experts_that_einsum_multiplies_at_once_are_narrowed() -> None:
    net, x = seeded(AllAtOnce), vectors(9, 6)
    (dimension,) = inner_of(net, x[:1]).found.values()
    assert [(m.layer, m.role, m.in_first) for m in dimension] == [
        ("stacks.up", "makes", True),
        ("stacks.down", "reads", False),
    ]
    small, ignoring = halved(net, [dimension])
    assert torch.allclose(small(x), ignoring(x))
    assert (small.up.shape, small.down.shape) == ((3, 6, 8), (3, 4, 8))


class Scaled(nn.Module):
    """Numbers for the hidden channels that all experts share."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(12) + 0.5)

    def forward(self, hidden: Tensor, _: int) -> Tensor:
        return hidden * self.scale


class SharedGate(nn.Module):
    """A gate that one layer makes for all experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(12, 12)

    def forward(self, hidden: Tensor, _: int) -> Tensor:
        return hidden * self.gate(hidden.detach()).sigmoid()


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "numbers of all": (lambda: Mixture(Scaled()), "has the same numbers for all experts"),
    "a gate of all": (lambda: Mixture(SharedGate()), "one for all of them"),
    "softmax": (lambda: Mixture(lambda h, _: h.softmax(-1)), "with half of its channels"),
    "one is turned": (
        lambda: Mixture(lambda h, index: h.flip(-1) if index == 2 else h),
        "with half of its channels",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_channels_that_not_every_expert_has_to_itself_are_left(name: str) -> None:
    make, words = LEFT[name]
    inner = inner_of(seeded(make), vectors(1))
    assert not any(one.groups > 1 for one in inner.found.values())
    assert words in inner.left["experts.stacks.down"]


def test_a_matrix_of_the_module_itself_is_narrowed_as_a_layer_is() -> None:
    net = seeded(ByHand)
    inner = inner_of(net, vectors(1, 8))
    assert {name: one.width for name, one in inner.found.items()} == {"out": 10}
    assert "expanded size" in inner.left["stacks.middle"], "of an offset that no layer holds"
    small, ignoring = halved(net, inner.found.values())
    assert torch.allclose(small(vectors(9, 8)), ignoring(vectors(9, 8)))
    assert small.middle.shape == (12, 5)
