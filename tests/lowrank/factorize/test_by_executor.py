"""Factors that an executor makes are those of one process, to the bit, and as little as they need
travels."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import pipeline.lowrank as lr
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.layers import alone
from pipeline.lowrank.network.executing import Answer, Executor, each
from pipeline.lowrank.network.targets import dense_weight

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Doubled(nn.Linear):
    """A class of the user's, whose layers hold what cannot be pickled."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.lock = threading.Lock()


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 12, 3), nn.Conv2d(12, 16, 3, groups=2, bias=False), nn.Flatten(),
        Doubled(256, 24), nn.ReLU(), weight_norm(nn.Linear(24, 20)), nn.Linear(20, 16),
    ]  # fmt: skip
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    lock = threading.Lock()
    net[1].register_forward_hook(lambda *_: lock.locked() or None)
    net[0].weight.requires_grad_(False)
    return net


@pytest.fixture(scope="module")
def processes() -> Executor:
    executor: Executor = get_reusable_executor(max_workers=2)
    return executor


@pytest.fixture(scope="module", params=["weight", "input"])
def plan(request: pytest.FixtureRequest) -> lr.Plan:
    methods = [lr.Tucker2(), lr.PivotedSVD()]
    found = lr.plan(
        network(), lr.Fixed(ranks=0.5), calibration=[X], metric=request.param, methods=methods,
        contest_examples=0,
    )  # fmt: skip
    assert len(found.factorized) >= 4
    return found


def same(one: lr.Compression, other: lr.Compression) -> bool:
    pairs = zip(one.network.state_dict().items(), other.network.state_dict().items(), strict=True)
    layouts = zip(one.network.parameters(), other.network.parameters(), strict=True)
    return (
        one.layers == other.layers
        and all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
        and all(x.requires_grad == y.requires_grad for x, y in layouts)
    )


def test_processes_make_the_same_bits(plan: lr.Plan, processes: Executor, tmp_path: Path) -> None:
    plain = lr.apply_(network(), plan)
    done = lr.apply_(network(), plan, executor=processes)
    assert same(plain, done) and len(done.layers) == len(plan.factorized)
    strides = [[p.stride() for p in one.network.parameters()] for one in (plain, done)]
    assert strides[0] == strides[1]
    assert len(done.network[1]._forward_hooks) == 1
    assert same(plain, lr.apply_(network(), plan, spill=tmp_path, executor=processes))
    assert len(list(tmp_path.glob("*.safetensors"))) == len(plan.factorized)
    quick = lr.apply_(network(), plan, certified=False, spill=tmp_path / "2", executor=processes)
    assert not quick.layers and same(plain, replace(quick, layers=plain.layers))


def test_a_stopped_one_is_taken_up(processes: Executor, tmp_path: Path) -> None:
    plan = lr.plan(network(), lr.Fixed(ranks=0.5), X[:1])
    counted = Counted(processes, stops_at=3)
    with pytest.raises(KeyboardInterrupt):
        lr.apply_(network(), plan, spill=tmp_path, executor=counted)
    for answer in counted.answers:  # those that were on their way
        answer.result()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    again = Counted(processes)
    done = lr.apply_(network(), plan, spill=tmp_path, executor=again)
    assert again.count == len(plan.factorized) - 2
    assert same(done, lr.apply_(network(), plan))


class Counted:
    """An executor that counts its jobs, and is stopped at one of them."""

    def __init__(self, executor: Executor, stops_at: int = 0) -> None:
        self.executor, self.stops_at, self.count = executor, stops_at, 0
        self.answers: list[Answer] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Answer:
        self.count += 1
        if self.count == self.stops_at:
            raise KeyboardInterrupt
        self.answers.append(self.executor.submit(function, *arguments))
        return self.answers[-1]


def test_a_layer_alone_is_small_and_weighs_the_same() -> None:
    net = network()
    whole = nn.Linear(24, 3 * 24)
    part = nn.Linear(24, 24, bias=False)
    part.weight = nn.Parameter(whole.weight[24:48])
    for module in (*(m for m in net if hasattr(m, "weight")), part):
        one = alone(module)
        assert torch.equal(dense_weight(one), dense_weight(module))
        assert (one.bias is None) == (module.bias is None) if hasattr(one, "bias") else True
        assert type(one).__module__.startswith("torch.nn") and not one._forward_hooks
        numbers = sum(t.nbytes for t in one.state_dict().values())
        assert len(pickle.dumps(one)) < numbers + 4000


def fails(kind: str) -> Tensor:
    if kind == "error":
        raise LowRankError("layer 'a': cannot be; choose another")
    warnings.warn("layer 'a': takes longer", stacklevel=2)
    return torch.zeros(2)


def test_errors_and_warnings_come_back_as_they_are(processes: Executor) -> None:
    with pytest.raises(LowRankError, match=r"^layer 'a': cannot be; choose another$"):
        list(each(processes, fails, [("error",)]))
    with pytest.warns(UserWarning, match=r"^layer 'a': takes longer$"):
        assert next(each(processes, fails, [("warning",)])).tolist() == [0, 0]
