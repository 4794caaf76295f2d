"""Interpolative for experts in one tensor: each expert keeps the channels that are best for it, and
all of them as many."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.methods.elimination import eliminate
from pipeline.lowrank.methods.interpolative import then
from pipeline.lowrank.methods.narrower import NarrowerLayer
from pipeline.lowrank.network.costs import network_totals
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.planning.narrowing import NARROWED
from tests.lowrank.network.expert_kinds import EXPERT_KINDS, ExpertKind, Mixture

KINDS = [kind for kind in EXPERT_KINDS if kind.name in ("Mixtral", "GptOss", "JetMoe")]
MIXTRAL, GPT_OSS, JETMOE = KINDS
CASES: list[tuple[ExpertKind | None, MetricName, str]] = [
    (None, "weight", ""),
    (None, "input", ""),
    (None, "fisher", "svd"),
    (MIXTRAL, "fisher", ""),
    (GPT_OSS, "weight", "svd"),
    (GPT_OSS, "input", ""),
    (JETMOE, "fisher", "svd"),
]
IDS = torch.randint(60, (16, 12), generator=torch.Generator().manual_seed(1))
GROUPS, WIDTH = 3, 12


def drawn(*, mixed: bool = False) -> tuple[Tensor, Metric]:
    """The stack of 3 experts that read 12 channels each, and its metric; where they are `mixed` six
    channels, in each expert other ones, are mixtures of the others."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    rights, lefts = [], []
    for _ in range(GROUPS):
        inputs = normal(300, WIDTH) @ normal(WIDTH, WIDTH)
        if mixed:
            known, others = torch.randperm(WIDTH, generator=generator).split(6)
            inputs[:, others] = inputs[:, known] @ normal(6, 6)
        second = inputs.mT @ inputs / len(inputs)
        floor = 1e-9 * second.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64)
        rights.append(torch.linalg.cholesky(second + floor))
        lefts.append(normal(5, 5).triu() + 3 * torch.eye(5, dtype=torch.float64))
    return normal(GROUPS * 5, WIDTH), Metric(torch.stack(lefts), torch.stack(rights))


READER = Member("reader", "reads")
DIMENSION = InnerDimension(WIDTH, (READER,), 1, groups=GROUPS)


def test_each_expert_is_eliminated_by_itself_and_errors_add_up() -> None:
    weight, metric = drawn()
    together = eliminate(DIMENSION, {"reader": weight}, {"reader": metric})
    total = torch.zeros(WIDTH + 1, dtype=torch.float64)
    for group in range(GROUPS):
        one = weight[5 * group : 5 * group + 5]
        alone = InnerDimension(WIDTH, (READER,), 1)
        found = eliminate(alone, {"reader": one}, {"reader": metric.of_group(group)})
        assert torch.equal(found.order, together.order[group])
        total += found.errors["reader"]
    assert torch.allclose(together.errors["reader"], total, rtol=1e-12)
    assert len(set(map(tuple, together.kept(6).tolist()))) == GROUPS, "each keeps other channels"


def test_every_width_errs_as_predicted_and_the_whole_width_not_at_all() -> None:
    weight, metric = drawn()
    found = eliminate(DIMENSION, {"reader": weight}, {"reader": metric})
    layer = NarrowerLayer(READER, weight, metric, DIMENSION, found)
    for width in range(1, WIDTH + 1):
        kept, small = found.kept(width), layer.weight(width).reshape(GROUPS, 5, width)
        wide = torch.zeros(GROUPS, 5, WIDTH, dtype=torch.float64)
        for group in range(GROUPS):
            wide[group][:, kept[group]] = small[group]
        error = metric.whiten(weight - wide.flatten(0, 1)).square().sum().item()
        assert error == pytest.approx(layer.errors()[width].item(), rel=1e-8, abs=1e-9)
    assert torch.allclose(layer.weight(WIDTH), weight)
    assert all(more >= less for more, less in pairwise(layer.errors().tolist()))


def test_planted_mixtures_of_each_expert_are_given_up_first() -> None:
    weight, metric = drawn(mixed=True)
    errors = eliminate(DIMENSION, {"reader": weight}, {"reader": metric}).errors["reader"]
    assert errors[6] < 1e-6 * errors[0]
    assert errors[5] > 1e-3 * errors[0]


def network(kind: ExpertKind | None) -> nn.Module:
    if kind is not None:
        pytest.importorskip("transformers")
        return kind.make()
    torch.manual_seed(0)
    return Mixture().double().eval()


def batches(kind: ExpertKind | None) -> list[Tensor]:
    if kind is not None:
        return list(IDS.split(8))
    drawn = torch.randn(96, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return list(drawn.split(48))


def answers(net: nn.Module, kind: ExpertKind | None) -> Tensor:
    found = net(batches(kind)[0])
    return found if isinstance(found, Tensor) else found.logits


def planned(net: nn.Module, kind: ExpertKind | None, metric: MetricName) -> lr.Plan:
    """A plan that leaves every layer dense and knows the inner dimensions."""
    given = batches(kind)
    return lr.plan(
        net,
        lr.Budget(params=1.0),
        given[0][:1],
        calibration=[] if metric == "weight" else given,
        held_out=[],
        metric=metric,
        task="causal_lm" if kind else "classification",
        methods=[lr.Interpolative()],
    )


def narrower(plan: lr.Plan, share: float, further: str = "") -> lr.Plan:
    """Experts alone keep this share of their channels, and the layers are factorized further."""
    assert plan.narrowing is not None
    assert plan.analysis is not None
    layers = {}
    for one in plan.narrowing.found.values():
        width = int(share * one.width)
        for member in one.layers if one.groups > 1 else ():
            layers[member.layer] = lr.PlannedLayer(NARROWED, (width,))
            if further:
                small = member.narrowed(plan.analysis.targets[member.layer], width, one.width)
                ranks = (width, min(small.group_shape) // 2)
                layers[member.layer] = lr.PlannedLayer(then(further), ranks)
    assert layers
    return replace(plan, layers={**plan.layers, **layers})


@pytest.mark.parametrize(("kind", "metric", "further"), CASES)
def test_experts_cost_and_err_as_expected(
    kind: ExpertKind | None, metric: MetricName, further: str
) -> None:
    net = network(kind)
    done = lr.apply_(net, narrower(planned(net, kind, metric), 0.5, further))
    assert done.ran
    assert network_totals(net, batches(kind)[0][:1]) == done.totals
    for report in done.layers.values():
        assert report.error_kind == "exact"
        assert report.measured_relative_error == pytest.approx(
            report.predicted_relative_error, abs=report.rounding
        )
    wide = done.widened(net)
    assert torch.allclose(answers(wide, kind), answers(net, kind), rtol=1e-5, atol=1e-7)
    sizes = [{n: p.shape for n, p in one.named_parameters()} for one in (wide, network(kind))]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_duplicates_in_each_expert_are_merged_without_loss(kind: ExpertKind) -> None:
    """In each expert other channels are the same as others: half of the width is enough."""
    net, generator = network(kind), torch.Generator().manual_seed(5)
    plan = planned(net, kind, "input")
    assert plan.narrowing is not None
    for one in plan.narrowing.found.values():
        if one.groups == 1:
            continue
        pairs = [torch.randperm(one.width, generator=generator).split(24) for _ in range(4)]
        makers = [member for member in one if member.role != "reads"]
        with torch.no_grad():
            for member in makers:
                for stored, columns in _by_channel(net, member, one.width):
                    for group, (kept, other) in enumerate(pairs):
                        stored[group][columns[other]] = stored[group][columns[kept]]
    dense = answers(net, kind)
    lr.apply_(net, narrower(planned(net, kind, "input"), 0.5))
    assert torch.allclose(answers(net, kind), dense, atol=1e-3)


def _by_channel(net: nn.Module, member: Member, width: int) -> list[tuple[Tensor, Tensor]]:
    """(a tensor with its channels after the groups, (width, count) the places of each)."""
    every = torch.arange(width)
    if member.role == "counts":
        biases = [getattr(net.get_submodule(member.layer), key) for key in member.sizes]
        return [(bias, replace(member, each=2).places(every, width)) for bias in biases]
    weight = member.module(net).weight
    assert isinstance(weight, Tensor)
    return [(weight.mT if member.in_first else weight, member.places(every, width))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_saved_loaded_and_applied_again_to_the_bit(kind: ExpertKind, tmp_path: Path) -> None:
    net = network(kind)
    dense = copy.deepcopy(net)
    plan = narrower(planned(net, kind, "weight"), 0.25)
    lr.apply_(net, plan)
    found = answers(net, kind)
    lr.save(net, tmp_path / "net")
    assert torch.equal(answers(lr.load_(network(kind), tmp_path / "net"), kind), found)
    assert torch.equal(answers(copy.deepcopy(net), kind), found)
    lr.save_plan(tmp_path / "plan.json", plan)
    lr.apply_(dense, lr.load_plan(tmp_path / "plan.json"), plan.analysis)
    assert torch.equal(answers(dense, kind), found)
    file = json.loads((tmp_path / "plan.json").read_text())
    name, order = next(iter(file["narrowing"]["orders"].items()))
    assert len(order.split(", ")) == 4
    file["narrowing"]["orders"][name] = order.replace(", ", " ", 1)
    (tmp_path / "plan.json").write_text(json.dumps(file))
    with pytest.raises(lr.LowRankError, match="once, for each of 4 experts, but"):
        lr.load_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("way", ["grouped_mm", "batched_mm"])
def test_planned_widths_run_by_every_kernel_and_with_cached_keys(way: str) -> None:
    """torch's grouped products want rows of multiples of 16 bytes."""
    net = network(MIXTRAL).float()
    net.set_experts_implementation(way)  # type: ignore[operator]
    plan = lr.plan(
        net, lr.Budget(params=0.7), IDS[:1], metric="weight", methods=[lr.Interpolative()]
    )
    experts = [n for n in plan.widths if "experts" in n]
    assert experts and all(plan.widths[name] % 8 == 0 for name in experts)
    lr.apply_(net, plan)
    options = {"max_new_tokens": 5, "do_sample": False}
    cached, whole = (
        net.generate(IDS[:1], use_cache=use, **options)  # type: ignore[operator]
        for use in (True, False)
    )
    assert torch.equal(cached, whole)
    assert net.bfloat16()(IDS).logits.isfinite().all()
