"""A new policy: one file and one row of the table; all else works with it.

Thrifty: each layer takes the least error among the candidates that cost no more than the `part`
of what its cheapest and the dense one span.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from pipeline.lowrank import LowRankError
from pipeline.lowrank.network.costs import CostUnit
from pipeline.lowrank.planning.policies import POLICIES, Choice, Offer, make_policy
from pipeline.lowrank.planning.policies.base import COST_UNIT, LocalPolicy
from pipeline.lowrank.typed import knob, options
from tests.lowrank.planning import test_overrides as overrides_contract
from tests.lowrank.planning import test_policies as contract


@options
class Thrifty(LocalPolicy):
    """part: of the way from the cheapest candidate to the dense one."""

    part: float = knob(0.2, ge=0, le=1, help="thrifty: of the way from the cheapest to dense")
    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "thrifty"

    def choose(self, offer: Offer) -> Choice:
        front = offer.front(self.cost_unit)
        least, dense = (offer.cost(one, self.cost_unit) for one in (front[0], offer.dense))
        limit = least + self.part * (dense - least)
        fitting = [c for c in front if offer.cost(c, self.cost_unit) <= limit]
        return Choice(fitting[-1], f"least error at {self.part:g} of the way to dense")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one row of the table, and one of the contract's."""
    monkeypatch.setitem(POLICIES, Thrifty.name, Thrifty)
    monkeypatch.setitem(contract.KNOBS, Thrifty.name, ("part", [0.0, 0.1, 0.3, 0.6, 1.0]))


@pytest.mark.parametrize("unit", contract.UNITS)
@pytest.mark.parametrize(
    "weights", [contract.seeded_weights(), contract.zeros()], ids=["real", "zero"]
)
def test_it_keeps_the_contract_of_policies(unit: CostUnit, weights: Any) -> None:
    contract.test_every_policy_gives_every_target_one_candidate_that_it_may_have(
        Thrifty.name, unit, weights
    )


@pytest.mark.parametrize("unit", contract.UNITS)
def test_its_knob_turns_cost_up_and_error_down(unit: CostUnit) -> None:
    contract.test_the_knob_of_a_policy_turns_cost_up_and_error_down(Thrifty.name, unit)


def test_it_leaves_overridden_layers_alone() -> None:
    overrides_contract.test_every_policy_leaves_overridden_layers_as_they_were_given(Thrifty.name)


def test_slips_in_it_are_told() -> None:
    for act, message in (
        (lambda: Thrifty(prat=0.3), "Thrifty has no option 'prat': did you mean 'part'"),  # type: ignore[call-arg]
        (lambda: Thrifty(2.0), "Thrifty: part=2.0: choose a number of at most 1"),
        (lambda: make_policy("thrifti", {}), "unknown policy 'thrifti': did you mean 'thrifty'"),
    ):
        with pytest.raises(LowRankError) as info:
            act()
        assert message in str(info.value)


def test_it_is_planned_applied_and_read_back_like_any_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 32)), torch.randn(64, 48)
    policy = make_policy("thrifty", {"part": 0.3, "energy": 0.9, "cost_unit": "macs"})
    assert policy == Thrifty(part=0.3, cost_unit="macs")
    chosen = lr.plan(net, policy, calibration=list(x.split(16)))
    assert chosen.factorized and chosen.contest == ()
    assert all("0.3 of the way" in layer.why for layer in chosen.factorized.values())
    lr.save_plan(tmp_path / "plan.json", chosen)
    assert lr.load_plan(tmp_path / "plan.json").policy == policy
    assert "thrifty (part=0.3, cost_unit=macs)" in str(chosen)
    assert lr.apply_(net, chosen).layers.keys() == chosen.factorized.keys()
