"""Embeddings in the metrics of data: rows of the table count by how often they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import pipeline.lowrank as lr
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.analysis.collecting import collect_moments
from pipeline.lowrank.analysis.files import load_analysis, save_analysis
from pipeline.lowrank.analysis.metrics import INPUT_DAMPING, UNCERTAIN, make_metric
from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.network.costs import describe_target
from tests.lowrank.analysis.test_moments import Tokens, token_batch

ENTRIES, LENGTH = 60, 7


def reader() -> nn.Sequential:
    torch.manual_seed(0)
    table = nn.Embedding(ENTRIES, 24)
    return nn.Sequential(table, nn.Flatten(), nn.Linear(LENGTH * 24, 10)).eval()


def ids(count: int, seed: int = 0) -> torch.Tensor:
    """Rare and frequent ids; the last ten are never read."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, LENGTH, generator=generator) ** 3
    return (drawn * (ENTRIES - 10)).long()


def test_moments_are_how_often_each_entry_is_read() -> None:
    """The same as those of a Linear on one-hot vectors, without padding."""
    net, batch = Tokens().double(), token_batch()
    found = collect_moments(net, [batch], {"table": net.table}, gradients=True)["table"]
    hot = functional.one_hot(batch["input_ids"][batch["attention_mask"].bool()], 11).double()
    assert found.positions == len(hot)
    assert torch.allclose(found.inputs[0], (hot.T @ hot / len(hot)).diagonal(), atol=1e-15)
    assert torch.equal(found.mean, found.inputs)
    assert found.outputs is not None and found.outputs.shape == (1, 6, 6)
    assert found.outputs.abs().max() > 0


@pytest.mark.parametrize("metric", ["input", "fisher"])
def test_the_metric_weighs_rows_by_frequency(metric: str) -> None:
    net = reader()
    read = ids(200)
    found = collect_moments(net, [read], {"0": net[0]}, gradients=True)["0"]
    target = describe_target("0", net[0], (LENGTH, LENGTH))
    norm = make_metric(metric, found, target, 0.1)
    frequency = torch.bincount(read.flatten(), minlength=ENTRIES).double() / read.numel()
    floor = INPUT_DAMPING / ENTRIES + UNCERTAIN
    assert norm.right.shape == (1, ENTRIES)
    assert torch.allclose(norm.right[0].square(), frequency + floor, rtol=1e-6)
    change = torch.randn(24, ENTRIES, dtype=torch.float64)
    columns = change if norm.left is None else norm.left[0] @ change
    expected = (columns.square().sum(0) * (frequency + floor)).sum()
    assert norm.whiten(change).square().sum().item() == pytest.approx(expected.item(), rel=1e-6)
    first, last = torch.randn(5, ENTRIES).double(), torch.randn(24, 5).double()
    back = norm.unwhiten([first, last])
    assert torch.allclose(norm.whiten(back[1] @ back[0]), last @ first, atol=1e-9)


@pytest.mark.parametrize("metric", ["input", "fisher"])
@pytest.mark.parametrize("method", [lr.SVD(), lr.PivotedTucker2()])
def test_an_embedding_is_planned_built_and_certified(metric: str, method: lr.Method) -> None:
    net = reader()
    made = lr.plan(
        net,
        lr.Budget(params=0.7),
        calibration=[ids(100), ids(100, 1)],
        metric=metric,  # type: ignore[arg-type]
        methods=[method],
        contest_examples=0,
        overrides={"0": lr.Override(ranks=6)},
    )
    done = lr.apply_(net, made)
    report = done.layers["0"]
    assert report.measured_relative_error == pytest.approx(
        made.expected.layers["0"].relative_error, abs=report.rounding
    )
    assert torch.isfinite(done.network(ids(3))).all()


def test_rows_that_are_read_keep_more_than_by_the_plain_svd() -> None:
    """The weighted error is less in the metric, the plain one more: what the metric means."""
    read, errors = ids(400), {}
    frequency = torch.bincount(read.flatten(), minlength=ENTRIES).double()
    for metric in ("weight", "input"):
        net = reader()
        before = net[0].weight.detach().double()
        override = {"0": lr.Override(ranks=6)}
        calibration = [read] if metric == "input" else []
        lr.compress_(
            net,
            lr.Budget(params=0.9),
            read[:1],
            calibration=calibration,
            held_out=[],
            metric=metric,  # type: ignore[arg-type]
            methods=[lr.SVD()],
            overrides=override,
            include=["0"],
        )
        rows = (net[0].dense_weight().T - before).square().sum(1)
        errors[metric] = (float((rows * frequency).sum()), float(rows.sum()))
    assert errors["input"][0] < errors["weight"][0]
    assert errors["input"][1] > errors["weight"][1]


def test_a_large_vocabulary_is_stored_as_a_vector(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(200_000, 4), nn.Flatten(), nn.Linear(28, 3))
    chosen = AnalysisOptions(metric="input", memory_gib=0.02)
    read = torch.randint(200_000, (50, LENGTH))
    found = analyze(net, calibration=[read], chosen=chosen)
    save_analysis(tmp_path, found)
    again = load_analysis(tmp_path).metrics["0"]
    assert again.right.shape == (1, 200_000)
    assert torch.equal(again.right, found.metrics["0"].right)


def test_a_table_of_positions_that_all_are_read_keeps_its_rows() -> None:
    """At full context every row is read equally often: the error in `input` is the plain one."""

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.places, self.tokens = nn.Embedding(32, 48), nn.Embedding(50, 48)
            self.out = nn.Linear(48, 50)

        def forward(self, read: torch.Tensor) -> torch.Tensor:
            places = self.places(torch.arange(read.shape[1])[None])
            return self.out(self.tokens(read) + places).mT  # type: ignore[no-any-return]

    net = Text()
    before = net.places.weight.detach().double()
    read = torch.randint(50, (8, 32))
    done = lr.compress_(
        net,
        lr.Budget(params=0.9),
        calibration=[read],
        held_out=[],
        metric="input",
        task="causal_lm",
        overrides={"places": lr.Override(ranks=10)},
    )
    lost = (net.places.dense_weight().T - before).norm() / before.norm()
    measured = done.layers["places"].measured_relative_error
    assert measured == pytest.approx(float(lost), rel=1e-4)


def bags(mode: str) -> nn.Sequential:
    torch.manual_seed(0)
    table = nn.EmbeddingBag(ENTRIES, 24, mode=mode, padding_idx=2)
    return nn.Sequential(table, nn.ReLU(), nn.Linear(24, 10)).eval()


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_moments_of_bags_are_those_of_a_linear_on_their_counts(mode: str) -> None:
    net, read = bags(mode), ids(50)
    found = collect_moments(net, [read[:20], read[20:]], {"0": net[0]}, gradients=True)["0"]
    hot = functional.one_hot(read, ENTRIES).double()
    hot[..., 2] = 0  # the padding index
    x = hot.sum(1) if mode == "sum" else hot.sum(1) / hot.sum((1, 2))[:, None]
    assert torch.allclose(x.float() @ net[0].weight, net[0](read), atol=1e-5)
    assert found.positions == 50
    assert torch.allclose(found.inputs[0], x.square().mean(0), atol=1e-14)
    assert torch.allclose(found.mean[0], x.mean(0), atol=1e-14)


@pytest.mark.parametrize("metric", ["weight", "input", "fisher"])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_are_factorized(metric: str, mode: str, tmp_path: Path) -> None:
    net, read = bags(mode), ids(60)
    data = {"example": read[:1]} if metric == "weight" else {"calibration": [read]}
    options = {"methods": [lr.SVD()], "metric": metric, "held_out": [], **data}
    made = lr.plan(net, lr.Fixed({"0": 6}), **options)  # type: ignore[arg-type]
    target = made.analysis.targets["0"]  # type: ignore[union-attr]
    assert (target.kind, target.shape, target.macs) == ("embedding_bag", (24, ENTRIES), 0)
    dense = net(read)
    full = made.with_layers(**{"0": lr.PlannedLayer("svd", (24,))})
    assert torch.allclose(lr.apply_(bags(mode), full).network(read), dense, atol=1e-5)
    done = lr.apply_(net, made)
    assert isinstance(net[0][0], nn.EmbeddingBag) and net[0][0].mode == mode
    assert made.expected.layers["0"].macs == 6 * 24 and "0" in done.layers
    net.train()(read).sum().backward()
    lr.save(net.eval(), tmp_path)
    assert torch.equal(lr.load_(bags(mode), tmp_path)(read), net(read))
    before = net(read)
    assert torch.allclose(lr.to_dense_(net)(read), before, atol=1e-5)
    assert type(net[0]) is nn.EmbeddingBag


def test_bags_that_factors_cannot_be_are_named() -> None:
    net = bags("max")
    skipped = lr.plan(net, lr.Fixed(2), ids(1)).skipped
    assert skipped["0"].reason == "EmbeddingBag with mode='max', which its factors could not keep"
    offsets = nn.EmbeddingBag(20, 16)
    with pytest.raises(lr.LowRankError, match="no target is used in its forward"):
        lr.plan(offsets, lr.Fixed(2), (torch.arange(6), torch.tensor([0, 3])))
