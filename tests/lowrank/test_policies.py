"""Policies on candidates made by hand and on real spectra; the contract of all of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from pipeline.lowrank.candidate import Candidate, dense_candidate, pareto_front
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import candidates_of, make_methods
from pipeline.lowrank.policies import (
    POLICIES,
    Budget,
    Compute,
    Energy,
    Error,
    Option,
    Policy,
    Totals,
    make_policy,
)
from pipeline.lowrank.spectrum import analyze_weight
from pipeline.lowrank.target import Target

OPTIONS: dict[str, Any] = {
    "energy": 0.8,
    "relative_error": 0.5,
    "compression_ratio": 2.5,
    "budget": 0.5,
    "cost": "params",
    "scope": "network",
    "error_scale": "relative",
}
SHAPES = [(20, 30), (64, 16), (12, 8, 3, 3), (9, 9), (1, 40), (30, 1)]


def real_options(seed: int = 0) -> dict[str, Option]:
    generator = torch.Generator().manual_seed(seed)
    methods = make_methods(["svd", "tucker2"])
    options = {}
    for index, shape in enumerate(SHAPES):
        weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
        weight.flatten(1).mul_(torch.linspace(1, 0.1, weight.flatten(1).shape[1]) ** 3)
        positions = 5 if len(shape) == 4 else 1
        kind = "conv2d" if len(shape) == 4 else "linear"
        target = Target(f"layer{index}", kind, shape, True, positions, positions)
        spectra = analyze_weight(weight)
        found = candidates_of(target, weight, spectra, ["svd", "tucker2"], methods)
        options[target.name] = Option(
            target, spectra.squared_norm, [dense_candidate(target), *found]
        )
    return options


def totals_of(options: dict[str, Option], rest: int = 100) -> Totals:
    return Totals(
        rest + sum(o.dense.params for o in options.values()),
        rest + sum(o.dense.macs for o in options.values()),
    )


def spent(options: dict[str, Option], policy: Policy) -> int:
    totals = totals_of(options)
    choices = policy.select(options, totals).choices
    return totals.cost(policy.cost) + sum(
        choices[n].candidate.cost(policy.cost) - o.dense.cost(policy.cost)
        for n, o in options.items()
    )


def error(options: dict[str, Option], policy: Policy) -> float:
    choices = policy.select(options, totals_of(options)).choices
    return sum(o.relative_squared(choices[n].candidate) for n, o in options.items())


@pytest.mark.parametrize("cost", ["params", "macs"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_chooses_a_listed_candidate_for_every_target(name: str, cost: str) -> None:
    options = real_options()
    policy = make_policy({**OPTIONS, "policy": name, "cost": cost})
    assert (policy.name, policy.cost) == (name, cost)
    selection = policy.select(options, totals_of(options))
    assert list(selection.choices) == list(options)
    for target, choice in selection.choices.items():
        assert choice.candidate in options[target].candidates
        assert choice.why
    assert any(c.candidate.method != "dense" for c in selection.choices.values())


def test_energy_and_error_are_two_words_for_the_same_rank() -> None:
    options = real_options()
    totals = totals_of(options)
    by_energy = Energy(0.84).select(options, totals)
    by_error = Error(0.4).select(options, totals)
    for name in options:
        assert by_energy.choices[name].candidate == by_error.choices[name].candidate


@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.95])
def test_energy_takes_the_least_rank_that_keeps_it(threshold: float) -> None:
    options = {"layer0": real_options()["layer0"]}
    chosen = Energy(threshold).select(options, totals_of(options)).choices["layer0"].candidate
    option = options["layer0"]
    assert 1 - option.relative_squared(chosen) >= threshold
    smaller = [c for c in option.candidates if c.params < chosen.params]
    assert smaller
    assert all(1 - option.relative_squared(c) < threshold for c in smaller)


def exact_rank(rank: int) -> dict[str, Option]:
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(30, rank, generator=generator, dtype=torch.float64)
    weight = left @ torch.randn(rank, 40, generator=generator, dtype=torch.float64)
    target = Target("w", "linear", (30, 40), False, 1, 1)
    spectra = analyze_weight(weight)
    found = candidates_of(target, weight, spectra, ["svd"], make_methods(["svd"]))
    return {"w": Option(target, spectra.squared_norm, [dense_candidate(target), *found])}


@pytest.mark.parametrize("policy", [Energy(1.0), Error(0.0)], ids=["τ=1", "ε=0"])
def test_the_extreme_thresholds_find_the_exact_rank(policy: Policy) -> None:
    options = exact_rank(4)
    assert policy.select(options, totals_of(options)).choices["w"].candidate.ranks == (4,)


def test_a_weight_of_zeros_takes_the_smallest_rank() -> None:
    weight = torch.zeros(8, 9, dtype=torch.float64)
    target = Target("w", "linear", (8, 9), False, 1, 1)
    spectra = analyze_weight(weight)
    found = candidates_of(target, weight, spectra, ["svd"], make_methods(["svd"]))
    options = {"w": Option(target, 0.0, [dense_candidate(target), *found])}
    for policy in (Energy(1.0), Error(0.0), Budget(params=0.9)):
        chosen = policy.select(options, totals_of(options)).choices["w"].candidate
        assert chosen.squared_error == 0.0
    assert Energy(1.0).select(options, totals_of(options)).choices["w"].candidate.ranks == (1,)


def test_a_vector_stays_dense_and_the_plan_says_why() -> None:
    options = {n: o for n, o in real_options().items() if 1 in o.target.shape}
    assert len(options) == 2
    for policy in (Energy(0.5), Compute(2.0), Budget(params=1.0)):
        for choice in policy.select(options, totals_of(options)).choices.values():
            assert choice.candidate.method == "dense"
            assert "below break-even" in choice.why


def test_compute_keeps_no_more_than_its_share_of_every_layer() -> None:
    options = real_options()
    for name, choice in Compute(2.5).select(options, totals_of(options)).choices.items():
        option = options[name]
        if choice.candidate.method != "dense":
            assert choice.candidate.params <= option.dense.params / 2.5
            better = [
                c
                for c in option.candidates
                if c.params <= option.dense.params / 2.5
                and c.squared_error < choice.candidate.squared_error
            ]
            assert not better


def test_compute_at_an_impossible_ratio_takes_rank_one_and_says_so() -> None:
    options = {"layer0": real_options()["layer0"]}
    choice = Compute(1000.0).select(options, totals_of(options)).choices["layer0"]
    assert choice.candidate.ranks == (1,)
    assert "smallest rank there is" in choice.why


@pytest.mark.parametrize("scope", ["network", "targets"])
@pytest.mark.parametrize("kept", [0.25, 0.4, 0.7, 0.999, 1.0])
@pytest.mark.parametrize("cost", ["params", "macs"])
def test_a_budget_is_never_exceeded(cost: str, kept: float, scope: str) -> None:
    options = real_options()
    policy = Budget(**{cost: kept}, scope=scope)  # type: ignore[arg-type]
    rest = 100 if scope == "targets" else 0
    whole = totals_of(options).cost(policy.cost) - rest
    assert spent(options, policy) - rest <= kept * whole


def test_a_larger_budget_is_never_worse() -> None:
    options = real_options()
    errors = [error(options, Budget(params=kept)) for kept in (0.2, 0.3, 0.45, 0.6, 0.8, 1.0)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(errors))
    assert errors[0] > 0.05
    assert errors[-1] == 0.0


def test_a_budget_beats_the_same_cost_layer_by_layer() -> None:
    options = real_options()
    uniform = Compute(2.5)
    kept = spent(options, uniform) / totals_of(options).params
    assert error(options, Budget(params=kept)) < error(options, uniform)


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_bounds_the_distance_to_the_best_plan(seed: int) -> None:
    """Against brute force over all combinations of three small layers."""
    options = {n: o for n, o in real_options(seed).items() if n in ("layer0", "layer2", "layer3")}
    options = {
        n: Option(o.target, o.squared_norm, pareto_front(o.candidates, "params")[-1:] + fewer(o))
        for n, o in options.items()
    }
    for kept in (0.3, 0.5, 0.7):
        policy = Budget(params=kept, scope="targets")
        allowed = policy.allowance(options, totals_of(options))
        best = min(
            sum(o.relative_squared(c) for o, c in zip(options.values(), combination, strict=True))
            for combination in itertools.product(*(o.candidates for o in options.values()))
            if sum(c.params for c in combination) <= allowed
        )
        selection = policy.select(options, totals_of(options))
        found = error(options, policy)
        assert selection.optimality_gap is not None
        assert found >= best - 1e-12
        assert found * (1 - selection.optimality_gap) <= best + 1e-12


def fewer(option: Option) -> list[Candidate]:
    front = [c for c in pareto_front(option.candidates, "params") if c.method != "dense"]
    return front[:: max(1, len(front) // 12)]


def test_a_budget_below_the_floor_names_the_smallest_possible() -> None:
    options = real_options()
    with pytest.raises(LowRankError, match=r"budget of 0\.02 of the params cannot be met") as info:
        Budget(params=0.02).select(options, totals_of(options))
    least = float(str(info.value).rpartition("at least ")[2].split(",")[0])
    Budget(params=least).select(options, totals_of(options))
    with pytest.raises(LowRankError):
        Budget(params=least - 0.002).select(options, totals_of(options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "energy", "energy": 0.0}, r"energy is 0\.0: choose a fraction in \(0, 1\]"),
        ({"policy": "energy", "energy": 1.5}, r"energy is 1\.5"),
        ({"policy": "energy", "energy": float("nan")}, r"energy is nan"),
        ({"policy": "error", "relative_error": -0.1}, r"relative_error is -0\.1: choose"),
        ({"policy": "compute", "compression_ratio": 1.0}, r"compression_ratio is 1\.0: choose"),
        ({"policy": "budget", "budget": 0.0}, r"budget is 0\.0: choose a kept fraction"),
        ({"policy": "budget", "budget": 1.01}, r"budget is 1\.01"),
        ({"policy": "budget", "scope": "layer"}, r"scope is 'layer': choose"),
        ({"policy": "budget", "error_scale": "log"}, r"error_scale is 'log': choose"),
        ({"policy": "energy", "cost": "flops"}, r"cost is 'flops': choose"),
        ({"policy": "enrgy"}, r"unknown policy 'enrgy': did you mean 'energy'\?"),
        ({"policy": "xyz"}, r"unknown policy 'xyz': known are energy, error, compute, budget"),
    ],
)
def test_bad_options_name_the_value_and_the_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        make_policy({**OPTIONS, **options})
