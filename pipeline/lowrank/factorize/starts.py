"""What a refit starts from, layer by layer: the dense layer, or one with fewer channels."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.factorize.drift import Drift, measure_drift, measure_narrower
from pipeline.lowrank.factorize.layer import LayerReport, checked_report
from pipeline.lowrank.forms.dense import dense_of
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.methods import Method
from pipeline.lowrank.methods.interpolative import after_narrowing, is_narrower
from pipeline.lowrank.methods.narrower import NarrowerLayer
from pipeline.lowrank.network.inner.dimension import Member
from pipeline.lowrank.network.rows import input_rows
from pipeline.lowrank.network.targets import dense_weight, write_weight_
from pipeline.lowrank.planning.plan import ExpectedLayer, Plan

_CORRECTED = "the corrected weight itself"


@dataclass(frozen=True)
class Start:
    """One layer that is to be refit.

    dense: the dense network's layer.
    layer: one of the size that it has in the compressed network, without factors.
    weight: (out, in/groups, *kernel) of that size, from which it moves: the dense layer's, its kept
        rows, or what regresses the dense layer's outputs on the kept inputs of the dense network.
    left: of the metric; None where there is none.
    expected: by the plan, with the ranks of `method`; None where the layer is narrowed alone.
    rows: (·,) the dense layer's outputs that are kept; None: all.
    narrower: whether it reads fewer inputs than the dense layer.
    """

    name: str
    dense: nn.Module
    layer: nn.Module
    weight: Tensor
    left: Tensor | None
    expected: ExpectedLayer
    method: Method | None
    rows: Tensor | None = None
    narrower: bool = False

    def drift(self, dense_input: Tensor, given: Tensor, mask: Tensor | None) -> Drift:
        """The sums of one batch, x and x' being the layer's input in the two networks; mask as of
        `input_rows`."""
        x, other = (input_rows(self.dense, value, mask) for value in (dense_input, given))
        if not self.narrower:
            return measure_drift(x, other)
        weights = (weight.flatten(1) for weight in (dense_weight(self.dense), self.weight))
        return measure_narrower(x, other, *weights)

    def bias(self) -> Tensor | None:
        """The dense layer's bias, of the outputs that are kept."""
        bias = getattr(self.dense, "bias", None)
        return bias if bias is None or self.rows is None else bias[self.rows]

    def with_weight(self, weight: Tensor) -> nn.Module:
        """A layer of this size with a weight."""
        layer = copy.deepcopy(self.layer)
        write_weight_(layer, weight)
        return layer

    def report(self) -> LayerReport:
        """Of a layer whose weight is the corrected one itself."""
        return checked_report(
            self.name,
            self.expected,
            measured=0,
            lower=0,
            upper=0,
            theorem=_CORRECTED,
            rounding=1e-7,
            predicted=False,
        )


class Starts:
    """Finds what the layers of a plan start from."""

    def __init__(
        self, dense: nn.Module, compressed: nn.Module, plan: Plan, analysis: Analysis
    ) -> None:
        """dense: opened, its factorized layers multiplied out."""
        self._dense, self._compressed = dense, compressed
        self._plan, self._analysis = plan, analysis
        self._members: dict[str, tuple[str, Member]] = {
            member.layer: (name, member)
            for name in plan.widths
            if plan.narrowing is not None
            for member in plan.narrowing.found[name]
        }

    def passes(self, name: str) -> bool:
        """Whether a layer passes the channels of a narrower dimension on, each by itself."""
        return name in self._members and self._members[name][1].role == "passes"

    def narrower(self, name: str) -> bool:
        """Whether a layer reads fewer channels than the dense one."""
        return name in self._members and self._members[name][1].role == "reads"

    def of(self, name: str) -> Start:
        module, plan = self._dense.get_submodule(name), self._plan
        planned, expected = plan.factorized[name], plan.expected.layers[name]
        metric = self._analysis.metrics.get(name)
        if not is_narrower(planned.method):
            left, method = metric.left if metric else None, plan.methods[planned.method]
            return Start(name, module, module, dense_weight(module), left, expected, method)
        dimension, member = self._members[name]
        width, narrowing = planned.ranks[0], plan.narrowing
        assert narrowing is not None
        found, elimination = narrowing.found[dimension], narrowing.eliminations[dimension]
        end = NarrowerLayer(member, dense_weight(module), metric, found, elimination)
        there, reads = end.metric_at(width), member.role == "reads"
        further = after_narrowing(planned.method)
        kept = member.index(elimination.kept(width), found.width)
        return Start(
            name,
            module,
            dense_of(self._compressed.get_submodule(name)),
            end.weight(width),
            there.left if there else None,
            replace(expected, ranks=expected.ranks[1:]) if further else expected,
            plan.methods[further] if further else None,
            rows=None if reads else kept.to(dense_weight(module).device),
            narrower=reads,
        )


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weight, multiplied out where it is factorized, float64."""
    return layer.dense_weight() if isinstance(layer, Factorized) else dense_weight(layer).double()


def bias_of(layer: nn.Module) -> Tensor:
    """The bias that a layer adds at its end."""
    bias = layer[-1].bias if isinstance(layer, Factorized) else layer.bias
    assert isinstance(bias, Tensor)
    return bias
