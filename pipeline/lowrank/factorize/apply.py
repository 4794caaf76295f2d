"""Decide, then act: `plan` changes nothing, `apply_` only executes a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pipeline.lowrank.analysis.analysis import Analysis, analyze, reached_targets
from pipeline.lowrank.analysis.metrics import DAMPING
from pipeline.lowrank.analysis.moments import collect_moments
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.factorize.layer import LayerReport, Part
from pipeline.lowrank.forms.surgery import check_ranks, layer_at, replace_, skeleton
from pipeline.lowrank.methods import make_methods
from pipeline.lowrank.network.targets import kind_of
from pipeline.lowrank.planning.overrides import Override, named_methods
from pipeline.lowrank.planning.plan import Plan, make_plan
from pipeline.lowrank.planning.policies import Policy


def plan(
    model: nn.Module,
    policy: Policy,
    example: Any,
    *,
    methods: Sequence[str] = ("pivoted_tucker2",),
    metric: str = "weight",
    calibration: Sequence[Any] = (),
    damping: float = DAMPING,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    overrides: Mapping[str, Override] | None = None,
    seed: int = 0,
    **options: Any,
) -> Plan:
    """Analyzes the model and chooses ranks under the policy; changes nothing.

    example: a batch of one, to count positions. metric: the norm of the errors; `input` and
    `fisher` need `calibration`, batches of what the model takes. overrides: {shell-style pattern
    on layer names: what is decided for them}. options: of the methods (`hooi_iterations`, …).
    """
    overrides = overrides or {}
    moments = None
    if metric != "weight":
        modules, _, _ = reached_targets(model, example, include, exclude)
        gradients = metric == "fisher"
        moments = collect_moments(model, calibration, modules, gradients=gradients, seed=seed)
    analysis = analyze(
        model,
        example,
        metric=metric,
        moments=moments,
        damping=damping,
        include=include,
        exclude=exclude,
    )
    made = make_methods([*methods, *named_methods(overrides)], seed=seed, **options)
    return make_plan(analysis, analysis.whitened(model), policy, methods, made, overrides)


def apply_(
    model: nn.Module,
    chosen: Plan,
    analysis: Analysis | None = None,
    *,
    certified: bool = True,
    **options: Any,
) -> tuple[nn.Module, dict[str, LayerReport]]:
    """Replaces the planned layers in place and certifies each of them; not `certified`, there are
    no reports, and nothing is measured (half of the time on a large network).

    analysis: the one that the plan was made from; a plan that `plan` returned knows it, and for
    one read from a file in the metric `weight` it is made again. options: of the methods.
    Returns (the model — a new object only if the root itself is the target —, reports).
    Raises LowRankError when the plan does not fit the model or a certificate is violated.
    """
    methods = make_methods(
        [*chosen.methods, *{x.method for x in chosen.factorized.values()}], **options
    )
    _check_fit(model, chosen)
    analysis = analysis or chosen.analysis
    if analysis is None and chosen.metric != "weight":
        raise LowRankError(
            f"the plan was made in the metric {chosen.metric!r}: give the analysis it was made from"
        )
    if analysis and (unknown := set(chosen.factorized) - set(analysis.targets)):
        raise LowRankError(
            f"the plan names layers that the analysis does not know: {', '.join(sorted(unknown))}; "
            "make the plan again, or rerun analyze"
        )
    reports = {}
    for name, layer in chosen.factorized.items():
        module = layer_at(model, name)
        built = skeleton(name, module, layer.method, layer.ranks)
        part = Part.of(name, module, layer, methods[layer.method], analysis)
        part.fill_(built)
        if certified:
            reports[name] = part.report(built)
        model = replace_(model, name, built)
    return model, reports


def compress_(
    model: nn.Module, policy: Policy, example: Any, **options: Any
) -> tuple[nn.Module, Plan, dict[str, LayerReport]]:
    """`plan` and `apply_` in one call: (model, plan, reports)."""
    chosen = plan(model, policy, example, **options)
    deciding = ("methods", "metric", "calibration", "damping", "include", "exclude", "overrides")
    method_options = {k: v for k, v in options.items() if k not in deciding}
    model, reports = apply_(model, chosen, **method_options)
    return model, chosen, reports


def _check_fit(model: nn.Module, chosen: Plan) -> None:
    """The whole plan is checked before the first layer is touched."""
    for name, layer in chosen.factorized.items():
        module = layer_at(model, name)
        if kind_of(module) is None:
            raise LowRankError(
                f"layer {name!r} is a {type(module).__name__}, which has no factorized form; "
                "remove it from the plan"
            )
        check_ranks(name, module, layer.method, layer.ranks)
