"""Deciding: from a trained network and a policy to a plan. The chain's stages and a notebook call
the same functions, so they cannot give different plans."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, cast

from torch import nn

from pipeline.lowrank.analysis.analysis import Analysis, analyze
from pipeline.lowrank.analysis.divergence import Divergence
from pipeline.lowrank.analysis.metrics import DAMPING
from pipeline.lowrank.analysis.options import HELD_OUT, AnalysisOptions, MetricName
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.apply import Compression, apply_
from pipeline.lowrank.factorize.choosing import Choosing
from pipeline.lowrank.methods import (
    Interpolative,
    Method,
    PivotedTucker2,
    split_methods,
    with_matrices,
)
from pipeline.lowrank.network.calling import hold_out, up_to
from pipeline.lowrank.network.executing import Executor
from pipeline.lowrank.planning.checking import checked, with_eliminations
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.planning.from_file import FromFile
from pipeline.lowrank.planning.making import takes_widths, without_widths
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.offers import make_offers
from pipeline.lowrank.planning.options import CONTEST_EXAMPLES
from pipeline.lowrank.planning.overrides import Override, named_methods
from pipeline.lowrank.planning.plan import Plan
from pipeline.lowrank.planning.policies import Policy, check_policy
from pipeline.lowrank.planning.timing.clock import Clock
from pipeline.lowrank.planning.timing.offers import (
    in_every_form,
    in_steps,
    narrower_in_steps,
)
from pipeline.lowrank.planning.timing.workload import Workload
from pipeline.lowrank.tasks import Task, get_task
from pipeline.lowrank.typed import keywords_checked

P = ParamSpec("P")

METHODS = (PivotedTucker2(),)
_WORKLOAD = Workload()


@keywords_checked
def plan(
    model: nn.Module,
    policy: Policy,
    example: Any = None,
    *,
    calibration: Sequence[Any] = (),
    held_out: Sequence[Any] | None = None,
    task: Task | str = "classification",
    metric: MetricName | None = None,
    damping: float = DAMPING,
    gradient_share: float = 1.0,
    memory_gib: float = 8.0,
    methods: Sequence[Method | Interpolative] = METHODS,
    overrides: Mapping[str, Override] | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    contest_examples: int = CONTEST_EXAMPLES,
    workload: Workload = _WORKLOAD,
    seed: int = 0,
    executor: Executor | None = None,
) -> Plan:
    """Chooses methods and ranks for a trained network under a policy; changes nothing.

    model: the network; any module that takes what `calibration` holds.
    policy: what is wanted, such as `Budget(params=0.4)`.
    example: a batch of one, to count positions (default: the first calibration example).
    calibration: batches of what the model takes (tensors, tuples or dicts); labels are not needed.
    held_out: batches that no statistic sees, on which a few plans of one budget are measured
        against the dense network (default: the last quarter of the calibration examples).
    task: what the model predicts: an object of `lr.tasks`, or its name.
    metric: the norm of the errors: "fisher" (nats of loss), "input" (each layer's output) or
        "weight" (Frobenius); default: fisher where there is calibration, weight without.
    damping: for fisher: what is added to the gradients' second moment, relative to its mean
        diagonal.
    gradient_share: for fisher: the fraction of the batches that get a backward pass too.
    memory_gib: for the sums of the statistics; what does not fit takes further passes, and a layer
        that alone does not fit is refused before anything runs.
    methods: the methods that compete, with their options (default: Tucker-2 with pivots); with
        `Interpolative` among them the layers of an inner dimension may also be narrowed together.
    overrides: {shell-style pattern on layer names: what is decided for these layers}.
    include, exclude: shell-style patterns on the names of the layers that may be factorized.
    contest_examples: how many held-out examples plans are measured on at most; 0 measures nothing.
    workload: under a budget of latency: the call whose time is counted, of the first calibration
        batch (without any: of the example).
    seed: of the labels that fisher draws, and of the methods that draw random numbers.
    executor: who computes the spectra, layer by layer; None: this process. That of `analyze`.

    Raises LowRankError, with the remedy, where model, data, policy and methods do not fit together.
    """
    check_policy(policy)
    split_methods(methods)  # raises where they are none, before anything is computed
    kind = get_task(task) if isinstance(task, str) else task
    chosen_metric: MetricName = metric or ("fisher" if len(calibration) else "weight")
    chosen = AnalysisOptions(
        metric=chosen_metric,
        damping=damping,
        gradient_share=gradient_share,
        memory_gib=memory_gib,
        include=tuple(include),
        exclude=tuple(exclude),
    )
    statistics = calibration
    if held_out is None:
        statistics, held_out = hold_out(calibration, HELD_OUT)
    analysis = analyze(
        model,
        example,
        calibration=statistics,
        chosen=chosen,
        task=kind,
        seed=seed,
        executor=executor,
    )
    measured_on = up_to(held_out, contest_examples)
    return plan_from(
        model,
        analysis,
        policy,
        methods=methods,
        overrides=overrides,
        divergence=(lambda: Divergence(model, measured_on, kind)) if measured_on else None,
        workload=workload,
        batch=calibration[0] if len(calibration) else None,
        seed=seed,
    )


def plan_from(
    model: nn.Module,
    analysis: Analysis,
    policy: Policy,
    *,
    methods: Sequence[Method | Interpolative] = METHODS,
    overrides: Mapping[str, Override] | None = None,
    divergence: Callable[[], Divergence] | None = None,
    workload: Workload = _WORKLOAD,
    batch: Any = None,
    seed: int = 0,
    example: Any = None,
) -> Plan:
    """`plan` for an analysis that exists already; one analysis serves every policy, method and
    budget.

    divergence: makes the measure of networks against the dense one, when it is first needed; None
        measures nothing.
    example: a batch of one, on which `Interpolative` proves inner dimensions (default: that of the
        analysis, which one from a file does not have).
    batch: what the model takes, of which the workload's call is made (default: the example).

    The other arguments are those of `plan`.
    """
    check_policy(policy)
    check_decidable(policy, methods)
    layerwise, narrower = split_methods(methods)
    shown = analysis.example if example is None else example
    clock = None
    if policy.cost_unit == "latency":
        clock = Clock(model, analysis.targets, workload, shown if batch is None else batch)
        layerwise = in_every_form(layerwise)
        narrower = narrower_in_steps(narrower, clock.step) if narrower else None
    made = [*layerwise, *named_methods(overrides or {}, layerwise)]
    known = with_matrices(made) if made else {}
    known = known if clock is None else in_steps(known, clock.step)
    names = [method.name for method in layerwise]
    weights = analysis.whitened(model)
    offers = make_offers(analysis, weights, names, known, policy.cost_unit, overrides)
    narrowing = None
    if narrower is not None and takes_widths(policy):
        narrowing = Narrowing.of(model, analysis, narrower, shown)
    choice = Choosing(model, analysis, policy, offers, known, names, narrowing, divergence, seed)
    found = choice.plan() if clock is None else choice.plan_by(clock)
    skipped = narrower is not None and narrowing is None
    return without_widths(found, Interpolative.name) if skipped else found


def check_decidable(policy: Policy, methods: Sequence[Method | Interpolative]) -> None:
    """Raises LowRankError for methods none of which has what the policy decides."""
    layerwise, narrower = split_methods(methods)
    if narrower is not None and not layerwise and not takes_widths(policy):
        raise LowRankError(
            f"the policy {policy.name} says ranks, and {narrower.name} has none: add a method "
            "with ranks, such as pivoted_tucker2, or choose the policy budget, loss, energy, error "
            "or compute"
        )


def plan_in_file(
    model: nn.Module, analysis: Analysis, path: Path, sha256: str | None = None
) -> tuple[Plan, list[str]]:
    """(the plan of a file that a person wrote or edited, with what is expected of it computed
    again; a line for each layer of which the file expects something else).

    sha256: the checksum that the file's content must have; None takes any content. Raises
        LowRankError for another content, and for a plan that does not fit the network or its
        analysis.
    """
    found = hashlib.sha256(_content(path)).hexdigest()
    if sha256 not in (None, found):
        raise LowRankError(
            f"{path}: its checksum is {found}, not {sha256}; give the plan that was meant, or "
            "correct rank_select.sha256"
        )
    read = with_eliminations(load_plan(path), model, analysis)
    plan, told = checked(read, analysis, analysis.whitened(model))
    return replace(plan, policy=FromFile(sha256=found), uniform=None, contest=()), told


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LowRankError(
            f"rank_select.path={path}: cannot be read ({error.strerror}); give a plan.json"
        ) from error


def _then_applied(decide: Callable[P, Plan]) -> Callable[P, Compression]:
    def compress_(*values: P.args, **named: P.kwargs) -> Compression:
        """`plan`, with its arguments, and `apply_` in one call: the network is changed in place."""
        model = cast(nn.Module, values[0] if values else named["model"])
        executor = cast("Executor | None", named.get("executor"))
        return apply_(model, decide(*values, **named), executor=executor)

    signature = inspect.signature(decide).replace(return_annotation="Compression")
    compress_.__signature__ = signature  # type: ignore[attr-defined]
    return keywords_checked(compress_)


compress_ = _then_applied(plan)
