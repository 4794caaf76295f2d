"""The sections that gather options: each is declared once, in the class that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import CP, METHODS, Tucker2
from pipeline.lowrank.methods.options import MethodsOptions, with_options_of
from pipeline.lowrank.planning.options import RankSelectOptions
from pipeline.lowrank.planning.policies import POLICIES, Budget, Energy
from pipeline.lowrank.typed import knob, knob_names, options, options_from


@options
class First:
    size: int = knob(default=3, ge=1, help="a size")
    hidden: int = knob(default=0, help="not of the section")


@options
class Second:
    size: int = knob(default=5, ge=1, help="the same size")
    share: float = knob(default=0.5, gt=0, le=1, help="a share")


def test_options_of_several_classes_become_one_section() -> None:
    @options
    @with_options_of([First, Second], without=("hidden",))
    class Section:
        name: str = knob(default="own", help="a name")

    assert knob_names(Section) == ["name", "size", "share"]
    assert vars(options_from(Section, {"share": 1}, "section")) == {
        "name": "own",
        "size": 3,
        "share": 1.0,
    }
    with pytest.raises(LowRankError, match=r"section\.size=0: choose a number of at least 1"):
        options_from(Section, {"size": 0}, "section")


def test_every_option_of_methods_and_policies_can_be_configured() -> None:
    methods, rank_select = knob_names(MethodsOptions), knob_names(RankSelectOptions)
    for method in METHODS.values():
        assert {*knob_names(method)} - {"seed"} <= {*methods}
    for policy in POLICIES.values():
        assert {*knob_names(policy)} - {"params", "macs", "bytes", "latency"} <= {*rank_select}


def test_a_section_makes_what_it_names() -> None:
    plain = {"names": ["cp", "tucker2"], "cp_slack": 0.5, "hooi_iterations": 2}
    section = options_from(MethodsOptions, plain, "methods")
    assert section.made("cp", 7) == CP(cp_slack=0.5, seed=7)
    assert section.made("tucker2", 7) == Tucker2(hooi_iterations=2)


def test_a_policy_or_a_plan_decides(tmp_path: Path) -> None:
    chosen = options_from(RankSelectOptions, {"policy": "energy", "energy": 0.5}, "rank_select")
    assert chosen.to_policy() == Energy(energy=0.5) and chosen.plan is None
    plain = {"policy": "budget", "budget": 0.25, "cost_unit": "macs"}
    assert options_from(RankSelectOptions, plain, "").to_policy() == Budget(macs=0.25)
    plain = {"policy": "file", "path": "p.json"}
    assert options_from(RankSelectOptions, plain, "").plan == Path("p.json")
