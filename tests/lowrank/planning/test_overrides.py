"""A user's decisions for some layers are kept, and the policy spends the rest of the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.lowrank import (
    CP,
    SVD,
    Budget,
    Energy,
    Override,
    Tucker2,
    apply_,
    load_plan,
    plan,
    save_plan,
)
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import make_method
from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.planning.overrides import make_overrides, named_methods
from pipeline.lowrank.planning.policies import POLICIES, make_policy
from tests.lowrank.planning.offer_cases import REST, offers_of, seeded_weights
from tests.lowrank.planning.test_policies import OPTIONS, UNITS, error, spent

GIVEN = {
    "layer0": Override(keep="dense"),
    "layer1": Override(ranks=3),
    "layer2": Override(method="svd", ranks=[2]),
    "layer[0-2]": Override(ranks=1),  # what an earlier pattern matched is not its own
    "layer3": Override(method="svd"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_leaves_overridden_layers_as_they_were_given(name: str) -> None:
    offers, totals = offers_of(seeded_weights(), overrides=GIVEN)
    policy = make_policy(name, {**OPTIONS, "budget": 0.8})
    choices = policy.select(offers, totals).choices
    assert choices["layer0"].candidate == offers["layer0"].dense
    assert choices["layer1"].candidate.ranks == (3,)
    assert choices["layer2"].candidate.ranks == (2,)
    assert choices["layer2"].candidate.method == "svd"
    for pattern in ("layer0", "layer1", "layer2"):
        assert choices[pattern].why == f"override {pattern!r}"
    assert "override" not in choices["layer3"].why


@pytest.mark.parametrize("allocation", ["greedy", "exact"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_rest_pays_for_what_is_kept(unit: CostUnit, allocation: Any) -> None:
    free, totals = offers_of(seeded_weights())
    whole = sum(o.cost(o.dense, unit) for o in free.values()) + REST
    policy = Budget(**{unit: 0.75}, allocation=allocation)  # type: ignore[arg-type]
    at_will = policy.select(free, totals)
    cut = next(n for n, c in at_will.choices.items() if c.candidate.method != "dense")
    kept, _ = offers_of(seeded_weights(), overrides={cut: Override(keep="dense")})
    bound = policy.select(kept, totals)
    assert bound.choices[cut].candidate.method == "dense"
    for offers, selection in ((free, at_will), (kept, bound)):
        assert spent(offers, selection, unit) + REST <= 0.75 * whole
    assert error(kept, bound) > error(free, at_will)


def test_a_budget_that_overrides_use_up_names_the_smallest_possible() -> None:
    overrides = {"*": Override(keep="dense")}
    offers, totals = offers_of(seeded_weights(), overrides=overrides)
    with pytest.raises(LowRankError, match=r"keeps 1\.0000; choose at least 1\.000"):
        Budget(params=0.9).select(offers, totals)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layr0": Override(keep="dense")}, r"rank_select\.overrides: the pattern 'layr0' matches"),
        (
            {"layer0": Override(ranks=[21])},
            r"layer 'layer0' \(20 × 30\): rank 21 is not in 1\.\.20",
        ),
        ({"layer0": Override(ranks=[12])}, r"override 'layer0' gives ranks that save nothing"),
        ({"layer2": Override(method="svd", ranks=[2, 2])}, r"suit none of its methods \(svd\)"),
        (
            {"layer4": Override(ranks=1)},
            r"layer 'layer4': ranks 1 suit none of its methods \(none is",
        ),
    ],
)
def test_overrides_that_do_not_fit_are_refused(
    overrides: dict[str, Override], message: str
) -> None:
    with pytest.raises(LowRankError, match=message):
        offers_of(seeded_weights(), overrides=overrides)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": "sparse"}, r"overrides, 'stem': Override: keep='sparse': unknown; choose one of"),
        ({"kep": "dense"}, r"overrides, 'stem': Override has no option 'kep': did you mean 'keep'"),
        ({"method": "svdd"}, r"overrides, 'stem': unknown method 'svdd': did you mean 'svd'"),
        ({"ranks": 1.5}, r"overrides, 'stem': ranks is 1\.5: choose"),
        ({}, r"overrides, 'stem': an override is either keep=dense, or"),
        ({"keep": "dense", "ranks": 2}, r"overrides, 'stem': an override is either"),
    ],
)
def test_bad_overrides_name_the_pattern(given: dict[str, Any], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        make_overrides({"stem": given}, lambda name: make_method(name, {}))


def test_a_plan_with_overrides_is_built_and_comes_back_from_its_file(tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 30)
    )
    example = torch.randn(1, 3, 6, 6)
    chosen = plan(
        net,
        Energy(0.6),
        example,
        methods=[Tucker2()],
        overrides={"0": Override(keep="dense"), "2": Override(method=CP(), ranks=[11])},
    )
    beside, expected = chosen.uniform, chosen.expected
    assert beside is not None
    assert chosen.layers["0"].method == beside.layers["0"].method == "dense"
    assert (chosen.layers["2"].method, chosen.layers["2"].ranks) == ("cp", (11,))
    assert beside.layers["2"] == chosen.layers["2"]
    assert expected.dense.bytes == 4 * expected.dense.params
    assert expected.planned.bytes == 4 * expected.planned.params
    save_plan(tmp_path / "plan.json", chosen)
    read = load_plan(tmp_path / "plan.json")
    assert (read.layers, read.methods) == (chosen.layers, chosen.methods)
    done = apply_(net, chosen)
    assert sum(p.numel() for p in net.parameters()) == expected.planned.params
    assert done.layers["2"].measured_relative_error == pytest.approx(
        expected.layers["2"].relative_error, abs=1e-5
    )


def test_an_override_takes_a_method_with_its_options_or_a_name() -> None:
    assert Override(method="svd").method_name == Override(method=SVD()).method_name == "svd"
    competing = [Tucker2(hooi_iterations=0)]
    assert named_methods({"a": Override(method="tucker2")}, competing) == []
    assert named_methods({"a": Override(method="tucker2")}, []) == [Tucker2()]
    assert named_methods({"a": Override(method=Tucker2())}, []) == [Tucker2()]
    assert Override(method=Tucker2(hooi_iterations=0)).method.hooi_iterations == 0
    with pytest.raises(LowRankError, match="method is 3: give a method, or its name"):
        Override(method=3)
