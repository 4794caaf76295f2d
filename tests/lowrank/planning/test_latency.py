"""Latency as a cost: tables, steps and forms of a device that the test makes up, and real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.survey import survey
from pipeline.lowrank.network.inner.finding import find_inner
from pipeline.lowrank.planning.timing import clock as clocks
from pipeline.lowrank.planning.timing import table as tables
from pipeline.lowrank.planning.timing.calls import calls_of
from pipeline.lowrank.planning.timing.clock import Clock
from pipeline.lowrank.planning.timing.device import device_of
from pipeline.lowrank.planning.timing.measuring import Quickest, Stopwatch, quickest
from pipeline.lowrank.planning.timing.table import Table, measured_table
from pipeline.lowrank.planning.timing.workload import Workload
from tests.lowrank.network.expert_kinds import Experts, Mixture

DEVICE = device_of(torch.device("cpu"))
Cost = Callable[[nn.Module], float]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path))
    return tmp_path / "latency"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


BATCH = torch.randn(4, 32, 2, 2, generator=torch.Generator().manual_seed(0))


def by_macs(layer: nn.Module) -> float:
    """Nanoseconds in proportion to the products of a layer's own weights, in blocks of 16."""
    time = 0.0
    for module in layer.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            outputs, *others = module.weight.shape
            time += -(-outputs // 16) * 16 * float(torch.Size(others).numel())
    return time


def slow_to_move(layer: nn.Module) -> float:
    """Moving channels takes far longer than multiplying them."""
    pivots = sum(type(m).__name__.startswith("Pivoted") for m in layer.modules())
    return by_macs(layer) + 1e9 * pivots


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cost], None]:
    """Makes a device up on which a layer takes what `cost` says, and a network the sum of it."""

    def make(cost: Cost) -> None:
        def of(run: Any) -> float:
            return cost(run.args[0]) + 1.0

        def quickest_of(runs: Sequence[Any]) -> Quickest:
            return Quickest(tuple(round(of(run)) for run in runs), busy=False)

        def whole(watch: Stopwatch) -> int:
            found = sum(cost(layer) + 1.0 for layer in watch._layers.values())
            return round(found) + 1000  # of what is in no layer

        def layers(watch: Stopwatch) -> dict[str, int]:
            return {name: round(cost(one) + 1.0) for name, one in watch._layers.items()}

        monkeypatch.setattr(tables, "quickest", quickest_of)
        monkeypatch.setattr(clocks, "take_turns", lambda watches: None)
        monkeypatch.setattr(Stopwatch, "whole", property(whole))
        monkeypatch.setattr(Stopwatch, "layers", layers)

    return make


def made(budget: lr.Budget, *methods: Any, **options: Any) -> lr.Plan:
    return lr.plan(
        net(),
        budget,
        calibration=[BATCH],
        held_out=[],
        metric="weight",
        methods=methods or (lr.PivotedTucker2(),),
        **options,
    )


def takes(share: float) -> Callable[..., dict[str, float]]:
    """In the place of `Clock.side_by_side`: every network takes this share of the dense one's
    time, in every memory format."""
    return lambda clock, *_: dict.fromkeys(clock.network.nanoseconds, share)


def test_a_table_is_exact_on_its_grid_and_linear_between() -> None:
    table = Table("", DEVICE, ((16, 32), (8, 16, 24)), (10, 20, 30, 30, 40, 50), (), 100, False)
    assert [table.at(at) for at in ((16, 8), (32, 24), (24, 8), (16, 12), (24, 20))] == [
        10,
        50,
        20,
        15,
        35,
    ]
    assert table.at((99, 1)) == 30
    assert table.share((16, 24)) == 0.3
    checked = replace(table, checks=(((24, 12), 50),))
    assert checked.errors == [0.5]


def test_what_was_measured_is_remembered_and_a_busy_machine_is_not(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([Quickest((7, *[5] * 11), True), Quickest((7, *[6] * 11), False)])
    monkeypatch.setattr(tables, "quickest", lambda runs: next(found))

    def again() -> Table:
        return measured_table("a layer", DEVICE, [range(1, 20)], lambda at: print, print)

    assert again().busy
    quiet = again()
    assert not quiet.busy
    assert again() == quiet
    assert len(quiet.axes[0]) == 9
    assert len(quiet.checks) == 2
    assert not {sizes[0] for sizes, _ in quiet.checks} & set(quiet.axes[0])
    assert len(list(own_cache.glob("*.json"))) == 1


def test_ranks_come_in_the_steps_of_the_device(device: Callable[[Cost], None]) -> None:
    device(by_macs)
    plan = made(lr.Budget(latency=0.6))
    assert {r % 16 for layer in plan.factorized.values() for r in layer.ranks} == {0}
    given = made(lr.Budget(latency=0.6), lr.PivotedTucker2(rank_multiple_of=32))
    assert {r % 32 for layer in given.factorized.values() for r in layer.ranks} == {0}


def test_the_budget_is_kept_and_the_expected_time_is_the_sum_of_its_parts(
    device: Callable[[Cost], None],
) -> None:
    device(by_macs)
    latency = made(lr.Budget(latency=0.6)).expected.latency
    assert latency is not None
    assert latency.kept <= 0.6
    assert latency.planned == pytest.approx(latency.other + sum(latency.layers.values()))
    assert latency.measured == pytest.approx(latency.planned, rel=0.01)


def test_a_form_that_is_slow_is_not_chosen(device: Callable[[Cost], None]) -> None:
    device(slow_to_move)
    plan = made(lr.Budget(latency=0.6))
    assert {layer.method for layer in plan.factorized.values()} == {"tucker2"}


def test_what_nothing_makes_faster_stays_dense_and_says_so(device: Callable[[Cost], None]) -> None:
    def dense_is_free(layer: nn.Module) -> float:
        return 1e6 if isinstance(layer, lr.Factorized) else by_macs(layer)

    device(dense_is_free)
    plan = made(lr.Budget(latency=1.0))
    assert not plan.factorized
    assert "no rank makes it faster" in plan.layers["3"].why
    with pytest.raises(lr.LowRankError, match=r"a budget of 0\.5 of the latency cannot be met"):
        made(lr.Budget(latency=0.5))


def test_widths_and_factors_share_one_budget_of_time(device: Callable[[Cost], None]) -> None:
    device(by_macs)
    plan = made(lr.Budget(latency=0.5), lr.Interpolative(), lr.PivotedTucker2())
    assert plan.widths == {"3": plan.layers["3"].ranks[0]}
    assert plan.layers["3"].ranks[0] % 16 == 0
    assert plan.expected.latency is not None
    assert plan.expected.latency.kept <= 0.5


def by_numbers(layer: nn.Module) -> float:
    """Nanoseconds as there are numbers in the tensors of experts."""
    return float(sum(p.numel() for p in layer.parameters() if p.dim() == 3))


def test_experts_in_one_tensor_are_timed_as_one_module(device: Callable[[Cost], None]) -> None:
    device(by_numbers)
    torch.manual_seed(0)
    network, batch = Mixture(channels=64), torch.randn(6, 5)
    plan = lr.plan(
        network, lr.Budget(latency=0.7), batch[:1], metric="weight", methods=[lr.Interpolative()]
    )
    up, down = (f"experts.stacks.{key}" for key in ("up", "down"))
    assert plan.widths == {down: plan.layers[up].ranks[0]}
    latency = plan.expected.latency
    assert latency is not None and 0.6 < latency.kept <= 0.7
    share = plan.widths[down] / 64
    clock = Clock(network, survey(network, batch[:1]).targets, Workload(), batch[:1])
    assert latency.layers[down] == pytest.approx(share * clock.dense[down] * 1e-6, rel=0.01)
    assert up not in latency.layers, "its time is in that of the other one"
    assert latency.measured == pytest.approx(latency.planned, rel=0.01)


class TwoModules(nn.Module):
    """Experts whose tensors are kept by a module each."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = Experts(3, 6, 16), Experts(3, 16, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.arange(len(x)) % 3
        found: Tensor = self.head(self.down(torch.relu(self.up(x, chosen)), chosen))
        return found


def test_experts_of_several_modules_are_not_timed_and_say_so(
    device: Callable[[Cost], None],
) -> None:
    device(by_macs)
    torch.manual_seed(0)
    plan = lr.plan(
        TwoModules(), lr.Budget(latency=1.0), torch.randn(6, 6), methods=[lr.Interpolative()]
    )
    assert not plan.widths
    assert plan.narrowing is not None
    assert "cannot be measured apart" in plan.narrowing.left["down.stacks.weight"]


def test_a_channel_less_saves_next_to_nothing(device: Callable[[Cost], None]) -> None:
    device(by_macs)
    network = net()
    targets = survey(network, BATCH[:1]).targets
    clock = Clock(network, targets, Workload(), BATCH)
    (dimension,) = find_inner(network, BATCH[:1], list(targets)).found.values()
    for member in dimension.layers:
        times = [clock.narrowed(dimension, member, width) for width in (32, 63, 64)]
        assert times[0] < 0.6 * times[1] < 0.6 * times[2] * 1.001
        assert times[2] == pytest.approx(clock.as_it_is(member.layer), rel=0.01)


def test_layers_that_are_narrowed_and_then_factorized_have_times(
    device: Callable[[Cost], None],
) -> None:
    """Widths alone, or factors alone, do not get so fast."""
    device(by_macs)
    for methods in [(lr.Interpolative(),), (lr.SVD(),)]:
        with pytest.raises(lr.LowRankError, match="cannot be met"):
            made(lr.Budget(latency=0.25), *methods)
    plan = made(lr.Budget(latency=0.25), lr.Interpolative(), lr.SVD())
    assert plan.layers["3"].method == "interpolative+svd"
    latency = plan.expected.latency
    assert latency is not None and latency.kept <= 0.25
    assert latency.measured == pytest.approx(latency.planned, rel=0.01)


def test_a_network_that_is_no_faster_leaves_all_dense(
    device: Callable[[Cost], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(by_macs)
    monkeypatch.setattr(Clock, "side_by_side", takes(1.1))
    plan = made(lr.Budget(latency=0.9))
    assert not plan.factorized
    assert "no network of this budget was faster" in plan.layers["3"].why
    assert plan.expected.planned == plan.expected.dense


def test_a_layer_that_takes_longer_in_the_network_is_planned_so(
    device: Callable[[Cost], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured of the first plan corrects the next one."""
    device(by_macs)
    first = made(lr.Budget(latency=0.7)).expected.latency
    assert first is not None
    monkeypatch.setattr(Clock, "side_by_side", takes(0.9))
    second = made(lr.Budget(latency=0.7)).expected.latency
    assert second is not None
    assert second.in_network > first.in_network


@pytest.mark.parametrize(("apart", "kept"), [(1.08, True), (1.3, False)])
def test_where_a_correction_asks_for_too_much_the_first_plan_stands_if_it_is_close(
    apart: float, kept: bool, device: Callable[[Cost], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(by_macs)
    with pytest.raises(lr.LowRankError, match="cannot be met") as refused:
        made(lr.Budget(latency=0.01))
    least = float(str(refused.value).partition("keeps ")[2].partition(";")[0]) + 1e-3
    monkeypatch.setattr(Clock, "side_by_side", takes(apart * least))
    if kept:
        latency = made(lr.Budget(latency=least)).expected.latency
        assert latency is not None and latency.measured is not None
        assert latency.measured > latency.planned
    else:
        with pytest.raises(lr.LowRankError, match="cannot be met"):
            made(lr.Budget(latency=least))


def test_narrow_layers_are_planned_in_the_memory_format_in_which_they_are_faster(
    device: Callable[[Cost], None],
) -> None:
    """Of the dense network another one is; what it takes more there is no part of the budget."""
    whole = sum(p.numel() for p in net().parameters() if p.dim() > 1)

    def slow_where_wide(layer: nn.Module) -> float:
        weights = [m.weight for m in layer.modules() if isinstance(m, nn.Conv2d)]
        if all(weight.is_contiguous() for weight in weights):
            return by_macs(layer)
        wide = max(weight.shape[0] for weight in weights) > 32
        return (1.1 if wide else 0.3) * by_macs(layer)

    device(slow_where_wide)
    latency = made(lr.Budget(latency=0.5), lr.Interpolative()).expected.latency
    assert latency is not None
    assert latency.layout == "channels last"
    assert latency.dense * 1e6 < 1.05 * whole  # in the format in which it is the fastest
    assert latency.kept <= 0.5
    assert latency.measured == pytest.approx(latency.planned, rel=0.01)
    assert latency.planned == pytest.approx(latency.other + sum(latency.layers.values()))


def test_the_plan_of_a_file_keeps_its_times(device: Callable[[Cost], None], tmp_path: Path) -> None:
    device(by_macs)
    plan = made(lr.Budget(latency=0.6))
    lr.save_plan(tmp_path / "plan.json", plan)
    read = lr.load_plan(tmp_path / "plan.json")
    assert read.expected.latency == plan.expected.latency
    assert "expected" in str(read)
    done = lr.apply_(net(), plan)
    assert done.plan.expected.latency == plan.expected.latency
    edited = plan.with_layers(**{"3": lr.PlannedLayer("dense", ())})
    assert lr.apply_(net(), edited).plan.expected.latency is None


def test_pieces_of_a_network_add_up_to_it() -> None:
    network = net().eval()
    watch = Stopwatch(lambda: network(BATCH), {"0": network[0], "3": network[3]})
    for _ in range(3):
        watch.once()
    found = watch.layers()
    assert min(found.values()) > 0
    assert sum(found.values()) < watch.whole
    assert not network[0]._forward_hooks and not network[0]._forward_pre_hooks


def test_layers_are_called_as_the_network_calls_them() -> None:
    network = net().eval()
    found = calls_of(network, ["0", "3", "6"], lambda: network(BATCH))
    assert [list(one.given[0][0][0].shape) for one in found.values()] == [
        [4, 32, 2, 2],
        [4, 64, 2, 2],
        [4, 256],
    ]
    real = quickest([found["3"].as_it_is(), lambda: [found["3"].as_it_is()() for _ in range(9)]])
    assert real.nanoseconds[1] > 3 * real.nanoseconds[0] > 0


class Reader(nn.Module):
    """A text is read into a cache of sums; each further token reads it."""

    class Cache:
        def __init__(self, sums: Tensor) -> None:
            self.sums = sums

        def crop(self, length: int) -> None:
            self.sums = self.sums[:, :length]

    class Output:
        def __init__(self, cache: Any) -> None:
            self.past_key_values = cache

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 16)
        self.layer = nn.Linear(16, 16)
        self.lengths: list[int] = []

    def forward(
        self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False
    ) -> Any:
        states = self.layer(self.table(input_ids))
        cache = past_key_values or self.Cache(states[:, :0])
        cache.sums = torch.cat([cache.sums, states], 1)
        self.lengths.append(cache.sums.shape[1])
        return self.Output(cache if use_cache else None)


def test_a_step_of_decoding_reads_one_token_with_cached_keys() -> None:
    network, text = Reader().eval(), torch.arange(6).expand(3, 6) % 9
    run = Workload("decode").run(network, text)
    calls = calls_of(network, ["layer"], run)
    run()
    assert network.lengths == [6, 7, 7]  # the text, and twice the seventh token
    assert calls["layer"].given[0][0][0].shape == (1, 1, 16)
    with pytest.raises(lr.LowRankError, match="the network keeps no keys and values of a text"):
        Workload("decode").run(net().eval(), BATCH)
