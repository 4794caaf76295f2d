"""Decide, then act: `plan` changes nothing, `apply_` only executes a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis import Analysis, analyze, reached_targets
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.linalg import relative_error
from pipeline.lowrank.methods import Method, make_methods
from pipeline.lowrank.methods.uniqueness import Uniqueness
from pipeline.lowrank.metric import DAMPING
from pipeline.lowrank.moments import collect_moments
from pipeline.lowrank.overrides import Override, named_methods
from pipeline.lowrank.planning import Plan, PlannedLayer, make_plan
from pipeline.lowrank.policies import Policy
from pipeline.lowrank.spectrum import analyze_weight
from pipeline.lowrank.surgery import (
    Factorized,
    fill_,
    layer_at,
    replace_,
    shift_bias_,
    skeleton,
)
from pipeline.lowrank.target import dense_weight, groups_of, kind_of


@dataclass(frozen=True)
class LayerReport:
    """Errors of one factorized layer, all relative norms in the plan's metric: what the plan
    predicted, what the stored factors measure, and what a theorem allows: lower ≤ measured ≤
    upper, up to the `rounding` of the stored factors. `uniqueness`: of a CP alone."""

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
    rounding: float
    uniqueness: Uniqueness | None = None


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
        part = _Part(module, layer, methods[layer.method], analysis, name)
        part.fill_(built)
        if certified:
            reports[name] = part.report(built)
        model = replace_(model, name, built)
    return model, reports


class _Part:
    """One planned layer: its weight in the plan's metric, what fills it, what certifies it."""

    def __init__(
        self,
        module: nn.Module,
        layer: PlannedLayer,
        method: Method,
        analysis: Analysis | None,
        name: str,
    ) -> None:
        self.module, self.layer, self.method, self.name = module, layer, method, name
        self.weight = dense_weight(module)
        self.metric = analysis.metrics.get(name) if analysis else None
        self.whitened = self._whiten(self.weight)
        groups = groups_of(module)
        self.spectra = analysis.spectra[name] if analysis else analyze_weight(self.weight, groups)

    def fill_(self, built: Factorized) -> None:
        """Factors, and the dense layer's bias with what it takes up of the mean error."""
        factors = self.method.factorize(self.whitened, self.spectra, self.layer.ranks)
        bias = getattr(self.module, "bias", None)
        fill_(built, self.metric.unwhiten(factors) if self.metric else factors, bias)
        if self.metric and self.metric.mean is not None:
            change = self.weight.to(torch.float64) - built.dense_weight()
            update = self.metric.bias_update(change)
            assert update is not None
            shift_bias_(built, update)

    def report(self, built: Factorized) -> LayerReport:
        """Raises LowRankError if the factors are out of bounds."""
        layer, spectra = self.layer, self.spectra
        certificate = self.method.certify(spectra, layer.ranks)
        norm = spectra.squared_norm or 1.0
        outputs, *others = self.weight.shape
        report = LayerReport(
            method=layer.method,
            ranks=layer.ranks,
            params=layer.params,
            macs=layer.macs,
            dense_params=layer.dense_params,
            dense_macs=layer.dense_macs,
            predicted_relative_error=layer.relative_error,
            error_kind=layer.error_kind,
            measured_relative_error=relative_error(
                self.whitened, self._whiten(built.dense_weight())
            ),
            lower_bound=(certificate.lower / norm) ** 0.5,
            upper_bound=(certificate.upper / norm) ** 0.5,
            bound=certificate.theorem,
            rounding=_rounding(built, norm, self.metric.stretch() if self.metric else 1.0),
            uniqueness=self.method.uniqueness(
                [outputs // groups_of(self.module), *others], layer.ranks
            ),
        )
        _check_certificate(self.name, report)
        return report

    def _whiten(self, weight: Tensor) -> Tensor:
        return self.metric.whiten(weight) if self.metric else weight


def compress_(
    model: nn.Module, policy: Policy, example: Any, **options: Any
) -> tuple[nn.Module, Plan, dict[str, LayerReport]]:
    """`plan` and `apply_` in one call: (model, plan, reports)."""
    chosen = plan(model, policy, example, **options)
    deciding = ("methods", "metric", "calibration", "damping", "include", "exclude", "overrides")
    method_options = {k: v for k, v in options.items() if k not in deciding}
    model, reports = apply_(model, chosen, **method_options)
    return model, chosen, reports


def _rounding(layer: Factorized, squared_norm: float, stretch: float) -> float:
    """How far storing the factors in their own precision may move the relative error:
    eps · number of factors · Π‖factor‖ · (stretch of the metric) / ‖W‖, and the 1e-8 that squares
    leave in float64."""
    product = torch.stack([torch.linalg.vector_norm(f.to(torch.float64)) for f in layer.factors])
    eps = max(torch.finfo(f.dtype).eps for f in layer.factors)
    return float(eps * len(layer) * product.prod() * stretch / squared_norm**0.5) + 1e-7


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


def _check_certificate(name: str, report: LayerReport) -> None:
    low, high = report.lower_bound - report.rounding, report.upper_bound + report.rounding
    if not low <= report.measured_relative_error <= high:
        raise LowRankError(
            f"layer {name!r}: the measured relative error {report.measured_relative_error:.6g} is "
            f"outside its {report.bound} bounds [{report.lower_bound:.6g}, "
            f"{report.upper_bound:.6g}]; the analysis belongs to other weights, or this is a bug: "
            "rerun analyze"
        )
