"""One narrowed inner dimension: its layers are made with fewer channels, and their errors are
certified."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.analysis.metrics import Metric
from pipeline.lowrank.factorize.layer import LayerFactorization, LayerReport, checked_report
from pipeline.lowrank.forms.surgery import Factorized, layer_at
from pipeline.lowrank.methods import Certificate, Method
from pipeline.lowrank.methods.interpolative import after_narrowing
from pipeline.lowrank.methods.narrower import NarrowerLayer
from pipeline.lowrank.network.inner.dimension import Member
from pipeline.lowrank.network.inner.narrowing import narrowed, recounted_
from pipeline.lowrank.network.linalg import put
from pipeline.lowrank.network.opening import replace_
from pipeline.lowrank.network.targets import dense_weight, write_weight_
from pipeline.lowrank.planning.plan import Plan

_EXACT = "regression on the kept channels"
_KEPT = "kept channels stay as they are"


class Narrowed:
    """A dimension that keeps `width` channels, the first ones of the elimination's order; some of
    its layers may be factorized too."""

    def __init__(
        self, plan: Plan, name: str, width: int, model: nn.Module, analysis: Analysis
    ) -> None:
        """name: of the dimension, which the plan narrows to this width."""
        assert plan.narrowing is not None
        self.dimension, elimination = plan.narrowing.found[name], plan.narrowing.eliminations[name]
        self.width, self.analysis, self.expected = width, analysis, plan.expected
        self.kept = elimination.kept(width)
        self.dense = {
            member.layer: layer_at(model, member.layer, in_first=member.in_first)
            for member in self.dimension
        }
        self._elimination = elimination
        self._ends: dict[str, NarrowerLayer] = {}
        self._metrics: dict[str, Metric | None] = {}
        self.methods: dict[str, Method] = {}
        self.factorized: dict[str, LayerFactorization] = {}
        for member in self.dimension.ends:
            if further := after_narrowing(plan.layers[member.layer].method):
                self.methods[member.layer] = plan.methods[further]

    def _end(self, member: Member) -> NarrowerLayer:
        """A layer that makes or reads the channels. That of experts is made anew each time: a copy
        of all experts may be as large as the network."""
        if (known := self._ends.get(member.layer)) is not None:
            return known
        weight = dense_weight(self.dense[member.layer])
        metric = self.analysis.metrics.get(member.layer)
        end = NarrowerLayer(member, weight, metric, self.dimension, self._elimination)
        if self.dimension.groups == 1:
            self._ends[member.layer] = end
        return end

    def _metric(self, member: Member) -> Metric | None:
        """The metric of a layer with fewer channels, whose roots are made once; of experts, as in
        `_end`, each time."""
        if member.layer in self._metrics:
            return self._metrics[member.layer]
        found = self._end(member).metric_at(self.width)
        if self.dimension.groups == 1:
            self._metrics[member.layer] = found
        return found

    def built(self) -> dict[str, nn.Module]:
        """{layer: the layer with fewer channels}. Biases take up the mean error where the metric
        knows E[x]."""
        return {member.layer: self._built(member) for member in self.dimension}

    def _built(self, member: Member) -> nn.Module:
        layer = narrowed(self.dense[member.layer], member, self.kept, self.dimension.width)
        if member.role == "reads":
            self._take_up_(member, layer)
        if member.layer not in self.methods:
            return layer
        one = self.factorized[member.layer] = self._factorization(member, layer)
        return one.built()

    def _take_up_(self, member: Member, layer: nn.Module) -> None:
        """Writes the weight into a layer that reads the channels, and the mean error into its
        bias."""
        write_weight_(layer, self._end(member).weight(self.width))
        metric = self.analysis.metrics.get(member.layer)
        if metric is not None and metric.mean is not None:
            change = dense_weight(self.dense[member.layer]).double() - self._wide(member, layer)
            update, bias = metric.bias_update(change), layer.bias
            assert update is not None
            assert isinstance(bias, Tensor)
            moved = bias.detach() + update.to(bias.dtype)
            layer.bias = nn.Parameter(moved, bias.requires_grad)

    def _factorization(self, member: Member, layer: nn.Module) -> LayerFactorization:
        """The factorization of a narrowed layer."""
        name, end = member.layer, self._end(member)
        expected = self.expected.layers[name]
        return LayerFactorization(
            name,
            layer,
            replace(expected, ranks=expected.ranks[1:]),
            self.methods[name],
            self._metric(member),
            weight=end.weight(self.width),
        )

    def _wide(self, member: Member, layer: nn.Module) -> Tensor:
        """The weight of a narrowed layer as one that has all channels, float64: zeros where a layer
        that reads them does not read one, the dense weight where one that makes them makes none."""
        return self._spread(member, self._stored(layer))

    @staticmethod
    def _stored(layer: nn.Module) -> Tensor:
        """The weight that a narrowed layer holds, multiplied out, float64."""
        if isinstance(layer, Factorized):
            return layer.dense_weight()
        return dense_weight(layer).double()

    def _spread(self, member: Member, weight: Tensor) -> Tensor:
        dense = dense_weight(self.dense[member.layer]).double()
        if member.role == "reads":
            return put(torch.zeros_like(dense), 1, self._index(member), weight)
        return put(dense, 0, self._index(member), weight)

    def _index(self, member: Member) -> Tensor:
        """The layer's own channels that are kept."""
        device = dense_weight(self.dense[member.layer]).device
        return member.index(self.kept.to(device), self.dimension.width)

    def reports(self, built: Mapping[str, nn.Module]) -> dict[str, LayerReport]:
        """Measures the layers that `built` gave. Raises LowRankError where an error is not the one
        that was predicted."""
        return {
            member.layer: self._report(member, built[member.layer])
            for member in self.dimension.layers
        }

    def _report(self, member: Member, layer: nn.Module) -> LayerReport:
        name, expected = member.layer, self.expected.layers[member.layer]
        if member.role != "reads" and name not in self.factorized:
            return checked_report(
                name, expected, measured=0, lower=0, upper=0, theorem=_KEPT, rounding=1e-7
            )
        end = self._end(member)
        stored, there = self._stored(layer), end.weight(self.width)
        exact, certificate, given_up = there, Certificate(0.0, 0.0, ""), 0.0
        if one := self.factorized.get(name):
            exact = one.method.form.reconstruct(one.factors)
            certificate = one.method.certify(one.spectra, one.expected.ranks)
        if end.reads:
            given_up = end.errors()[self.width].item()
            change = self.analysis.whiten(name, end.dense.double() - self._spread(member, stored))
        else:  # no other channels change
            change = self._whiten(member, there - stored)
        norm = self.analysis.spectra[name].squared_norm or 1.0
        lower, upper = (
            ((given_up + c) / norm) ** 0.5 for c in (certificate.lower, certificate.upper)
        )
        return checked_report(
            name,
            expected,
            measured=float(change.norm()) / norm**0.5,
            lower=lower,
            upper=upper,
            theorem=", ".join(filter(None, [_EXACT if end.reads else "", certificate.theorem])),
            rounding=float(self._whiten(member, stored - exact).norm()) / norm**0.5 + 1e-7,
        )

    def _whiten(self, member: Member, change: Tensor) -> Tensor:
        """A change of the weight that a narrowed layer has, in the metric there."""
        metric = self._metric(member)
        return metric.whiten(change) if metric else change

    def widen_(self, network: nn.Module) -> nn.Module:
        """Puts layers with all channels in the place of the narrowed ones: those of the dense
        network, with the weights that are left (multiplied out where they are factorized), and in
        the readers zeros for the channels that are not kept. The function stays the same.

        network: one that has the narrowed layers.
        """
        for member in self.dimension:
            if member.role == "counts":
                recounted_(layer_at(network, member.layer), member, self.dense[member.layer])
                continue
            layer = copy.deepcopy(self.dense[member.layer])
            if member in self.dimension.ends:
                small = layer_at(network, member.layer, in_first=member.in_first)
                write_weight_(layer, self._wide(member, small))
                if isinstance(found := getattr(small, "bias", None), Tensor):
                    bias = found.detach().clone()
                    if member.role != "reads":
                        bias = layer.bias.detach().index_copy(0, self._index(member), bias)  # type: ignore[operator]
                    layer.bias = nn.Parameter(bias)
            network = replace_(network, member.layer, layer)
        return network
