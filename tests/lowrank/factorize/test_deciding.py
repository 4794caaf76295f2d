"""One function decides for the chain and for a notebook; deciding changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import lowrank as lr
from pipeline.config.compose import compose_params, write_params
from pipeline.data.calibration import all_calibration
from pipeline.data.files import load_split
from pipeline.lowrank import LowRankError
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.network.calling import hold_out, up_to
from stages import analyze as analyze_stage
from stages import rank_select as rank_select_stage
from tests.imports import ROOT

SPEC: dict[str, Any] = {
    "_target_": "pipeline.models.resnet.ResNet",
    "widths": [12, 16],
    "blocks": [1, 1],
    "hidden": 24,
}
X = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


# -- library and chain ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder in which prepare and baseline have run: digits, and a network trained a little."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "out").mkdir()
    (root / "out/data").symlink_to(digits)
    torch.manual_seed(0)
    net, train = build_model(SPEC), load_split(digits, "train")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(40):
        inputs, labels = train.batch(slice(32 * step % 960, 32 * step % 960 + 32))
        optimizer.zero_grad()
        functional.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    lr.save(net, root / "out/baseline")
    return root


@pytest.mark.parametrize("kept", [0.5, 0.25])
def test_the_library_plans_as_the_chain_does(
    workspace: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    """The same function, with the library's method: the contest is held by itself, on the same
    examples, and the choice is the same to the bit."""
    monkeypatch.chdir(workspace)
    budget = [f"rank_select.budget={kept}", "methods=pivoted_tucker2", "fabric.threads=1"]
    write_params(Path("params.yaml"), compose_params(ROOT / "conf", budget))
    threads = torch.get_num_threads()
    try:
        analyze_stage.run()
        rank_select_stage.run()
    finally:
        torch.set_num_threads(threads)
    chain = lr.load_plan(Path("out/plan.json"))

    net, split = lr.load(Path("out/baseline")), all_calibration(digits)
    starts = range(0, len(split), 64)
    batches = [split.batch(slice(i, min(i + 64, len(split))))[0] for i in starts]
    torch.set_num_threads(1)
    try:
        library = lr.plan(net, lr.Budget(params=kept), calibration=batches)
    finally:
        torch.set_num_threads(threads)
    assert library.metric == "fisher"
    assert library.methods == chain.methods
    assert library.layers == chain.layers
    assert library.contest == chain.contest and len(chain.contest) == 6
    assert library.expected == chain.expected
    assert (library.policy, library.seed) == (chain.policy, chain.seed)
    assert (library.damping, library.skipped) == (chain.damping, chain.skipped)

    divergence = Divergence(net, hold_out(batches, 0.25)[1])
    built = lr.apply_(copy.deepcopy(net), library).network
    measured = [entry.measured_divergence for entry in library.contest]
    assert divergence.of(built) == pytest.approx(min(measured), rel=1e-5)
    assert max(measured) > min(measured) > 0, "a contest of equals"


def test_a_budget_with_data_is_a_contest_and_without_it_is_none() -> None:
    net, batches = mlp(), list(torch.randn(96, 64).split(32))
    chosen = lr.plan(net, lr.Budget(params=0.5), calibration=batches)
    # Few layers: the plans on the way to the uniform one come out as those before.
    names = ["absolute", "relative", "absolute, corrected", "uniform"]
    assert [entry.allocation for entry in chosen.contest] == names
    for nothing in (
        lr.plan(net, lr.Budget(params=0.5), X),
        lr.plan(net, lr.Budget(params=0.5), calibration=batches, contest_examples=0),
        lr.plan(net, lr.Budget(params=0.5), calibration=batches, held_out=[]),
        lr.plan(net, lr.Energy(0.8), calibration=batches),
    ):
        assert nothing.contest == ()
    assert lr.plan(net, lr.Budget(params=0.5), X).metric == "weight"
    done = lr.compress_(copy.deepcopy(net), lr.Budget(params=0.5), calibration=batches)
    assert done.plan.contest == chosen.contest and done.plan.layers == chosen.layers


@pytest.mark.parametrize("sizes", [(64, 64, 52), (7,), (1, 1, 1, 1), (3, 90, 5)])
def test_the_last_quarter_of_the_examples_is_held_out(sizes: tuple[int, ...]) -> None:
    count = sum(sizes)
    numbers = torch.arange(count)
    batches = [{"x": part, "kind": "text"} for part in numbers.split(list(sizes))]
    before, after = hold_out(batches, 0.25)
    assert torch.cat([batch["x"] for batch in before + after]).equal(numbers)
    assert sum(len(batch["x"]) for batch in after) == round(0.25 * count)
    assert all(len(batch["x"]) and batch["kind"] == "text" for batch in before + after)
    first = up_to(batches, 5)
    assert torch.cat([batch["x"] for batch in first]).equal(numbers[:5])
    assert up_to(batches, 0) == []


# -- deciding changes nothing --------------------------------------------------------------


class Frozen(nn.Module):
    """A network in training with a frozen BatchNorm, dropout that is off, and a switch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 48)
        self.norm = nn.BatchNorm1d(48)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(48, 10)
        self.broken = False
        self.train()
        self.norm.eval()
        self.drop.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.norm(self.first(x)))
        if self.broken:
            raise RuntimeError("no such luck")
        result: Tensor = self.head(y)
        return result


@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
def test_every_module_is_left_in_its_mode(metric: Any) -> None:
    net, batches = Frozen(), list(torch.randn(64, 64).split(16))
    modes = {name: module.training for name, module in net.named_modules()}
    assert len(set(modes.values())) == 2
    before = copy.deepcopy(net.state_dict())
    data: dict[str, Any] = {"calibration": batches}
    if metric == "weight":
        data = {"example": batches[0][:1]}

    def unchanged() -> None:
        assert {name: module.training for name, module in net.named_modules()} == modes
        after = net.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
        assert all(p.grad is None and p.requires_grad for p in net.parameters())

    chosen = lr.plan(net, lr.Budget(params=0.6), metric=metric, **data)
    unchanged()
    net.broken = True
    with pytest.raises(RuntimeError, match="no such luck"):
        lr.plan(net, lr.Budget(params=0.6), metric=metric, **data)
    unchanged()
    net.broken = False
    done = lr.apply_(net, chosen)
    for name in chosen.factorized:
        assert all(module.training for module in net.get_submodule(name).modules())
    assert done.layers and not net.norm.training and not net.drop.training


def test_layers_without_a_shape_are_refused_with_the_remedy_and_stay_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.LazyLinear(10))
    for act in (
        lambda: lr.plan(net, lr.Budget(params=0.5), X),
        lambda: lr.compress_(net, lr.Budget(params=0.5), calibration=[X, X, X, X]),
        lambda: lr.analyze(net, X),
    ):
        with pytest.raises(LowRankError, match=r"2\.weight has no shape yet: run the network once"):
            act()
        assert type(net[2]) is nn.LazyLinear
        assert isinstance(net[2].weight, nn.parameter.UninitializedParameter)
    net(X)
    assert lr.plan(net, lr.Budget(params=0.5), X).factorized


def test_without_an_example_or_calibration_the_remedy_is_named() -> None:
    with pytest.raises(LowRankError, match=r"give an example \(a batch of one\), or calibration"):
        lr.plan(mlp(), lr.Budget(params=0.5))
