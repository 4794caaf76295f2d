"""One narrowed inner dimension: its layers are made with fewer channels, and their errors are
certified."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.lowrank.analysis.analysis import Analysis
from pipeline.lowrank.factorize.layer import LayerReport, checked_report
from pipeline.lowrank.forms.surgery import layer_at
from pipeline.lowrank.methods.elimination import Elimination, Ordered, Reader
from pipeline.lowrank.network.inner.dimension import InnerDimension, Member
from pipeline.lowrank.network.inner.narrowing import narrowed
from pipeline.lowrank.network.opening import replace_
from pipeline.lowrank.network.targets import dense_weight, write_weight_
from pipeline.lowrank.planning.plan import Expected, ExpectedLayer

_EXACT = "regression on the kept channels"
_KEPT = "kept channels stay as they are"


class Narrowed:
    """A dimension that keeps `width` channels: the first ones of the elimination's order."""

    def __init__(
        self,
        dimension: InnerDimension,
        elimination: Elimination,
        width: int,
        model: nn.Module,
        analysis: Analysis,
    ) -> None:
        self.dimension, self.width, self.analysis = dimension, width, analysis
        self.order, self.kept = elimination.order, elimination.kept(width)
        self.dense = {member.layer: layer_at(model, member.layer) for member in dimension}
        self.readers = {
            member.layer: Ordered(
                Reader(
                    member,
                    dense_weight(self.dense[member.layer]),
                    analysis.metrics.get(member.layer),
                    dimension.width,
                ),
                self.order,
            )
            for member in dimension.readers
        }

    def built(self) -> dict[str, nn.Module]:
        """{layer: the layer with fewer channels}. Biases take up the mean error where the metric
        knows E[x]."""
        return {
            member.layer: self._reader(member) if member.role == "reads" else self._other(member)
            for member in self.dimension
        }

    def _other(self, member: Member) -> nn.Module:
        module = self.dense[member.layer]
        return narrowed(module, member, self.kept, self.dimension.width)

    def _reader(self, member: Member) -> nn.Module:
        layer = self._other(member)
        write_weight_(layer, self.readers[member.layer].narrowed(self.width))
        metric = self.analysis.metrics.get(member.layer)
        if metric is not None and metric.mean is not None:
            change = dense_weight(self.dense[member.layer]).double() - self._wide(member, layer)
            update, bias = metric.bias_update(change), layer.bias
            assert update is not None
            assert isinstance(bias, Tensor)
            moved = bias.detach() + update.to(bias.dtype)
            layer.bias = nn.Parameter(moved, bias.requires_grad)
        return layer

    def _wide(self, member: Member, layer: nn.Module) -> Tensor:
        """The narrowed layer's weight as one that reads all channels, with zeros, float64."""
        return self._spread(member, dense_weight(layer).double())

    def _spread(self, member: Member, weight: Tensor) -> Tensor:
        wide = torch.zeros_like(dense_weight(self.dense[member.layer]), dtype=torch.float64)
        return wide.index_copy_(1, member.index(self.kept, self.dimension.width), weight)

    def reports(self, built: Mapping[str, nn.Module], expected: Expected) -> dict[str, LayerReport]:
        """Measures the layers that `built` gave. Raises LowRankError where an error is not the one
        that was predicted."""
        return {
            member.layer: self._report(member, built[member.layer], expected.layers[member.layer])
            for member in self.dimension.layers
        }

    def _report(self, member: Member, layer: nn.Module, expected: ExpectedLayer) -> LayerReport:
        if member.role != "reads":
            return checked_report(
                member.layer, expected, measured=0, lower=0, upper=0, theorem=_KEPT, rounding=1e-7
            )
        reader = self.readers[member.layer]
        exact = self._spread(member, reader.narrowed(self.width))
        stored = self._wide(member, layer)
        bound = self._relative(member, reader.errors()[self.width].sqrt())
        return checked_report(
            member.layer,
            expected,
            measured=self._length(member, dense_weight(self.dense[member.layer]).double() - stored),
            lower=bound,
            upper=bound,
            theorem=_EXACT,
            rounding=self._length(member, stored - exact) + 1e-7,
        )

    def _length(self, member: Member, change: Tensor) -> float:
        return self._relative(member, self.analysis.whiten(member.layer, change).norm())

    def _relative(self, member: Member, length: Tensor) -> float:
        norm = self.analysis.spectra[member.layer].squared_norm
        return length.item() / (norm**0.5 or 1.0)

    def widen_(self, network: nn.Module) -> nn.Module:
        """Puts layers with all channels in the place of the narrowed ones: those of the dense
        network, and in the readers zeros for the channels that are not kept. The function stays the
        same.

        network: one that has the narrowed layers.
        """
        for member in self.dimension:
            layer = copy.deepcopy(self.dense[member.layer])
            if member.role == "reads":
                small = layer_at(network, member.layer)
                write_weight_(layer, self._wide(member, small))
                if isinstance(small.bias, Tensor):
                    layer.bias = nn.Parameter(small.bias.detach().clone())
            network = replace_(network, member.layer, layer)
        return network
