"""Metric × form × allocation × budget on one network, text or images and split, nothing
fine-tuned, and repaired: what each part of the default is worth beside the published algorithms.

    python -m pipeline experiment=smollm2
    python -m benchmarks.metrics WORKSPACE --cost-unit params --scope targets --budgets 0.8 0.6
    python -m pipeline experiment=fashion_mnist
    python -m benchmarks.metrics WORKSPACE --cost-unit macs --plain tucker2 --budgets 0.5 0.35 0.25
    … --repair 1

WORKSPACE is the folder that the run prints; its analysis must be in the metric fisher.
With --repair every network is then fine-tuned as the workspace's was, for so many epochs. The
published algorithms are expressed through this project's metrics and its uniform allocation:
plain SVD; FWSVD (Hsu et al. 2022: rows weighed by their Fisher information); ASVD (Yuan et al.
2023: inputs scaled by the square root of their size); the whitening of SVD-LLM (Wang et al.
2024). They are these algorithms' norms, not their authors' code.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from benchmarks.arguments import parser_of_plans
from pipeline.data.calibration import statistics_batches
from pipeline.data.files import load_split, load_task
from pipeline.data.splits import Split
from pipeline.evaluation.networks import compare_networks
from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.files import load_analysis
from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.spectra import analyze_weight
from pipeline.lowrank.factorize.apply import apply_
from pipeline.lowrank.factorize.deciding import plan_from
from pipeline.lowrank.forms.files import load, read_network, save
from pipeline.lowrank.methods import Interpolative, get_method
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.planning.policies import Budget
from pipeline.lowrank.typed import options_from
from pipeline.machine.devices import FabricOptions, make_fabric
from pipeline.training.fine_tune import fine_tune
from pipeline.training.options import FineTuneOptions


class Row(NamedTuple):
    label: str
    metric: str
    method: str
    allocation: str


def rows(plain: str, pivoted: str) -> list[Row]:
    return [
        Row("plain", "weight", plain, "uniform"),
        Row("FWSVD", "rows", plain, "uniform"),
        Row("ASVD", "columns", plain, "uniform"),
        Row("whitening (SVD-LLM)", "input", plain, "uniform"),
        Row("weight, relative", "weight", plain, "relative"),
        Row("whitening, relative", "input", plain, "relative"),
        Row("fisher, uniform", "fisher", plain, "uniform"),
        Row("fisher, relative", "fisher", plain, "relative"),
        Row("fisher, nats", "fisher", plain, "absolute"),
        Row("pivoted, weight, relative", "weight", pivoted, "relative"),
        Row("pivoted, fisher, uniform", "fisher", pivoted, "uniform"),
        Row("pivoted, fisher, nats", "fisher", pivoted, "absolute"),
        Row("narrower, fisher, nats", "fisher", Interpolative.name, "absolute"),
        Row("narrower or pivoted, nats", "fisher", f"{pivoted}+{Interpolative.name}", "absolute"),
    ]


def in_metric(analysis: Analysis, model: nn.Module, name: str) -> Analysis:
    """The analysis of the same network in another metric, from the moments in the fisher one."""
    metrics = {n: _variant(m, name) for n, m in analysis.metrics.items()}
    if name == "weight":
        metrics = {}
    other = replace(analysis, metric=name, metrics=metrics, damping=None)
    spectra = {
        n: analyze_weight(weight, analysis.targets[n].groups)
        for n, weight in other.whitened(model).items()
    }
    return replace(other, spectra=spectra)


def _variant(metric: Metric, name: str) -> Metric:
    assert metric.left is not None
    columns = _lengths(metric.right.mT if metric.right.dim() > 2 else metric.right)
    if name == "rows":
        return Metric(_lengths(metric.left), torch.ones_like(columns))
    if name == "columns":
        return Metric(None, columns.sqrt())
    if name == "input":
        return replace(metric, left=None)
    return metric


def _lengths(factor: Tensor) -> Tensor:
    """√ of the diagonal of factorᵀ·factor: (groups, n); of a diagonal factor, itself."""
    return factor if factor.dim() == 2 else torch.linalg.vector_norm(factor, dim=-2)


def plan_of(row: Row, analysis: Analysis, model: nn.Module, budget: Budget, example: Any) -> Plan:
    scale = "relative" if row.allocation == "uniform" else row.allocation
    policy = replace(budget, error_scale=scale)  # type: ignore[arg-type]
    methods = [
        Interpolative() if name == Interpolative.name else get_method(name)()
        for name in row.method.split("+")
    ]
    plan = plan_from(model, analysis, policy, methods=methods, example=example)
    if row.allocation != "uniform":
        return plan
    assert plan.uniform is not None
    return plan.uniform


def main() -> None:
    parser = parser_of_plans(__doc__)
    parser.add_argument("--plain", default="svd")
    parser.add_argument("--examples", type=int, default=None, help="of the test split; all")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[""], help="regular expressions of rows; all")
    parser.add_argument("--repair", type=int, default=0, help="epochs of fine-tuning; none")
    arguments = parser.parse_args()
    out = arguments.workspace / "out"
    model, task = load(out / "baseline"), load_task(out / "data")
    splits = {n: cut(load_split(out / "data", n), arguments.examples) for n in ("test",)}
    fisher = load_analysis(out / "analysis")
    example = statistics_batches(out / "data", 1, most=1)[0]
    analyses: dict[str, Analysis] = {"fisher": fisher}
    for row in rows(arguments.plain, f"pivoted_{arguments.plain}"):
        if not any(re.search(pattern, row.label) for pattern in arguments.only):
            continue
        if row.metric not in analyses:
            analyses = {"fisher": fisher, row.metric: in_metric(fisher, model, row.metric)}
        for kept in arguments.budgets:
            budget = Budget(**{arguments.cost_unit: kept}, scope=arguments.scope)
            plan = plan_of(row, analyses[row.metric], model, budget, example)
            networks = {"dense": model}
            built = apply_(copy.deepcopy(model), plan, analyses[row.metric]).network
            networks["compressed"] = built
            if arguments.repair:
                networks["repaired"] = repaired(arguments.workspace, built, arguments.repair)
            scores = compare_networks(networks, splits, task, arguments.batch)
            print(f"{row.label:28s} {kept:5.2f}  {read(scores)}", flush=True)


def repaired(workspace: Path, built: nn.Module, epochs: int) -> nn.Module:
    """The network after so many epochs of the workspace's stage fine-tune."""
    out, params = workspace / "out", yaml.safe_load((workspace / "params.yaml").read_text())
    section, seed = params["fine_tune"] | {"epochs": epochs}, params["seed"]
    options = options_from(FineTuneOptions, section, "fine_tune")
    fabric = make_fabric(options_from(FabricOptions, params["fabric"], "fabric"), seed)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "compressed"), Path(folder, "fine_tuned")
        save(built, before, read_network(out / "baseline").builder)
        fine_tune(after, before, out / "baseline", out / "data", options, fabric=fabric, seed=seed)
        return load(after)


def cut(split: Split, examples: int | None) -> Split:
    if examples is None:
        return split
    cut = copy.copy(split)
    cut.stored, cut.labels = split.stored[:examples], split.labels[:examples]
    return cut


def read(scores: Mapping[str, Mapping[str, float]]) -> str:
    return "  ".join(f"{name} {_figure(values)}" for name, values in scores.items())


def _figure(values: Mapping[str, float]) -> str:
    if "perplexity" in values:
        low, high = (values[f"perplexity_ratio_{end}"] for end in ("low", "high"))
        ratio = f"{values['perplexity_ratio']:.3f} [{low:.3f}, {high:.3f}]"
        return f"perplexity {values['perplexity']:.1f}, ratio {ratio}"
    key = "accuracy" if "accuracy" in values else "cosine"
    return f"{key} {100 * values[key]:.2f} %"


if __name__ == "__main__":
    main()
