"""One budget over narrower dimensions and single layers: what is chosen, what it costs, and what is
refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank import LowRankError
from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.factorize.deciding import plan_in_file
from pipeline.lowrank.methods import with_matrices
from pipeline.lowrank.methods.interpolative import after_narrowing, then
from pipeline.lowrank.network.costs import CostUnit, network_totals
from pipeline.lowrank.planning import narrowing
from pipeline.lowrank.planning.making import make_plan
from pipeline.lowrank.planning.narrowing import NARROWED
from pipeline.lowrank.planning.offers import make_offers, without_factors
from tests.lowrank.inner_cases import named

BOTH = (lr.PivotedTucker2(), lr.Interpolative())
CASE = named("residual CNN")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    net, inputs = CASE.network(torch.float32), CASE.inputs(dtype=torch.float32)
    chosen = lr.AnalysisOptions(metric="fisher")
    return lr.analyze(net, inputs[:1], calibration=list(inputs.split(16)), chosen=chosen)


def network() -> nn.Module:
    return CASE.network(torch.float32)


def total_error(plan: lr.Plan) -> float:
    found = plan.expected.loss_increase
    assert found is not None
    return found


@pytest.mark.parametrize("unit", ["params", "macs", "bytes"])
@pytest.mark.parametrize("kept", [0.8, 0.4])
def test_a_budget_holds_and_both_kinds_are_no_worse_than_one(
    analysis: Analysis, unit: CostUnit, kept: float
) -> None:
    policy = lr.Budget(**{unit: kept}, error_scale="absolute", allocation="exact")
    plans = {
        len(methods): lr.plan_from(network(), analysis, policy, methods=methods)
        for methods in (BOTH, BOTH[:1])
    }
    both, alone = plans[2], plans[1]
    net = network()
    done = lr.apply_(net, both)
    assert network_totals(net, CASE.inputs(1, torch.float32)) == done.totals
    assert done.totals.cost(unit) <= kept * analysis.totals.cost(unit)
    assert total_error(both) <= total_error(alone) * (1 + 1e-9)
    assert both.widths and not alone.widths
    assert both.uniform is not None
    assert both.uniform.expected.planned.cost(unit) <= done.totals.cost(unit)
    assert all(layer.why for layer in both.layers.values())


def test_narrowed_layers_are_factorized_too_where_that_is_better(
    analysis: Analysis, tmp_path: Path
) -> None:
    """Width and ranks are chosen together: no more error than with either of them alone, and the
    plan's file builds the same network."""
    policy = lr.Budget(params=0.25, error_scale="absolute")
    plan = lr.plan_from(network(), analysis, policy, methods=BOTH)
    both = {n: one for n, one in plan.layers.items() if after_narrowing(one.method)}
    assert both
    for one in both.values():
        assert len(one.ranks) > 1
        assert one.why.startswith(f"{one.ranks[0]} of the ")
    narrowing, known = plan.narrowing, with_matrices(BOTH[:1])
    assert narrowing is not None
    offers = make_offers(
        analysis, analysis.whitened(network()), ["pivoted_tucker2"], known, "params"
    )
    apart = make_plan(analysis, offers, policy, known, narrowing=narrowing)
    assert not any(after_narrowing(one.method) for one in apart.layers.values())
    assert total_error(plan) < total_error(apart)
    lr.save_plan(tmp_path / "plan.json", plan)
    read, told = plan_in_file(network(), analysis, tmp_path / "plan.json")
    assert not told
    nets = [network(), network()]
    for net, chosen in zip(nets, (plan, read), strict=True):
        lr.apply_(net, chosen, analysis)
    inputs = CASE.inputs(dtype=torch.float32)
    assert torch.equal(nets[0](inputs), nets[1](inputs))
    lr.save(nets[0], tmp_path)
    again = lr.load_(network(), tmp_path)
    assert torch.equal(again(inputs), nets[0](inputs))


def test_narrower_dimensions_alone(analysis: Analysis) -> None:
    plan = lr.plan_from(network(), analysis, lr.Budget(params=0.5), methods=[lr.Interpolative()])
    assert {layer.method for layer in plan.factorized.values()} == {NARROWED}
    assert set(plan.widths) == set(CASE.found)
    assert "no method for single layers" in plan.layers["stem.0"].why


def test_a_layer_that_no_factors_were_offered_says_why(analysis: Analysis) -> None:
    known = with_matrices([lr.PivotedSVD()])
    weights = analysis.whitened(network())
    offers = make_offers(analysis, weights, ["pivoted_svd"], known, "params")
    assert any(len(offer.candidates) > 1 for offer in offers.values())
    for offer in without_factors(offers, "for a reason").values():
        assert offer.settled is not None
        assert offer.settled.why == "dense: for a reason"


def test_width_only_leaves_factors_to_the_layers_of_no_dimension() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 20)]
    net, x = nn.Sequential(*layers), torch.randn(8, 20)
    methods = [lr.Interpolative(width_only=True), lr.PivotedSVD()]
    plan = lr.plan(net, lr.Budget(params=0.4), x, methods=methods)
    assert plan.narrowing is not None
    inside = {m.layer for one in plan.narrowing.found.values() for m in one.layers}
    assert 0 < len(inside) < len(plan.layers)
    for name, layer in plan.layers.items():
        assert layer.method == (NARROWED if name in inside else "pivoted_svd")
    large = lr.plan(net, lr.Budget(params=1.0), x, methods=methods)
    assert all("keeps all channels" in large.layers[name].why for name in inside)


def test_widths_are_multiples_of_what_is_asked_for(analysis: Analysis) -> None:
    methods = [lr.Interpolative(width_multiple_of=4)]
    plan = lr.plan_from(network(), analysis, lr.Budget(params=0.6), methods=methods)
    assert plan.widths
    assert all(width % 4 == 0 for width in plan.widths.values())


def test_the_smallest_network_within_a_limit_is_no_larger(analysis: Analysis) -> None:
    sizes = [
        lr.plan_from(network(), analysis, lr.Loss(nats=0.05), methods=methods).expected.planned
        for methods in (BOTH, BOTH[:1])
    ]
    assert sizes[0].params <= sizes[1].params


def test_overrides_decide_for_their_layers(analysis: Analysis) -> None:
    overrides = {"blocks.1.conv1": lr.Override(keep="dense")}
    plan = lr.plan_from(
        network(), analysis, lr.Budget(params=0.6), methods=BOTH, overrides=overrides
    )
    assert plan.layers["blocks.1.conv1"].method == "dense"
    assert "blocks.1.conv2" not in plan.widths


def test_a_budget_that_one_kind_alone_cannot_keep() -> None:
    """Pivoted layers keep a rank of one, narrower ones a channel: at so small a budget it takes
    both, and the contest is held among those that keep it."""
    net, inputs = network(), CASE.inputs(128, torch.float32)
    policy, given = lr.Budget(params=0.15), {"calibration": list(inputs.split(32))}
    with pytest.raises(LowRankError, match="cannot be met"):
        lr.plan(net, policy, methods=[lr.Interpolative()], **given)
    plan = lr.plan(net, policy, methods=BOTH, **given)
    assert not any("no layer factorized" in one.allocation for one in plan.contest)
    assert any("no layer narrower" in one.allocation for one in plan.contest)


def test_a_contest_holds_the_layers_alone_too() -> None:
    net, inputs = network(), CASE.inputs(128, torch.float32)
    policy = lr.Budget(params=0.5)
    both, alone = (
        lr.plan(net, policy, calibration=list(inputs.split(32)), methods=methods)
        for methods in (BOTH, BOTH[:1])
    )
    measured = {one.allocation: one.measured_divergence for one in both.contest}
    without = {one.allocation: one.measured_divergence for one in alone.contest}
    assert list(measured)[:2] == ["absolute", "relative"]
    for scale in ("absolute", "relative"):
        assert measured[f"{scale}, no layer narrower"] == without[scale]
        assert f"{scale}, no layer factorized" in measured
    assert min(measured.values()) <= min(without[scale] for scale in ("absolute", "relative"))
    assert "inner dimensions that may be narrowed: 3; not those before" in " ".join(
        str(both).split()
    )


@pytest.mark.parametrize("policy", [lr.Energy(0.8), lr.Error(0.4), lr.Compute(2.0)], ids=str)
def test_a_rule_for_each_layer_holds_for_the_layers_of_a_dimension(
    analysis: Analysis, policy: lr.Energy | lr.Error | lr.Compute
) -> None:
    """Narrowing them is one more way to keep it, so that the network is no larger (energy, error),
    or errs no more at the same share of each dimension (compute)."""
    plans = [lr.plan_from(network(), analysis, policy, methods=m) for m in (BOTH, BOTH[:1])]
    both, alone = plans
    assert both.widths
    limit = {"energy": 0.2**0.5, "error": 0.4, "compute": 1.0}[policy.name] + 1e-6
    assert all(layer.relative_error <= limit for layer in both.expected.layers.values())
    if policy.name != "compute":
        assert both.expected.planned.params < alone.expected.planned.params
    assert lr.apply_(network(), both).ran
    assert all(layer.why for layer in both.layers.values())


@pytest.mark.parametrize("policy", [lr.EVBMF(), lr.Fixed(ranks=0.5)], ids=lambda one: one.name)
def test_a_policy_that_says_ranks_leaves_widths_as_they_are(
    analysis: Analysis, policy: lr.EVBMF | lr.Fixed
) -> None:
    both, alone = (lr.plan_from(network(), analysis, policy, methods=m) for m in (BOTH, BOTH[:1]))
    for name, layer in both.layers.items():
        assert (layer.method, layer.ranks) == (alone.layers[name].method, alone.layers[name].ranks)
        assert layer.why.endswith(
            f"interpolative skipped: {policy.name} says ranks, and a width is none"
        )
    with pytest.raises(LowRankError, match=rf"policy {policy.name} says ranks.*add a method"):
        lr.plan_from(network(), analysis, policy, methods=BOTH[1:])


def test_a_plan_file_builds_the_same_network(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lr.plan_from(network(), analysis, lr.Budget(params=0.5), methods=BOTH)
    assert plan.widths
    lr.save_plan(tmp_path / "plan.json", plan)
    # The file says in what order channels go, and what that costs.
    monkeypatch.delattr(narrowing, "eliminate")
    monkeypatch.delattr(narrowing, "spectra_inside")
    read, told = plan_in_file(network(), analysis, tmp_path / "plan.json")
    assert not told
    assert read.widths == plan.widths
    nets = [network(), network()]
    for net, chosen in zip(nets, (plan, read), strict=True):
        lr.apply_(net, chosen, analysis)
    inputs = CASE.inputs(dtype=torch.float32)
    assert torch.equal(nets[0](inputs), nets[1](inputs))
    text = (tmp_path / "plan.json").read_text()
    name, order = next(iter(json.loads(text)["narrowing"]["orders"].items()))
    (tmp_path / "plan.json").write_text(text.replace(order, order + " 1"))
    with pytest.raises(LowRankError, match=rf"narrowing.orders.{name}: is not each of the chan"):
        lr.load_plan(tmp_path / "plan.json")


def test_a_plan_of_a_file_is_edited_after_it_was_applied(
    analysis: Analysis, tmp_path: Path
) -> None:
    """What was as the file has it has no errors of its own; an edit asks for them."""
    plan = lr.plan_from(network(), analysis, lr.Budget(params=0.5), methods=[lr.Interpolative()])
    lr.save_plan(tmp_path / "plan.json", plan)
    read = lr.apply_(network(), lr.load_plan(tmp_path / "plan.json"), analysis).plan
    wider = lr.PlannedLayer(NARROWED, (plan.widths["blocks.1.conv2"] + 1,))
    changes = dict.fromkeys(("blocks.1.conv1", "blocks.1.conv2"), wider)
    nets = [network(), network()]
    done = [
        lr.apply_(net, one.with_layers(**changes), analysis)
        for net, one in zip(nets, (plan, read), strict=True)
    ]
    assert done[1].plan.expected.layers == done[0].plan.expected.layers
    assert done[1].layers == done[0].layers
    inputs = CASE.inputs(dtype=torch.float32)
    assert torch.equal(nets[0](inputs), nets[1](inputs))


def test_edits_are_checked(analysis: Analysis) -> None:
    plan = lr.plan_from(network(), analysis, lr.Budget(params=0.5), methods=[lr.Interpolative()])
    width = plan.widths["blocks.1.conv2"]

    def edited(**changes: tuple[str, tuple[int, ...]]) -> lr.Plan:
        return plan.with_layers(**{n: lr.PlannedLayer(*one) for n, one in changes.items()})

    pair = ("blocks.1.conv1", "blocks.1.conv2")
    done = lr.apply_(network(), edited(**dict.fromkeys(pair, (NARROWED, (width + 1,)))))
    assert any(line.startswith("blocks.1.conv2: ") for line in done.differences)
    for changes, words in (
        ({pair[0]: ("dense", ())}, "are of one inner dimension"),
        ({pair[1]: (NARROWED, (width + 1,))}, "are of one inner dimension"),
        (dict.fromkeys(pair, (then("tucker2"), (3, 99, 1))), r"out rank 99 is not in"),
        (
            dict.fromkeys(pair, (then("svd"), (3,))),
            r"takes one width in 1..7, then the ranks of svd",
        ),
        ({pair[0]: (then("tucker2"), (3, 1, 1)), pair[1]: (NARROWED, (4,))}, "are of one inner"),
        (dict.fromkeys(pair, (NARROWED, (99,))), r"takes one width in 1\.\.7, not \[99\]"),
        ({"stem.0": (NARROWED, (2,))}, "no inner dimension that it is in"),
    ):
        net = network()
        with pytest.raises(LowRankError, match=words):
            lr.apply_(net, edited(**changes))
        assert net.state_dict().keys() == network().state_dict().keys()
    with pytest.raises(LowRankError, match="no inner dimension"):
        lr.apply_(network(), replace(plan, narrowing=None))


def test_it_cannot_be_named_for_single_layers(analysis: Analysis) -> None:
    with pytest.raises(LowRankError, match="narrows several layers together"):
        lr.Override(method="interpolative")


def test_without_an_example_nothing_can_be_proven(analysis: Analysis) -> None:
    unseen = replace(analysis, example=None)
    with pytest.raises(LowRankError, match="give one"):
        lr.plan_from(network(), unseen, lr.Budget(params=0.5), methods=BOTH)
