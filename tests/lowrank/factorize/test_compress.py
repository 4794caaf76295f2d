"""Plan and surgery: decide changes nothing, act only executes, everything is checked first."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.lowrank import (
    AnalysisOptions,
    Budget,
    Energy,
    Factorized,
    LowRankError,
    apply_,
    compress_,
    load_plan,
    plan,
    save_plan,
)
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.analysis.files import load_analysis, save_analysis
from pipeline.lowrank.methods import make_method
from pipeline.lowrank.network.costs import count_params, network_totals
from pipeline.lowrank.planning.plan import Plan

EXAMPLE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual CNN with a layer used twice and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = x + self.norm(self.body(x)).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def test_planning_changes_nothing(net: Net) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    plan(net, Budget(params=0.5), EXAMPLE)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("methods", [["svd"], ["tucker2"], ["cp"], ["svd", "tucker2", "cp"]])
def test_the_built_network_costs_what_the_plan_says(net: Net, methods: list[str]) -> None:
    dense_params, dense_macs = count_params(net), network_totals(net, EXAMPLE).macs
    options = {"cp_rank_grid": 4, "cp_iterations": 30}
    given = [make_method(name, options) for name in methods]
    done = compress_(net, Budget(macs=0.4), EXAMPLE, methods=given)
    model, planned, dense = done.network, done.totals, done.plan.expected.dense
    assert model is net and not done.differences
    assert (dense.params, dense.macs) == (dense_params, dense_macs)
    assert count_params(model) == planned.params
    assert network_totals(model, EXAMPLE).macs == planned.macs <= 0.4 * dense_macs
    assert done.layers.keys() == done.plan.factorized.keys() != set()
    for name, report in done.layers.items():
        assert isinstance(model.get_submodule(name), Factorized)
        assert 0 < report.measured_relative_error < 1
        assert report.lower_bound - 1e-6 <= report.measured_relative_error
        assert report.measured_relative_error <= report.upper_bound + 1e-6
    assert torch.isfinite(model(EXAMPLE)).all()


def test_the_uniform_plan_stands_beside_and_costs_no_more(net: Net) -> None:
    chosen = plan(net, Budget(params=0.5), EXAMPLE)
    beside = chosen.uniform
    assert beside is not None
    assert beside.expected.planned.params <= chosen.expected.planned.params
    error = sum(layer.relative_error**2 for layer in chosen.expected.layers.values())
    uniform = sum(layer.relative_error**2 for layer in beside.expected.layers.values())
    assert 0 < error <= uniform


def test_energy_one_changes_no_output(net: Net) -> None:
    with torch.no_grad():  # an exactly rank-2 head and a rank-(3, 4) body
        net.head.weight.copy_(torch.randn(10, 2) @ torch.randn(2, 16))
        factors = [torch.randn(*shape) for shape in ((16, 3), (3, 4, 3, 3), (16, 4))]
        net.body.weight.copy_(torch.einsum("oa,abhw,ib->oihw", *factors))
    dense = net(EXAMPLE)
    done = compress_(net, Energy(1 - 1e-9), EXAMPLE)
    model, chosen = done.network, done.plan
    assert chosen.layers["head"].ranks == (2,)
    assert chosen.layers["body"].ranks == (3, 4)
    assert chosen.layers["stem"].method == "dense"
    assert torch.allclose(model(EXAMPLE), dense, rtol=1e-3, atol=1e-4 * dense.abs().max().item())


def test_a_root_linear_comes_back_as_the_model() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(32, 32)
    done = compress_(layer, Budget(params=0.5), torch.randn(1, 32))
    model, chosen = done.network, done.plan
    assert isinstance(model, Factorized)
    assert chosen.layers[""].method == "pivoted_svd"
    assert count_params(model) == chosen.expected.planned.params


class Both(nn.Module):
    def __init__(self, layers: nn.ModuleDict) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers["b"](self.layers["a"](x))


def test_a_module_under_two_names_is_replaced_under_both() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(32, 32)
    model = nn.ModuleDict({"a": layer, "b": layer})
    chosen = plan(Both(model), Energy(0.5), torch.randn(1, 32))
    assert list(chosen.layers) == ["layers.a"]
    apply_(Both(model), chosen)
    assert isinstance(model["a"], Factorized)
    assert model["a"] is model["b"]


def test_training_mode_and_device_dtype_survive(net: Net) -> None:
    net.train().to(torch.bfloat16)
    model = compress_(net, Energy(0.7), EXAMPLE.to(torch.bfloat16)).network
    assert all(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.fixture
def chosen(net: Net) -> Plan:
    return plan(net, Budget(params=0.5), EXAMPLE)


def test_a_plan_survives_the_disk_and_a_person(net: Net, chosen: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(path, chosen)
    read = load_plan(path)
    assert dataclasses.replace(read, uniform=None) == dataclasses.replace(chosen, uniform=None)
    assert read.uniform is not None and chosen.uniform is not None
    assert read.uniform.expected == chosen.uniform.expected
    value = json.loads(path.read_text())
    value["layers"]["body"]["ranks"] = [5, 4]
    path.write_text(json.dumps(value))
    done = apply_(net, load_plan(path), example=EXAMPLE)
    assert done.layers["body"].ranks == (5, 4)
    assert [tuple(f.shape[:2]) for f in net.body.factors] == [(4, 16), (5, 4), (16, 5)]


def edited(chosen: Plan, name: str, **changes: object) -> Plan:
    layer = dataclasses.replace(chosen.layers["body"], **changes)  # type: ignore[arg-type]
    return chosen.with_layers(**{name: layer})


def test_a_plan_that_does_not_fit_touches_nothing(net: Net, chosen: Plan) -> None:
    bad = [
        ("bodi", {}, r"names the layer 'bodi', which the model does not have"),
        ("norm", {}, r"layer 'norm' is a BatchNorm2d"),
        ("body", {"ranks": (17, 4)}, r"layer 'body'.*out rank 17 is not in 1\.\.16"),
        ("body", {"ranks": (0, 4)}, r"out rank 0 is not in 1\.\.16"),
        ("body", {"ranks": (4,)}, r"tucker2 takes two ranks"),
        ("body", {"method": "tuker2"}, r"'tuker2': did you mean 'tucker2'\?"),
        ("body", {"method": "cp", "ranks": (999,)}, r"rank 999 is not in 1\.\.144"),
        ("body", {"method": "svd", "ranks": (17,)}, r"rank 17 is not in 1\.\.16"),
    ]
    before = copy.deepcopy(net.state_dict())
    for name, changes, message in bad:
        with pytest.raises(LowRankError, match=message):
            apply_(net, edited(chosen, name, **changes))
        assert net.state_dict().keys() == before.keys()


def test_spectra_of_other_weights_violate_the_certificate(net: Net, chosen: Plan) -> None:
    other = Net()
    with torch.no_grad():
        scale = torch.linspace(9, 0.1, 16)[:, None, None, None]
        other.body.weight.copy_(scale * torch.randn(16, 16, 3, 3))
    with pytest.raises(LowRankError, match=r"outside its .* bounds"):
        apply_(net, chosen, analyze(other, EXAMPLE))


def test_an_analysis_survives_the_disk(net: Net, tmp_path: Path) -> None:
    written = analyze(net, EXAMPLE, chosen=AnalysisOptions(metric="weight", exclude=("stem",)))
    save_analysis(tmp_path, written)
    read = load_analysis(tmp_path)
    assert read.targets == written.targets
    assert read.totals == written.totals
    assert read.skipped["stem"].reason == "excluded by analyze.exclude"
    assert read.skipped == written.skipped and len(read.skipped) == 1
    facts = json.loads((tmp_path / "analysis.json").read_text())["targets"]["body"]
    assert facts["macs"] == 2 * 64 * 16 * 16 * 9
    assert 1 < facts["views"]["mode0"]["stable_rank"] <= facts["views"]["mode0"]["effective_rank"]
    (tmp_path / "analysis.json").write_text("{}")
    with pytest.raises(LowRankError, match=r"analysis\.json: metric: .*rerun analyze"):
        load_analysis(tmp_path)


def test_the_public_names_are_what_they_say_whatever_was_imported_before() -> None:
    """No exported name may be that of a submodule, which would take its place."""
    import pipeline.lowrank as public

    folder = Path(public.__file__).parent
    submodules = {p.stem for p in folder.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert submodules & set(public.__all__) == {"tasks"}
    assert public.tasks is importlib.import_module("pipeline.lowrank.tasks")
    for name in public.__all__:
        assert getattr(public, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'plann'"):
        _ = public.plann  # type: ignore[attr-defined]
