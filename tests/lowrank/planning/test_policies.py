"""The contract of all policies, and what each one promises, on real spectra."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.lowrank.analysis.diagnostics import evbmf_rank, optimal_threshold_rank
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.costs import CostUnit, Totals
from pipeline.lowrank.planning.making import uniform
from pipeline.lowrank.planning.policies import (
    EVBMF,
    POLICIES,
    Budget,
    Compute,
    Energy,
    Error,
    Fixed,
    Offer,
    OptimalThreshold,
    Policy,
    Selection,
    make_policy,
)
from pipeline.lowrank.planning.policies.ranks import at_ranks, view_shape
from tests.lowrank.planning.offer_cases import REST, offers_of, seeded_weights

UNITS: tuple[CostUnit, ...] = ("params", "macs", "bytes")
OPTIONS: dict[str, Any] = {
    "energy": 0.8,
    "relative_error": 0.5,
    "compression_ratio": 2.5,
    "nats": 5.0,
    "ranks": 0.3,
    "budget": 0.5,
    "cost_unit": "params",
    "scope": "network",
    "error_scale": "relative",
    "allocation": "greedy",
    "max_relative_error": None,
    "overrides": None,
}
# Policy → its knob, with values of rising cost. A new policy is a new row.
KNOBS: dict[str, tuple[str, list[Any]]] = {
    "energy": ("energy", [0.1, 0.5, 0.8, 0.95, 1.0]),
    "error": ("relative_error", [0.9, 0.6, 0.3, 0.1, 0.0]),
    "compute": ("compression_ratio", [20.0, 5.0, 3.0, 2.0, 1.1]),
    "loss": ("nats", [60.0, 20.0, 5.0, 1.0, 1e-6]),
    "fixed": ("ranks", [1, 2, 3, 5, 8]),
    "budget": ("budget", [0.2, 0.3, 0.45, 0.7, 1.0]),
    "evbmf": ("cost_unit", ["params"]),
    "optimal_threshold": ("cost_unit", ["params"]),
}


def only(*names: str) -> tuple[dict[str, Offer], Totals]:
    return offers_of({n: w for n, w in seeded_weights().items() if n in names})


def spent(offers: dict[str, Offer], selection: Selection, unit: CostUnit) -> int:
    return sum(o.cost(selection.choices[n].candidate, unit) for n, o in offers.items())


def error(offers: dict[str, Offer], selection: Selection) -> float:
    chosen = {n: choice.candidate for n, choice in selection.choices.items()}
    return sum(o.relative_squared(chosen[n]) for n, o in offers.items())


def zeros() -> dict[str, Tensor]:
    return {n: torch.zeros_like(w) for n, w in seeded_weights().items()}


@pytest.mark.parametrize("weights", [seeded_weights(), zeros()], ids=["real", "zero"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_gives_every_target_one_candidate_that_it_may_have(
    name: str, unit: CostUnit, weights: dict[str, Tensor]
) -> None:
    vector = {"layer4": weights["layer4"]}  # has no candidate but dense
    for chosen in (weights, {"layer0": weights["layer0"]}, vector):
        kept = 1.0 if chosen is vector else 0.5
        policy = make_policy(name, {**OPTIONS, "cost_unit": unit, "budget": kept})
        assert (policy.name, policy.cost_unit) == (name, unit)
        offers, totals = offers_of(chosen)
        selection = policy.select(offers, totals)
        assert list(selection.choices) == list(offers)
        for target, choice in selection.choices.items():
            candidate, offer = choice.candidate, offers[target]
            assert choice.why
            if candidate not in offer.candidates:  # one that another beats, but was named
                assert offer.exact is not None
                assert candidate == offer.exact(candidate.method, candidate.ranks)
                assert candidate.params < offer.dense.params
                assert candidate.macs < offer.dense.macs
        if "layer0" in offers:
            assert any(c.candidate.method != "dense" for c in selection.choices.values())
        beside = uniform(offers, unit, selection)
        assert spent(offers, beside, unit) <= spent(offers, selection, unit)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", POLICIES)
def test_the_knob_of_a_policy_turns_cost_up_and_error_down(name: str, unit: CostUnit) -> None:
    offers, totals = offers_of(seeded_weights())
    knob, values = KNOBS[name]
    found = [
        make_policy(name, {**OPTIONS, "cost_unit": unit, knob: v}).select(offers, totals)
        for v in values
    ]
    costs = [spent(offers, selection, unit) for selection in found]
    errors = [error(offers, selection) for selection in found]
    if len(values) == 1:  # no number to choose, and a rank that is neither 0 nor full
        assert 0 < costs[0] < sum(o.cost(o.dense, unit) for o in offers.values())
        return
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(errors))
    assert errors[0] > errors[-1] + 0.01
    if name != "budget":  # greedy may leave a little more of a larger budget
        assert costs == sorted(costs)
    assert costs[0] < costs[-1]


@pytest.mark.parametrize("name", ["energy", "error", "budget"])
def test_dense_is_chosen_where_no_error_is_allowed(name: str) -> None:
    offers, totals = offers_of(seeded_weights())
    knob, values = KNOBS[name]
    policy = make_policy(name, {**OPTIONS, knob: values[-1]})
    for target, choice in policy.select(offers, totals).choices.items():
        assert offers[target].relative_squared(choice.candidate) < 1e-12


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_compute_saves_what_it_is_asked_to_save(unit: CostUnit) -> None:
    """Of a layer with a bias and many positions the two units allow other ranks."""
    offers, totals = offers_of(seeded_weights())
    chosen = Compute(compression_ratio=3.0, cost_unit=unit).select(offers, totals).choices
    for name in ("layer0", "layer2"):
        offer, found = offers[name], chosen[name].candidate
        allowed = offer.cost(offer.dense, unit) / 3.0
        fitting = [c for c in offer.candidates if offer.cost(c, unit) <= allowed]
        assert found.squared_error == min(c.squared_error for c in fitting)


def test_where_no_candidate_is_below_the_named_ranks_the_layer_stays_dense() -> None:
    offers, _ = offers_of(seeded_weights())
    offer = offers["layer0"]
    bare = replace(offer, candidates=[offer.dense], exact=lambda method, ranks: None)
    choice = at_ranks(bare, {"svd": (3,)}, "params", "rule")
    assert choice.candidate == offer.dense and "no ranks up to these" in choice.why
    near = at_ranks(offer, {"svd": (19,)}, "params", "rule").candidate  # full rank costs more
    below = [c for c in offer.candidates if c.method == "svd" and c.ranks[0] <= 19]
    assert near == min(below, key=lambda c: c.squared_error)


def test_energy_and_error_are_two_words_for_the_same_rank() -> None:
    offers, totals = offers_of(seeded_weights())
    by_energy = Energy(0.84).select(offers, totals)
    by_error = Error(0.4).select(offers, totals)
    for name in offers:
        assert by_energy.choices[name].candidate == by_error.choices[name].candidate


@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.95])
def test_energy_takes_the_least_rank_that_keeps_it(threshold: float) -> None:
    offers, totals = only("layer0")
    chosen = Energy(threshold).select(offers, totals).choices["layer0"].candidate
    offer = offers["layer0"]
    assert 1 - offer.relative_squared(chosen) >= threshold
    smaller = [c for c in offer.candidates if c.params < chosen.params]
    assert smaller
    assert all(1 - offer.relative_squared(c) < threshold for c in smaller)


def planted(shape: tuple[int, ...], rank: int, noise: float = 0.0) -> Tensor:
    """Both unfoldings have this rank, all directions stand well out of the noise."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(rank, rank, *shape[2:], generator=generator, dtype=torch.float64)
    if len(shape) == 2:
        weight = torch.linspace(2, 1, rank, dtype=torch.float64).diag()
    for mode in (0, 1):
        side = torch.linalg.qr(
            torch.randn(shape[mode], rank, generator=generator, dtype=torch.float64)
        ).Q
        weight = torch.tensordot(side, weight, dims=([1], [mode])).movedim(0, mode)
    return weight + noise * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("policy", [Energy(1.0), Error(0.0)], ids=["τ=1", "ε=0"])
def test_the_extreme_thresholds_find_the_exact_rank(policy: Policy) -> None:
    offers, totals = offers_of({"w": planted((30, 40), 4)})
    assert policy.select(offers, totals).choices["w"].candidate.ranks == (4,)


def test_a_weight_of_zeros_takes_the_smallest_rank() -> None:
    offers, totals = offers_of({"w": torch.zeros(8, 9, dtype=torch.float64)})
    for policy in (Energy(1.0), Error(0.0), Budget(params=0.9), EVBMF(), OptimalThreshold()):
        chosen = policy.select(offers, totals).choices["w"].candidate
        assert (chosen.squared_error, chosen.ranks) == (0.0, (1,))


def test_a_vector_stays_dense_and_the_plan_says_why() -> None:
    offers, totals = only("layer4", "layer5")
    assert len(offers) == 2
    for policy in (Energy(0.5), Compute(2.0), Budget(params=1.0), EVBMF(), Fixed(1)):
        for choice in policy.select(offers, totals).choices.values():
            assert choice.candidate.method == "dense"
            assert "below break-even" in choice.why


def test_compute_keeps_no_more_than_its_share_of_every_layer() -> None:
    offers, totals = offers_of(seeded_weights())
    for name, choice in Compute(2.5).select(offers, totals).choices.items():
        offer = offers[name]
        if choice.candidate.method != "dense":
            assert choice.candidate.params <= offer.dense.params / 2.5
            better = [
                c
                for c in offer.candidates
                if c.params <= offer.dense.params / 2.5
                and c.squared_error < choice.candidate.squared_error
            ]
            assert not better


def test_compute_at_an_impossible_ratio_takes_rank_one_and_says_so() -> None:
    offers, totals = only("layer0")
    choice = Compute(1000.0).select(offers, totals).choices["layer0"]
    assert choice.candidate.ranks == (1,)
    assert "smallest rank there is" in choice.why


# -- ranks above the noise -----------------------------------------------------------------


@pytest.mark.parametrize("policy", [EVBMF(), OptimalThreshold()], ids=lambda p: p.name)
def test_ranks_above_the_noise_are_the_planted_ones_in_every_view(policy: Policy) -> None:
    weights = {"matrix": planted((60, 90), 7, 0.02), "kernel": planted((40, 30, 3, 3), 5, 0.02)}
    offers, totals = offers_of(weights, ("tucker2",))
    choices = policy.select(offers, totals).choices
    assert choices["matrix"].candidate.ranks == (7,)
    assert choices["kernel"].candidate.ranks == (5, 5)
    assert f"{policy.name}: tucker2 5×5" in choices["kernel"].why


@pytest.mark.parametrize(
    ("policy", "rank_of"), [(EVBMF(), evbmf_rank), (OptimalThreshold(), optimal_threshold_rank)]
)
def test_tucker2_takes_the_rank_of_each_unfolding_also_where_another_pair_is_better(
    policy: Policy, rank_of: Any
) -> None:
    """Kim et al. 2016; the unfoldings are decomposed anew here."""
    generator = torch.Generator().manual_seed(3)
    kernel = planted((40, 30, 3, 3), 4, 0.02)
    kernel[:, :9] += 0.3 * torch.randn(40, 9, 3, 3, generator=generator, dtype=torch.float64)
    expected = []
    for mode in (0, 1):
        matrix = kernel.movedim(mode, 0).flatten(1)
        expected.append(rank_of(torch.linalg.svdvals(matrix), tuple(matrix.shape)))
    offers, totals = offers_of({"w": kernel}, ("tucker2",))
    chosen = policy.select(offers, totals).choices["w"].candidate
    assert list(chosen.ranks) == expected
    assert expected[0] != expected[1]


def test_pure_noise_keeps_rank_one_and_says_so() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(50, 60, generator=generator, dtype=torch.float64)
    offers, totals = offers_of({"w": noise})
    choice = OptimalThreshold().select(offers, totals).choices["w"]
    assert choice.candidate.ranks == (1,)
    assert "all noise" in choice.why


def test_a_method_without_views_is_skipped_or_refused() -> None:
    kernel = {"w": planted((12, 10, 3, 3), 3, 0.02)}
    offers, totals = offers_of(kernel, ("cp", "tucker2"))
    choice = EVBMF().select(offers, totals).choices["w"]
    assert choice.candidate.method == "tucker2"
    assert "cp skipped" in choice.why
    offers, totals = offers_of(kernel, ("cp",))
    with pytest.raises(LowRankError, match=r"layer 'w': evbmf reads ranks off spectra, and cp"):
        EVBMF().select(offers, totals)


def test_the_shapes_of_the_views_are_those_of_the_unfoldings() -> None:
    weight = torch.zeros(12, 8, 3, 5)
    for mode in range(4):
        unfolding = weight.movedim(mode, 0).flatten(1)
        assert view_shape(weight.shape, f"mode{mode}") == tuple(unfolding.shape)
    assert view_shape((20, 30), "mode1") == (30, 20)
    spatial = weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    assert view_shape(weight.shape, "spatial") == tuple(spatial.shape)


# -- given ranks ---------------------------------------------------------------------------


def ranks_under(ranks: Any, methods: tuple[str, ...] = ("tucker2",)) -> dict[str, Any]:
    offers, totals = offers_of(seeded_weights(), methods)
    choices = Fixed(ranks).select(offers, totals).choices
    return {n: c.candidate.ranks for n, c in choices.items() if c.candidate.method != "dense"}


def test_given_ranks_are_taken_exactly() -> None:
    assert ranks_under(4) == {
        "layer0": (4,),
        "layer1": (4,),
        "layer2": (4, 4),
        "layer3": (4,),
    }
    # Full ranks 20, 16, (12, 8), 9; a third of them rounded down.
    assert ranks_under(0.34) == {
        "layer0": (6,),
        "layer1": (5,),
        "layer2": (4, 2),
        "layer3": (3,),
    }
    given = {"layer[01]": 7, "layer2": [2, 7], "*": [1]}
    assert ranks_under(given) == {
        "layer0": (7,),
        "layer1": (7,),
        "layer2": (2, 7),
        "layer3": (1,),
    }
    assert ranks_under({"layer2": [6]}, ("cp", "tucker2")) == {"layer2": (6,)}
    assert ranks_under({"layer0": 3}) == {"layer0": (3,)}, "what no pattern names stays dense"


def test_ranks_above_break_even_become_the_nearest_below_it() -> None:
    """Tucker-2 of 12 × 12 × 3 × 3 at ranks 11 costs 1353 parameters, the kernel 1296."""
    offers, totals = offers_of({"w": planted((12, 12, 3, 3), 11, 0.001)}, ("tucker2",))
    choice = Fixed(11).select(offers, totals).choices["w"]
    assert "ranks given (11): tucker2 11×11 is not below break-even; nearest that is" in choice.why
    below = [c for c in offers["w"].candidates if c.ranks and max(c.ranks) <= 11]
    assert choice.candidate == min(below, key=lambda c: c.squared_error)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"layr0": 3}, r"the pattern 'layr0' matches no layer.*did you mean 'layer0'\?"),
        ({"layer0": [21]}, r"layer 'layer0' \(20 × 30\): rank 21 is not in 1\.\.20"),
        ({"layer2": [13, 2]}, r"out rank 13 is not in 1\.\.12"),
        ({"layer0": [2, 2]}, r"layer 'layer0': ranks \[2, 2\] suit none of its methods \(svd\)"),
    ],
)
def test_given_ranks_that_do_not_fit_are_refused(ranks: Any, message: str) -> None:
    with pytest.raises(LowRankError, match=message):
        ranks_under(ranks)


# -- one budget ----------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ["greedy", "exact"])
@pytest.mark.parametrize("scope", ["network", "targets"])
@pytest.mark.parametrize("kept", [0.25, 0.4, 0.7, 0.999, 1.0])
@pytest.mark.parametrize("unit", UNITS)
def test_a_budget_is_never_exceeded(
    unit: CostUnit, kept: float, scope: Any, allocation: Any
) -> None:
    offers, totals = offers_of(seeded_weights())
    policy = Budget(**{unit: kept}, scope=scope, allocation=allocation)
    selection = policy.select(offers, totals)
    rest = REST if scope == "network" else 0
    whole = sum(o.cost(o.dense, unit) for o in offers.values()) + rest
    assert totals.cost(unit) == whole - rest + REST
    assert spent(offers, selection, unit) + rest <= kept * whole
    assert selection.optimality_gap is not None
    assert 0.0 <= selection.optimality_gap <= 1.0
    assert kept > 0.4 or selection.optimality_gap < 0.15  # of four layers


def test_bytes_count_the_number_format_of_each_layer() -> None:
    """Halving the bytes cuts the wide numbers, where parameters would be cut alike."""
    weight = seeded_weights()["layer0"]
    offers, totals = offers_of({"half": weight, "single": weight})
    assert [o.target.bytes_per_param for o in offers.values()] == [2, 4]
    choices = Budget(bytes=0.6).select(offers, totals).choices
    costs = {n: c.candidate.params for n, c in choices.items()}
    assert costs["single"] < costs["half"]
    equal = Budget(params=0.6).select(offers, totals).choices
    assert abs(equal["single"].candidate.params - equal["half"].candidate.params) <= 50


def test_a_budget_beats_the_same_cost_layer_by_layer() -> None:
    offers, totals = offers_of(seeded_weights())
    alike = Compute(2.5).select(offers, totals)
    dense = sum(o.dense.params for o in offers.values())
    kept = (totals.params - dense + spent(offers, alike, "params")) / totals.params
    together = Budget(params=kept).select(offers, totals)
    assert error(offers, together) < error(offers, alike)


@pytest.mark.parametrize("unit", UNITS)
def test_exact_is_never_worse_than_greedy_and_both_respect_the_bound(unit: CostUnit) -> None:
    offers, totals = offers_of(seeded_weights())
    better = 0
    for kept in (0.2, 0.25, 0.33, 0.4, 0.5, 0.6):
        found, gaps = [], []
        for allocation in ("greedy", "exact"):
            policy = Budget(**{unit: kept}, allocation=allocation)  # type: ignore[arg-type]
            selection = policy.select(offers, totals)
            assert selection.optimality_gap is not None
            found.append(error(offers, selection))
            gaps.append(found[-1] * (1 - selection.optimality_gap))
        assert found[1] <= found[0] + 1e-12
        assert gaps[0] == pytest.approx(gaps[1], rel=1e-9), "one bound for both"
        better += found[1] < found[0] - 1e-9
    assert better


def test_a_budget_below_the_floor_names_the_smallest_possible() -> None:
    offers, totals = offers_of(seeded_weights())
    with pytest.raises(LowRankError, match=r"budget of 0\.02 of the params cannot be met") as info:
        Budget(params=0.02).select(offers, totals)
    least = float(str(info.value).rpartition("at least ")[2].split(",")[0])
    Budget(params=least).select(offers, totals)
    with pytest.raises(LowRankError):
        Budget(params=least - 0.002).select(offers, totals)


def test_a_largest_error_bars_what_a_sum_would_sacrifice() -> None:
    offers, totals = offers_of(seeded_weights())
    free = Budget(params=0.3).select(offers, totals)
    worst = max(offers[n].relative_squared(c.candidate) for n, c in free.choices.items())
    assert worst > 0.4
    limit = 0.6
    bound = Budget(params=0.4, max_relative_error=limit).select(offers, totals)
    for name, choice in bound.choices.items():
        assert offers[name].relative_squared(choice.candidate) <= limit**2
    with pytest.raises(LowRankError, match=r"within max_relative_error=0\.6 the network") as info:
        Budget(params=0.2, max_relative_error=limit).select(offers, totals)
    least = float(str(info.value).rpartition("at least ")[2].split(",")[0])
    Budget(params=least, max_relative_error=limit).select(offers, totals)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("energy", {"energy": 0.0}, r"Energy: energy=0\.0: choose a number above 0"),
        ("energy", {"energy": 1.5}, r"energy=1\.5: choose a number of at most 1"),
        ("energy", {"energy": math.nan}, r"energy=nan: choose"),
        ("energy", {"energy": "much"}, r"energy='much': choose a number"),
        ("error", {"relative_error": -0.1}, r"relative_error=-0\.1: choose a number of at least 0"),
        ("compute", {"compression_ratio": 1.0}, r"compression_ratio=1\.0: choose .* above 1"),
        ("fixed", {"ranks": 0}, r"ranks is 0: choose a whole number ≥ 1"),
        ("fixed", {"ranks": 1.0}, r"ranks is 1\.0: choose a whole number ≥ 1"),
        ("fixed", {"ranks": {"a": []}}, r"ranks is \[\]: choose"),
        ("fixed", {"ranks": "all"}, r"ranks is 'all': choose"),
        ("fixed", {"ranks": True}, r"ranks is True: choose"),
        ("budget", {"budget": 0.0}, r"budget is 0\.0: choose a kept fraction"),
        ("budget", {"budget": 1.01}, r"budget is 1\.01"),
        ("budget", {"budget": math.nan}, r"budget is nan"),
        ("budget", {"scope": "layer"}, r"scope='layer': unknown; choose one of network"),
        ("budget", {"error_scale": "log"}, r"error_scale='log': unknown; choose"),
        ("budget", {"allocation": "exakt"}, r"allocation='exakt': unknown; did you mean 'exact'"),
        ("budget", {"max_relative_error": -1.0}, r"max_relative_error=-1\.0: choose"),
        ("budget", {"cost_unit": "byte"}, r"cost_unit is 'byte': did you mean 'bytes'\?"),
        (
            "energy",
            {"cost_unit": "flops"},
            r"cost_unit='flops': unknown; choose one of params, macs",
        ),
        ("evbmf", {"cost_unit": "flops"}, r"cost_unit='flops': unknown; choose"),
        ("optimal_threshold", {"cost_unit": "flops"}, r"cost_unit='flops': unknown; choose"),
        ("enrgy", {}, r"unknown policy 'enrgy': did you mean 'energy'\?"),
        ("xyz", {}, r"unknown policy 'xyz': choose one of energy, error, compute, evbmf"),
    ],
)
def test_bad_options_name_the_value_and_the_remedy(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LowRankError, match=message) as info:
        make_policy(name, {**OPTIONS, **options})
    assert "\n" not in str(info.value)
