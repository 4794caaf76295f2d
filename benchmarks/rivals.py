"""Ways to make one network smaller beside each other, and what each part of ours is worth: the same
network, text, statistics and budget, through this project's own parts.

    python -m pipeline experiment=smollm2
    python -m benchmarks.rivals WORKSPACE --scope targets --budgets 0.8 0.6 --steps 150

WORKSPACE is the folder that the run prints; its analysis must be in the metric fisher. The ways
that were published are named for what they are here, their norms, allocations and steps, and are
not their authors' code: the whitening of SVD-LLM (Wang et al. 2024), IO-SVD (arXiv 2605.15626),
MoDeGPT (arXiv 2408.09632), AA-SVD (arXiv 2604.02119). Nothing is fine-tuned as a whole; "trained"
is the refinement block by block.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from benchmarks.arguments import parser_of_plans
from benchmarks.metrics import in_metric
from pipeline.data.calibration import held_out_batches, statistics_batches
from pipeline.data.files import load_facts, load_split, load_task
from pipeline.data.splits import Split, taken
from pipeline.evaluation.networks import Scores, compare_networks
from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.analysis.files import load_analysis
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.apply import Compression, apply_
from pipeline.lowrank.factorize.deciding import plan_from
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.factorize.settling import settle
from pipeline.lowrank.forms.files import load
from pipeline.lowrank.methods import Interpolative, Method, get_method
from pipeline.lowrank.planning.policies import Budget
from pipeline.lowrank.tasks import Task
from pipeline.machine.threads import set_threads

Allocation = Literal["uniform", "relative", "absolute", "contest"]
PLAIN, PIVOTED, NARROWER = "tucker2", "pivoted_tucker2", Interpolative.name


@dataclass(frozen=True)
class Rival:
    """One way: norm of the errors, methods, how the budget is spent, whether blocks are trained."""

    label: str
    metric: Literal["input", "fisher"]
    methods: tuple[str, ...]
    allocation: Allocation
    trained: bool = False


OURS = Rival("ours", "fisher", (PIVOTED, NARROWER), "contest", trained=True)
RIVALS = (
    Rival("whitening (SVD-LLM)", "input", (PLAIN,), "uniform"),
    Rival("two-sided, global (IO-SVD-like)", "fisher", (PLAIN,), "absolute"),
    Rival("inner dimensions (MoDeGPT-like)", "input", (NARROWER,), "relative"),
    Rival("whitening, trained (AA-SVD-like)", "input", (PLAIN,), "uniform", trained=True),
    OURS,
    replace(OURS, label="ours without training", trained=False),
    replace(OURS, label="ours without contest", allocation="absolute"),
    replace(OURS, label="ours without inner dimensions", methods=(PIVOTED,)),
    replace(OURS, label="ours without pivots", methods=(PLAIN, NARROWER)),
    replace(OURS, label="ours in the metric input", metric="input"),
)


def bare(rival: Rival) -> Rival:
    """The way without training, and with errors as they are in the place of a contest."""
    spent: Allocation = "absolute" if rival.allocation == "contest" else rival.allocation
    return replace(rival, allocation=spent, trained=False)


@dataclass(frozen=True)
class Given:
    """What all ways share. example: a batch of one, on which inner dimensions are proven; refit:
    how blocks are trained; batch: test examples a batch."""

    model: nn.Module
    task: Task
    splits: Mapping[str, Split]
    statistics: Sequence[Any]
    held_out: Sequence[Any]
    example: Any
    refit: RefitOptions
    batch: int


def compare(
    given: Given, fisher: Analysis, budgets: Sequence[Budget], rivals: Sequence[Rival] = RIVALS
) -> Iterator[tuple[Rival, Budget, dict[str, float] | str]]:
    """For each way and budget its figures: those of the task, the distance to the dense network,
    and `params`; or why the way cannot keep that budget.

    fisher: the analysis of the network in the metric fisher.
    """
    analyses = {"fisher": fisher}
    for rival in sorted(rivals, key=lambda one: one.metric != "fisher"):
        if rival.metric not in analyses:
            analyses = {rival.metric: in_metric(fisher, given.model, rival.metric)}
        for budget in budgets:
            try:
                built = _built(given, rival, analyses[rival.metric], budget)
            except LowRankError as error:
                yield rival, budget, str(error)
                continue
            yield rival, budget, _figures(given, built)


def _built(given: Given, rival: Rival, analysis: Analysis, budget: Budget) -> nn.Module:
    done = _factorized(given, rival, analysis, budget)
    if not rival.trained:
        return done.network
    return settle(
        given.model, done, analysis, given.statistics, given.held_out, given.refit, task=given.task
    ).network


def _factorized(given: Given, rival: Rival, analysis: Analysis, budget: Budget) -> Compression:
    scale = "absolute" if rival.allocation == "absolute" else "relative"
    plan = plan_from(
        given.model,
        analysis,
        replace(budget, error_scale=scale),
        methods=[_method(name) for name in rival.methods],
        divergence=(lambda: Divergence(given.model, given.held_out, given.task))
        if rival.allocation == "contest"
        else None,
        example=given.example,
    )
    if rival.allocation == "uniform":
        assert plan.uniform is not None, "make_plan puts it there"
        plan = plan.uniform
    return apply_(copy.deepcopy(given.model), plan, analysis)


def _method(name: str) -> Method | Interpolative:
    return Interpolative() if name == NARROWER else get_method(name)()


def _figures(given: Given, built: nn.Module) -> dict[str, float]:
    networks = {"dense": given.model, "built": built}
    scores: Scores = compare_networks(networks, given.splits, given.task, given.batch)
    return {**scores["built"], "params": sum(p.numel() for p in built.parameters())}


def _row(rival: Rival, budget: Budget, found: dict[str, float] | str, task: Task) -> str:
    start = f"{rival.label:34s} {budget.kept:.2f} "
    if isinstance(found, str):
        return f"{start} {found}"
    first = task.measures[0].name
    first = f"{first}_ratio" if f"{first}_ratio" in found else first
    keys = [
        f"{prefix}{key}" for prefix in ("", "ood_") for key in (first, "divergence", "agreement")
    ]
    told = [f"{key} {found[key]:.4g}" for key in keys if key in found]
    return f"{start} {'  '.join(told)}  params {found['params']:,.0f}"


def main() -> None:
    parser = parser_of_plans(__doc__)
    parser.add_argument("--examples", type=int, default=None, help="of each test split; all")
    parser.add_argument("--statistics", type=int, default=48, help="examples that blocks learn on")
    parser.add_argument(
        "--held-out", type=int, default=8, help="examples that plans are measured on"
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150, help="of training, a block")
    parser.add_argument("--minutes", type=float, default=None, help="of training; no limit")
    parser.add_argument(
        "--bare", action="store_true", help="nothing trained, and errors in nats for a contest"
    )
    parser.add_argument("--only", nargs="+", default=[""], help="parts of labels; all")
    parser.add_argument("--threads", type=int, default=None)
    chosen = parser.parse_args()
    set_threads(chosen.threads)
    out = chosen.workspace / "out"
    data, task = out / "data", load_task(out / "data")
    given = Given(
        model=load(out / "baseline"),
        task=task,
        splits={
            name: _cut(load_split(data, name), chosen.examples)
            for name in load_facts(data).sizes
            if name in ("test", "ood")
        },
        statistics=statistics_batches(data, chosen.batch, most=chosen.statistics),
        held_out=held_out_batches(data, chosen.batch, most=chosen.held_out),
        example=statistics_batches(data, 1, most=1)[0],
        refit=RefitOptions(steps=chosen.steps, minutes=chosen.minutes),
        batch=chosen.batch,
    )
    budgets = [Budget(**{chosen.cost_unit: kept}, scope=chosen.scope) for kept in chosen.budgets]
    rivals = [one for one in RIVALS if any(part in one.label for part in chosen.only)]
    if chosen.bare:
        rivals = [bare(rival) for rival in rivals]
    for rival, budget, found in compare(given, load_analysis(out / "analysis"), budgets, rivals):
        print(_row(rival, budget, found, task), flush=True)


def _cut(split: Split, examples: int | None) -> Split:
    cut = copy.copy(split)
    cut.stored, cut.labels = (
        taken(one, slice(0, examples)) for one in (split.stored, split.labels)
    )
    return cut


if __name__ == "__main__":
    main()
