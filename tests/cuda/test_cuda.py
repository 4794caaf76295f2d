"""What runs on the CPU runs on a CUDA device, to the same results within a stated tolerance: sums
of float32 activations differ by their order, and so do all figures that come from them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.analysis.analysis import analyze
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.analysis.files import load_analysis, save_analysis
from pipeline.lowrank.analysis.options import AnalysisOptions, MetricName
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.refit import refit_if_closer
from pipeline.lowrank.tasks import Classification
from tests.models.transformers_case import write_book, write_model
from tests.stages.test_transformer_chain import run_chain, workspace

__all__ = ["workspace"]  # fixtures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

NEAR = 1e-4  # of what float32 activations give, relative
METRICS: tuple[MetricName, ...] = ("weight", "input", "fisher")


class Net(nn.Module):
    """Convolutions in a residual block, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 12, 3, padding=1),
        )  # fmt: skip
        self.hidden, self.head = nn.Linear(12, 40), nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.block(x)).mean((2, 3))
        found: Tensor = self.head(self.hidden(x).relu())
        return found


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def images(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 1, 8, 8, generator=generator) for _ in range(count)]


def on_both(metric: MetricName, folder: Path) -> Sequence[Any]:
    chosen = AnalysisOptions(metric=metric)
    here = analyze(net(), calibration=images(), chosen=chosen)
    there = analyze(net().cuda(), calibration=images(), chosen=chosen)
    save_analysis(folder, there)
    return here, load_analysis(folder, "cuda")


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_spectra_and_the_same_factors(metric: MetricName, tmp_path: Path) -> None:
    here, there = on_both(metric, tmp_path)
    for name, spectra in here.spectra.items():
        values = spectra.views["mode0"].eigenvalues
        other = there.spectra[name].views["mode0"].eigenvalues
        torch.testing.assert_close(other, values, rtol=10 * NEAR, atol=NEAR * float(values[0]))
        assert there.spectra[name].views["mode0"].basis.is_cuda
    built = []
    for network, analysis in ((net(), here), (net().cuda(), there)):
        plan = lr.plan_from(network, analysis, lr.Energy(0.9), methods=[lr.PivotedTucker2()])
        built.append(apply_(network, plan, analysis, example=images()[0][:1]))
    assert [layer.ranks for layer in built[0].plan.factorized.values()] == [
        layer.ranks for layer in built[1].plan.factorized.values()
    ]
    x = torch.cat(images())
    expected, found = built[0].network(x), built[1].network(x.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=100 * NEAR * expected.std().item())


@pytest.mark.parametrize("method", [lr.Interpolative(), lr.CP(), lr.Tucker(), lr.SpatialSVD()])
def test_every_method_and_the_contest(method: Any) -> None:
    network = net().cuda()
    methods = [method, lr.PivotedTucker2()]
    plan = lr.plan(network, lr.Budget(params=0.6), calibration=images(8), methods=methods)
    done = apply_(network, plan)
    assert done.ran and done.totals.params < 0.62 * sum(p.numel() for p in net().parameters())
    for tensor in (*done.network.parameters(), *done.network.buffers()):
        assert tensor.is_cuda


def test_a_language_model_refit_and_saved(tmp_path: Path) -> None:
    model = write_model(tmp_path / "net", "causal_lm").eval()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(2, 60, (4, 24), generator=generator) for _ in range(6)]
    tokens = [{"input_ids": batch} for batch in batches]
    figures = []
    for device in ("cpu", "cuda"):
        dense = copy.deepcopy(model).to(device)
        plan = lr.plan(
            dense, lr.Budget(params=0.6, scope="targets"), calibration=tokens, task="causal_lm",
            include=["model.layers.*"], contest_examples=0, methods=[lr.PivotedSVD()],
        )  # fmt: skip
        assert plan.analysis is not None
        done = apply_(copy.deepcopy(dense), plan)
        apart = Divergence(dense, tokens, lr.tasks.CausalLM())
        refit = refit_if_closer(dense, done.network, plan, plan.analysis, tokens, apart, share=0.5)
        figures.append(torch.tensor([refit.without, refit.refit]))
    torch.testing.assert_close(figures[1], figures[0], rtol=0.05, atol=1e-3)


def test_divergence_of_a_network_from_itself() -> None:
    network = net().cuda()
    assert Divergence(network, images(), Classification()).of(network) == 0


def test_a_budget_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path))
    methods = [lr.Interpolative(), lr.PivotedTucker2()]
    plan = lr.plan(net().cuda(), lr.Budget(latency=1.0), calibration=images(8), methods=methods)
    assert plan.expected.latency is not None and list(tmp_path.rglob("*.json"))


def test_the_chain_gives_what_it_gives_on_the_cpu(workspace: Path) -> None:
    book = write_book(workspace / "b.txt", 24)
    write_model(workspace / "net", "causal_lm")
    common = [
        *("task=causal_lm", "model.name=net", "analyze.include=[model.layers.*]"),
        *(f"data.path={book}", "refit=blocks", "refit.batch_size=4", "fine_tune=distill"),
        "fine_tune.epochs=1",
    ]
    here = run_chain(workspace, [*common, "fabric.accelerator=cpu"])
    there = run_chain(workspace, [*common, "fabric.accelerator=cuda"])
    timings = [json.loads(file.read_text()) for file in workspace.glob("scratch/timings/*.json")]
    assert {one["machine"]["gpu"] for one in timings} == {None, torch.cuda.get_device_name()}
    trained = run_chain(workspace, [*common, "fabric.accelerator=cuda", "refit=train"])
    assert trained["compressed"]["perplexity"] > 1
    for name in ("dense", "compressed", "fine_tuned"):
        assert there[name]["perplexity"] == pytest.approx(here[name]["perplexity"], rel=0.02)
        assert there[name]["params"] == pytest.approx(here[name]["params"], rel=0.02)
