"""Decide, then act: `plan` changes nothing, `apply_` only executes a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.lowrank.analysis import analyze
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.linalg import relative_error
from pipeline.lowrank.methods import make_methods
from pipeline.lowrank.overrides import Override, named_methods
from pipeline.lowrank.planning import Plan, make_plan
from pipeline.lowrank.policies import Policy
from pipeline.lowrank.spectrum import Spectra, analyze_weight
from pipeline.lowrank.surgery import Factorized, fill_, layer_at, replace_, skeleton
from pipeline.lowrank.target import dense_weight, groups_of, kind_of


@dataclass(frozen=True)
class LayerReport:
    """Errors of one factorized layer, all relative Frobenius norms: what the plan predicted,
    what the stored factors measure, and what a theorem allows (lower ≤ measured ≤ upper)."""

    method: str
    ranks: tuple[int, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    predicted_relative_error: float
    error_kind: str
    measured_relative_error: float
    lower_bound: float
    upper_bound: float
    bound: str


def plan(
    model: nn.Module,
    policy: Policy,
    example: Any,
    *,
    methods: Sequence[str] = ("tucker2",),
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    overrides: Mapping[str, Override] | None = None,
    **options: Any,
) -> Plan:
    """Analyzes the model and chooses ranks under the policy; changes nothing.

    example: a batch of one, to count positions. overrides: {shell-style pattern on layer names:
    what is decided for them}. options: of the methods (`hooi_iterations`, …).
    """
    overrides = overrides or {}
    analysis = analyze(model, example, include=include, exclude=exclude)
    weights = {n: dense_weight(model.get_submodule(n)) for n in analysis.targets}
    made = make_methods([*methods, *named_methods(overrides)], **options)
    return make_plan(analysis, weights, policy, methods, made, overrides)


def apply_(
    model: nn.Module,
    chosen: Plan,
    spectra: Mapping[str, Spectra] | None = None,
    **options: Any,
) -> tuple[nn.Module, dict[str, LayerReport]]:
    """Replaces the planned layers in place and certifies each of them.

    spectra: of an analysis of the same weights; computed here where absent.
    Returns (the model — a new object only if the root itself is the target —, reports).
    Raises LowRankError when the plan does not fit the model or a certificate is violated.
    """
    methods = make_methods(
        [*chosen.methods, *{x.method for x in chosen.factorized.values()}], **options
    )
    _check_fit(model, chosen)
    reports = {}
    for name, layer in chosen.factorized.items():
        module = layer_at(model, name)
        weight, groups = dense_weight(module), groups_of(module)
        known = spectra[name] if spectra is not None else analyze_weight(weight, groups)
        built = skeleton(name, module, layer.method, layer.ranks)
        method = methods[layer.method]
        fill_(built, method.factorize(weight, known, layer.ranks), getattr(module, "bias", None))
        measured = relative_error(weight, built.dense_weight())
        certificate = method.certify(known, layer.ranks)
        norm = known.squared_norm or 1.0
        reports[name] = LayerReport(
            method=layer.method,
            ranks=layer.ranks,
            params=layer.params,
            macs=layer.macs,
            dense_params=layer.dense_params,
            dense_macs=layer.dense_macs,
            predicted_relative_error=layer.relative_error,
            error_kind=layer.error_kind,
            measured_relative_error=measured,
            lower_bound=(certificate.lower / norm) ** 0.5,
            upper_bound=(certificate.upper / norm) ** 0.5,
            bound=certificate.theorem,
        )
        _check_certificate(name, reports[name], rounding(built, norm))
        model = replace_(model, name, built)
    return model, reports


def compress_(
    model: nn.Module, policy: Policy, example: Any, **options: Any
) -> tuple[nn.Module, Plan, dict[str, LayerReport]]:
    """`plan` and `apply_` in one call: (model, plan, reports)."""
    chosen = plan(model, policy, example, **options)
    deciding = ("methods", "include", "exclude", "overrides")
    method_options = {k: v for k, v in options.items() if k not in deciding}
    model, reports = apply_(model, chosen, **method_options)
    return model, chosen, reports


def rounding(layer: Factorized, squared_norm: float) -> float:
    """How far storing the factors in their own precision may move the relative error:
    eps · number of factors · Π‖factor‖ / ‖W‖, and the 1e-8 that squares leave in float64."""
    product = torch.stack([torch.linalg.vector_norm(f.to(torch.float64)) for f in layer.factors])
    eps = max(torch.finfo(f.dtype).eps for f in layer.factors)
    return float(eps * len(layer) * product.prod() / squared_norm**0.5) + 1e-7


def _check_fit(model: nn.Module, chosen: Plan) -> None:
    """The whole plan is checked before the first layer is touched."""
    for name, layer in chosen.factorized.items():
        module = layer_at(model, name)
        if kind_of(module) is None:
            raise LowRankError(
                f"layer {name!r} is a {type(module).__name__}, which has no factorized form; "
                "remove it from the plan"
            )
        skeleton(name, module, layer.method, layer.ranks)


def _check_certificate(name: str, report: LayerReport, slack: float) -> None:
    low, high = report.lower_bound - slack, report.upper_bound + slack
    if not low <= report.measured_relative_error <= high:
        raise LowRankError(
            f"layer {name!r}: the measured relative error {report.measured_relative_error:.6g} is "
            f"outside its {report.bound} bounds [{report.lower_bound:.6g}, "
            f"{report.upper_bound:.6g}]; the analysis belongs to other weights, or this is a bug: "
            "rerun analyze"
        )
