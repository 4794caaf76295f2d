"""What the zoo's checks find: planted faults."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.checks import try_network
from benchmarks.zoo.coverage import coverage_of
from benchmarks.zoo.entry import Entry, vectors
from pipeline import lowrank as lr


class Plain(nn.Module):
    """A matrix that is a layer and one that is a parameter; tied ones; a bias and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(16, 32), nn.LayerNorm(32)
        self.table = nn.Parameter(torch.randn(4, 32))
        self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.two(self.one(self.norm(self.layer(x)) + self.table[0]))
        return found


class Wavers(nn.Linear):
    """Gives other numbers every time, in eval mode too."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x) + self.calls


class Fails(nn.Linear):
    """Works in eval mode only."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("train mode is\nnot for me")
        return super().forward(x)


def entry(*parts: type[nn.Linear]) -> Entry:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 16), *(part(16, 16) for part in parts))

    return Entry("torch/planted", make, vectors(16))


def test_coverage_counts_every_weight_once_and_sets_tied_ones_aside() -> None:
    net = Plain()
    plan = lr.plan(net, lr.Fixed(ranks=0.5), torch.randn(1, 16), metric="weight")
    found = coverage_of(net, plan)
    assert found.params == sum(p.numel() for p in net.parameters())
    assert found.tied == 32 * 32
    assert found.counted == 16 * 32 + 4 * 32
    assert found.reached == found.factorized == 16 * 32 / found.counted
    assert [weight.name for weight in found.left] == ["table"]
    assert found.left[0].share == 4 * 32 / found.counted
    assert found.left[0].reason == plan.skipped["table"].reason


def test_a_sound_network_passes() -> None:
    assert try_network(entry(nn.Linear), "fisher").failed == {}


def test_a_fault_is_one_line_and_what_does_not_need_it_is_still_tried() -> None:
    assert try_network(entry(Fails), "weight").failed == {
        "train": "RuntimeError: train mode is not for me"
    }


def test_outputs_that_waver_are_found() -> None:
    assert try_network(entry(Wavers), "weight").failed.keys() >= {"saved", "full rank"}


def test_a_network_that_cannot_be_built_is_one_line_too() -> None:
    def broken() -> nn.Module:
        raise ImportError("no such library")

    failed = try_network(Entry("torch/broken", broken, vectors(2)), "weight").failed
    assert failed == {"build": "ImportError: no such library"}
