"""Whatever a network holds comes back from its folder: bits, dtypes, ties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank import Factorized, LowRankError


class Causal(nn.Module):
    """A mask of −∞ as a buffer, a counter, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(64, 64), nn.Linear(64, 64, bias=False)
        self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("scratch", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ x.mT + self.mask.to(x.dtype)
        result: Tensor = self.o(torch.softmax(scores, -1) @ x)
        return result


class Mixed(nn.Module):
    """Each layer in its own number format."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 48)
        self.second = nn.Linear(48, 48).bfloat16()
        self.third = nn.Linear(48, 32).double()
        self.register_buffer("steps", torch.tensor([1, 2], dtype=torch.int16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.float())
        result: Tensor = self.third(self.second(y.bfloat16()).double())
        return result


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.middle = nn.Embedding(50, 48), nn.Linear(48, 48)
        self.head = nn.Linear(48, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.middle(self.table(ids)))
        return result


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(64, 64)
        self.other = self.one

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.other(self.one(x).relu())
        return result


def root() -> nn.Module:
    return nn.Linear(64, 64)


def half() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.Conv2d(24, 8, 1)).bfloat16()


def turned() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(16, 24, 3), nn.Conv2d(24, 8, 1))
    return net.to(memory_format=torch.channels_last)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "causal": (Causal, torch.randn(1, 8, 64)),
    "mixed": (Mixed, torch.randn(1, 64)),
    "tied": (Tied, torch.arange(6)[None]),
    "shared": (Shared, torch.randn(1, 64)),
    "root": (root, torch.randn(1, 64)),
    "bfloat16": (half, torch.randn(1, 16, 6, 6).bfloat16()),
    "channels last": (turned, torch.randn(1, 16, 6, 6)),
}


def compressed(name: str) -> nn.Module:
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    done = lr.compress_(make().eval(), lr.Fixed(5), example)
    assert done.layers
    return done.network


def same(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    for key, value in first.items():
        assert value.dtype == second[key].dtype, key
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "compressed"])
def test_bits_and_dtypes_come_back_into_a_new_network(
    name: str, dense: bool, tmp_path: Path
) -> None:
    make, example = NETWORKS[name]
    torch.manual_seed(0)
    net = make().eval() if dense else compressed(name)
    lr.save(net, tmp_path)
    torch.manual_seed(1)
    fresh = make().float()  # as a constructor makes it: the file decides the number formats
    read = lr.load_(fresh, tmp_path)
    assert (read is fresh) or name == "root"
    same(net, read)
    assert not read.training
    assert torch.equal(read(example), net(example))
    assert sum(p.numel() for p in read.parameters()) == sum(p.numel() for p in net.parameters())
    found = {n: m.ranks for n, m in read.named_modules() if isinstance(m, Factorized)}
    assert found == {n: m.ranks for n, m in net.named_modules() if isinstance(m, Factorized)}
    assert bool(found) is not dense
    with pytest.raises(LowRankError, match=r"does not say how its network is built.*load_") as info:
        lr.load(tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_with_a_builder_nothing_else_is_needed(name: str, tmp_path: Path) -> None:
    make, example = NETWORKS[name]
    net = compressed(name)
    lr.save(net, tmp_path / "one", {"_target_": f"{__name__}.{make.__name__}"})
    read = lr.load(tmp_path / "one", allow=[__name__])
    same(net, read)
    assert torch.equal(read(example), net(example))
    lr.save(read, str(tmp_path / "two"))  # what was built by a builder knows it
    for file in ("model.safetensors", "network.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    again = lr.load(str(tmp_path / "two"), allow=[__name__])
    same(net, again)


def test_ties_are_ties_again(tmp_path: Path) -> None:
    for name, pair in (("tied", ("table", "head")), ("shared", ("one", "other"))):
        lr.save(compressed(name), tmp_path / name)
        read = lr.load_(NETWORKS[name][0](), tmp_path / name)
        one, other = (read.get_submodule(part) for part in pair)
        assert [id(p) for p in one.parameters()] == [id(p) for p in other.parameters()]


@pytest.mark.parametrize("key", ["mask", "q.1.bias", "o.0.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damage_is_refused(key: str, value: float, tmp_path: Path) -> None:
    """Infinity is damage in a parameter; in a buffer it may be meant."""
    net = compressed("causal")
    net.state_dict()[key].view(-1)[0] = value
    lr.save(net, tmp_path)
    if key == "mask" and value == float("inf"):
        assert torch.isinf(lr.load_(Causal(), tmp_path).mask[0, 0])
        return
    with pytest.raises(LowRankError, match=rf"{key} holds NaN or Inf; this checkpoint is damaged"):
        lr.load_(Causal(), tmp_path)


def test_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    lr.save(compressed("causal"), tmp_path)
    others: list[tuple[nn.Module, str]] = [
        (Tied(), r"layer 'q', which the model does not have"),
        (nn.ModuleDict({"q": nn.Linear(64, 64), "o": nn.Linear(64, 64)}), "unexpected|missing"),
        (nn.ModuleDict({"q": nn.Linear(3, 3), "o": nn.Linear(3, 3)}), r"layer 'q' \(3 × 3\)"),
        (nn.ModuleDict({"q": nn.ReLU(), "o": nn.Linear(64, 64)}), "layer 'q' is a ReLU"),
    ]
    for other, message in others:
        with pytest.raises(LowRankError, match=message) as info:
            lr.load_(other, tmp_path)
        assert "\n" not in str(info.value)
