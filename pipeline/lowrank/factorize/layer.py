"""One planned layer: its factors are found and filled in, and its errors are certified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.analysis.spectra import Spectra, analyze_weight, with_directions
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.surgery import Factorized, fill_, shift_bias_, unfilled
from pipeline.lowrank.methods import Method
from pipeline.lowrank.methods.candidate import ErrorKind
from pipeline.lowrank.methods.uniqueness import Uniqueness
from pipeline.lowrank.network.targets import dense_weight, groups_of
from pipeline.lowrank.planning.plan import ExpectedLayer


@dataclass(frozen=True)
class LayerReport:
    """Errors of one factorized layer, all of them ‖W − Ŵ‖/‖W‖ in the plan's metric.

    predicted_relative_error: what the plan expected; `error_kind` says whether exactly that.
    measured_relative_error: that of the stored factors.
    lower_bound, upper_bound: what `theorem` allows; lower ≤ measured ≤ upper, up to `rounding`.
    rounding: ‖Ŵ − Ŵ₆₄‖/‖W‖, how far storing the factors in the layer's dtype moved their product
        from that of the float64 factors, measured in the metric too; and 1e-7.
    uniqueness: for a CP, whether its factors are the only ones; else None.
    correction: for a layer that was refit, ‖V − W‖/‖V‖ of the weight V that was factorized in the
        place of W; the errors are then those of V, in the metric of the refit. Else None.
    """

    method: str
    ranks: tuple[int, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    predicted_relative_error: float
    error_kind: ErrorKind
    measured_relative_error: float
    lower_bound: float
    upper_bound: float
    theorem: str
    rounding: float
    uniqueness: Uniqueness | None = None
    correction: float | None = None


class LayerFactorization:
    """A planned layer: the weight to approximate, the norm in which, and the method that does it.

    metric: None is the Frobenius norm.
    weight: (out, in/groups, *kernel), the dense layer's own or one that takes its place.
    spectra: of the whitened weight.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        expected: ExpectedLayer,
        method: Method,
        metric: Metric | None,
        *,
        weight: Tensor | None = None,
        spectra: Spectra | None = None,
    ) -> None:
        self.name, self.module, self.expected, self.method = name, module, expected, method
        self.metric = metric
        self.weight = dense_weight(module) if weight is None else weight
        self.spectra = spectra or analyze_weight(self.whiten(self.weight), groups_of(module))
        self.factors: tuple[Tensor, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        module: nn.Module,
        expected: ExpectedLayer,
        method: Method,
        metric: Metric | None,
        spectra: Spectra,
    ) -> Self:
        """The layer with the weight of `module`, and its metric and spectra of an analysis. Where
        that kept values alone, the directions of these ranks are computed."""
        one = cls(name, module, expected, method, metric, spectra=spectra)
        if spectra.values_alone:
            weight, (rank, *_) = one.whiten(one.weight), expected.ranks
            one.spectra = with_directions(spectra, weight, rank, name)
        return one

    def built(self) -> Factorized:
        """The layer with its factors and the dense layer's bias, which takes up the mean error
        where the metric knows E[x]. Raises LowRankError when the ranks do not fit, and where a
        factor is larger than the layer's number format can hold."""
        ranks = self.expected.ranks
        layer = unfilled(self.name, self.module, self.method.form, ranks)
        given = (self.weight, self.spectra, ranks)
        if self.metric is None:
            factors = self.method.factorize(*given)
        else:
            factors = self.method.factorize_in(self.metric, *given)
        self.factors = factors
        fill_(layer, factors, getattr(self.module, "bias", None))
        self._check_held(layer.factors)
        if self.metric and self.metric.mean is not None:
            change = self.weight.to(torch.float64) - layer.dense_weight()
            update = self.metric.bias_update(change)
            assert update is not None
            shift_bias_(layer, update)
        return layer

    def report(self, built: Factorized, *, predicted: bool = True) -> LayerReport:
        """Measures the stored factors of the layer that `built` gave.

        predicted: whether the plan's prediction is of this weight; False for a weight that a refit
            corrected. Raises LowRankError where the error is outside its bounds, or where a
            prediction of this weight that is called exact was missed.
        """
        spectra, ranks = self.spectra, self.expected.ranks
        certificate = self.method.certify(spectra, ranks)
        norm = spectra.squared_norm or 1.0
        outputs, *others = self.weight.shape
        stored = built.dense_weight()
        return checked_report(
            self.name,
            self.expected,
            measured=self.distance(stored),
            lower=(certificate.lower / norm) ** 0.5,
            upper=(certificate.upper / norm) ** 0.5,
            theorem=certificate.theorem,
            rounding=self._rounding(stored),
            uniqueness=self.method.uniqueness([outputs // groups_of(self.module), *others], ranks),
            predicted=predicted,
        )

    def _check_held(self, stored: Sequence[Tensor]) -> None:
        """Pivots are channels of the product itself, which may be larger than those of W."""
        if all(torch.isfinite(factor).all() for factor in stored):
            return
        form = stored[0].dtype
        raise LowRankError(
            f"layer {self.name!r}: a factor by {self.method.name} is larger than {form} can hold "
            f"({torch.finfo(form).max:.3g}); plan a method without pivots there (svd, tucker2), or "
            f"leave the layer out with exclude=[{self.name}]"
        )

    def distance(self, other: Tensor) -> float:
        """‖W − other‖/‖W‖ in the metric, float64; ‖other‖ for W = 0."""
        return self._length(self.weight.to(torch.float64) - other.to(torch.float64))

    def _rounding(self, stored: Tensor) -> float:
        """How far the product of the stored factors is from that of the float64 ones, relative to
        ‖W‖ in the metric, and the 1e-8 that squares leave in float64. By the triangle inequality
        the measured error is no farther from that of the float64 factors."""
        exact = self.method.form.reconstruct([f.to(torch.float64) for f in self.factors])
        return self._length(stored - exact.to(stored.device)) + 1e-7

    def _length(self, change: Tensor) -> float:
        return float(self.whiten(change).norm()) / (self.spectra.squared_norm**0.5 or 1.0)

    def whiten(self, weight: Tensor) -> Tensor:
        """A weight in the layer's metric, float64."""
        return self.metric.whiten(weight) if self.metric else weight


def checked_report(
    name: str,
    expected: ExpectedLayer,
    *,
    measured: float,
    lower: float,
    upper: float,
    theorem: str,
    rounding: float,
    uniqueness: Uniqueness | None = None,
    predicted: bool = True,
) -> LayerReport:
    """The report of a layer that was built, its relative errors as of `LayerReport`. Raises
    LowRankError where the measured one is outside its bounds, or is not what was `predicted`."""
    report = LayerReport(
        method=expected.method,
        ranks=expected.ranks,
        params=expected.params,
        macs=expected.macs,
        dense_params=expected.dense_params,
        dense_macs=expected.dense_macs,
        predicted_relative_error=expected.relative_error,
        error_kind=expected.error_kind,
        measured_relative_error=measured,
        lower_bound=lower,
        upper_bound=upper,
        theorem=theorem,
        rounding=rounding,
        uniqueness=uniqueness,
    )
    _check_certificate(name, report)
    if predicted:
        _check_prediction(name, report)
    return report


def _check_certificate(name: str, report: LayerReport) -> None:
    low, high = report.lower_bound - report.rounding, report.upper_bound + report.rounding
    if not low <= report.measured_relative_error <= high:
        raise LowRankError(
            f"layer {name!r}: the measured relative error {report.measured_relative_error:.6g} is "
            f"outside its {report.theorem} bounds [{report.lower_bound:.6g}, "
            f"{report.upper_bound:.6g}]; the analysis belongs to other weights, or this is a bug: "
            "rerun analyze"
        )


def _check_prediction(name: str, report: LayerReport) -> None:
    predicted, measured = report.predicted_relative_error, report.measured_relative_error
    off = {
        "exact": abs(measured - predicted),
        "upper_bound": measured - predicted,
        "estimate": 0.0,
    }[report.error_kind]
    if not off <= report.rounding:
        word = "exactly" if report.error_kind == "exact" else "at most"
        raise LowRankError(
            f"layer {name!r}: the plan predicts {word} the relative error {predicted:.6g}, "
            f"measured is {measured:.6g}; the plan belongs to other weights, another analysis or "
            f"other options of {report.method}: make it again with rank-select"
        )
