"""Interpolative by the contract of methods: errors are those that are predicted, and costs those of
the modules, in every metric, for every sort of layer that reads an inner dimension."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.methods.elimination import Elimination, Ordered, Reader, eliminate
from pipeline.lowrank.methods.interpolative import then
from pipeline.lowrank.methods.narrower import NarrowerLayer
from pipeline.lowrank.network.costs import network_totals
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.planning.narrowing import NARROWED, Narrowing
from tests.lowrank.inner_cases import FOUND, InnerCase, named

METRICS: tuple[MetricName, ...] = ("weight", "input", "fisher")
READERS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "linear": ((5, 12), 1, 1),
    "kernel": ((5, 12, 3, 2), 1, 1),
    "flattened": ((5, 36), 1, 3),
    "in parts": ((5, 24), 2, 1),
    "heads in parts": ((5, 72), 2, 3),
}


def drawn(name: str, *, mixed: bool = False) -> tuple[Member, Tensor, Metric]:
    """A layer that reads 12 channels, and a metric in which they are correlated; where they are
    `mixed` six of them are mixtures of the others."""
    shape, parts, each = READERS[name]
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    member, inputs = Member("reader", "reads", parts, each), normal(300, shape[1])
    inputs = inputs @ normal(shape[1], shape[1])
    if mixed:
        known, others = (
            member.index(c, 12) for c in torch.randperm(12, generator=generator).split(6)
        )
        inputs[:, others] = inputs[:, known] @ normal(len(known), len(others))
    second = inputs.T @ inputs / len(inputs)
    floor = 1e-9 * second.diagonal().mean() * torch.eye(shape[1], dtype=torch.float64)
    left = normal(5, 5).triu() + 3 * torch.eye(5, dtype=torch.float64)
    return member, normal(*shape), Metric(left[None], torch.linalg.cholesky(second + floor)[None])


def eliminated(member: Member, weight: Tensor, metric: Metric | None) -> Elimination:
    dimension, metrics = (
        InnerDimension(12, (member,), 1),
        {} if metric is None else {"reader": metric},
    )
    return eliminate(dimension, {"reader": weight}, metrics)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("plain", [True, False], ids=["weight", "metric"])
def test_every_width_errs_as_predicted_and_no_other_weight_errs_less(
    name: str, plain: bool
) -> None:
    member, weight, metric = drawn(name)
    known = None if plain else metric
    elimination = eliminated(member, weight, known)
    errors = elimination.errors["reader"]

    def error(layer: Tensor) -> float:
        wide = torch.zeros_like(weight).index_copy(1, index, layer)
        change = weight - wide
        return float((known.whiten(change) if known else change).square().sum())

    assert sorted(elimination.order.tolist()) == list(range(12))
    for width in range(1, 13):
        index = member.index(elimination.kept(width), 12)
        layer = Ordered(Reader(member, weight, known, 12), elimination.order).narrowed(width)
        found = error(layer)
        assert found == pytest.approx(errors[width].item(), rel=1e-8, abs=1e-9)
        for seed in range(3):
            other = torch.randn(layer.shape, generator=torch.Generator().manual_seed(seed))
            assert error(layer + 1e-3 * other) > found
    assert all(more >= less for more, less in pairwise(errors.tolist()))
    assert errors[12] == 0.0


@pytest.mark.parametrize("name", READERS)
def test_planted_mixtures_are_given_up_first(name: str) -> None:
    member, weight, metric = drawn(name, mixed=True)
    errors = eliminated(member, weight, metric).errors["reader"]
    assert errors[6] < 1e-6 * errors[0]
    assert errors[5] > 1e-3 * errors[0]


def test_one_at_a_time_is_the_least_increase() -> None:
    """Each step of the elimination gives up the channel whose loss costs least, tried out."""
    member, weight, metric = drawn("kernel")
    elimination = eliminated(member, weight, metric)
    for width in range(12, 6, -1):
        left = elimination.order[:width]
        tried = []
        for place in range(width):
            order = torch.cat([left[:place], left[place + 1 :], left[place : place + 1]])
            rest = torch.cat([order, elimination.order[width:]])
            tried.append(Ordered(Reader(member, weight, metric, 12), rest).errors()[width - 1])
        assert int(torch.stack(tried).argmin()) == width - 1


def test_several_readers_share_one_order() -> None:
    (one, first, metric), (two, second, other) = drawn("linear"), drawn("kernel")
    dimension = InnerDimension(12, (replace(one, layer="a"), replace(two, layer="b")), 2)
    together = eliminate(dimension, {"a": first, "b": second}, {"a": metric, "b": other})
    for layer, member, weight, own in (("a", one, first, metric), ("b", two, second, other)):
        ordered = Ordered(Reader(member, weight, own, 12), together.order)
        assert torch.allclose(ordered.errors(), together.errors[layer])


@pytest.mark.parametrize("left", ["full", "diagonal", "none"])
@pytest.mark.parametrize("role", ["makes", "reads"])
@pytest.mark.parametrize("other", [5, 40], ids=["few", "many"])
def test_spectra_of_all_widths_are_those_of_the_narrowed_weights(
    role: Literal["makes", "reads"], left: str, other: int
) -> None:
    """What is computed for all widths at once is what each width's own weight and metric give."""
    generator = torch.Generator().manual_seed(0)
    member, dimension = Member("layer", role, 2, 1), InnerDimension(12, (), 0)
    shape = (24, other) if role == "makes" else (other, 24)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    roots = [torch.randn(1, n, n, generator=generator, dtype=torch.float64) for n in shape]
    lower = [torch.linalg.cholesky(root @ root.mT) for root in roots]
    sides = {"full": lower[0].mT, "diagonal": lower[0].diagonal(dim1=1, dim2=2), "none": None}
    metric = Metric(sides[left], lower[1])
    order = torch.randperm(12, generator=generator)
    one = NarrowerLayer(member, weight, metric, dimension, Elimination(order, {}))
    for width, spectra in one.spectra([1, 4, 11]).items():
        known = one.metric_at(width)
        assert known is not None
        own = torch.linalg.svdvals(known.whiten(one.weight(width)))
        assert torch.allclose(spectra.views["mode0"].singular_values, own, rtol=1e-6, atol=1e-6)


def dense_plan(case: InnerCase, metric: MetricName) -> lr.Plan:
    """A plan that leaves every layer dense and knows the inner dimensions."""
    net, inputs = case.network(), case.inputs()
    batches = [] if metric == "weight" else list(inputs.split(16))
    chosen = lr.AnalysisOptions(metric=metric)
    analysis = lr.analyze(net, inputs[:1], calibration=batches, chosen=chosen)
    plan = lr.plan_from(net, analysis, lr.Budget(params=1.0))
    return replace(plan, narrowing=Narrowing.of(net, analysis, lr.Interpolative(), inputs[:1]))


def narrower(plan: lr.Plan, share: float) -> lr.Plan:
    assert plan.narrowing is not None
    widths = {n: max(1, int(share * d.width)) for n, d in plan.narrowing.found.items()}
    members = {m.layer: widths[n] for n, d in plan.narrowing.found.items() for m in d.layers}
    return plan.with_layers(**{n: lr.PlannedLayer(NARROWED, (k,)) for n, k in members.items()})


def further(plan: lr.Plan) -> lr.Plan:
    """The plan with the layers that make and read narrowed dimensions factorized too, at about half
    of their ranks."""
    assert plan.narrowing is not None
    assert plan.analysis is not None
    layers = dict(plan.layers)
    for name, width in plan.widths.items():
        for member in plan.narrowing.found[name].ends:
            target = plan.analysis.targets[member.layer]
            small = member.narrowed(target, width, plan.narrowing.found[name].width)
            method, sides = ("svd", 1) if small.is_matrix else ("tucker2", 2)
            ranks = [-(-min(small.shape[:2]) // 2)] * sides
            layers[member.layer] = lr.PlannedLayer(then(method), (width, *ranks))
    return replace(plan, layers=layers)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_layers_narrowed_and_factorized_cost_and_err_as_expected(
    case: InnerCase, metric: MetricName
) -> None:
    net, inputs = case.network(), case.inputs()
    done = lr.apply_(net, further(narrower(dense_plan(case, metric), 0.6)))
    assert done.ran
    assert network_totals(net, inputs[:1]) == done.totals
    for name, report in done.layers.items():
        exact = report.error_kind == "exact"
        assert exact or "tucker2" in done.plan.layers[name].method
        least, most = (report.lower_bound, report.upper_bound)
        assert least - report.rounding <= report.measured_relative_error <= most + report.rounding
        off = report.measured_relative_error - report.predicted_relative_error
        assert -report.rounding * exact - (not exact) <= off <= report.rounding
    wide = done.widened(net)
    assert torch.allclose(wide(inputs), net(inputs), rtol=1e-7, atol=1e-9)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (wide, case.network())]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_layers_cost_and_err_as_expected(case: InnerCase, metric: MetricName) -> None:
    plan = dense_plan(case, metric)
    for share in (0.3, 0.8):
        net, inputs = case.network(), case.inputs()
        done = lr.apply_(net, narrower(plan, share))
        assert done.ran
        assert network_totals(net, inputs[:1]) == done.totals
        assert set(done.layers) == set(done.plan.factorized)
        for report in done.layers.values():
            assert report.error_kind == "exact"
            assert report.measured_relative_error == pytest.approx(
                report.predicted_relative_error, abs=report.rounding
            )
        readers = {m.layer for one in done.narrowed.values() for m in one.dimension.readers}
        assert {n for n, r in done.layers.items() if r.predicted_relative_error > 0} == readers


def test_what_is_known_of_the_mean_goes_into_the_bias() -> None:
    """The mean of the reader's output over calibration stays that of the dense network."""
    case = named("mlp")
    net, inputs = case.network(), case.inputs()
    before = net(inputs).mean(0)
    lr.apply_(net, narrower(dense_plan(case, "input"), 0.3))
    assert torch.allclose(net(inputs).mean(0), before, atol=1e-5)
