"""Measures by torchmetrics: what a metric gathered from single batches is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # two seconds of import, which who measures nothing need not wait for
    from torchmetrics import Metric


class Gathered:
    """What a metric of torchmetrics knows of some examples: its state, or, of a metric whose
    states cannot be merged, what it was updated with."""

    def __init__(self, metric: Metric, updates: Sequence[tuple[Any, Any]]) -> None:
        self._metric, self._updates = metric, list(updates)
        if _mergeable(metric):
            for update in self._updates:
                metric.update(*update)
            self._updates = []

    def value(self) -> float:
        """The metric of these examples; NaN where it is undefined. A metric of several values is
        their mean over those that are defined."""
        for update in self._updates:
            self._metric.update(*update)
        found = self._metric.compute()
        if self._updates:
            self._metric.reset()
        if isinstance(found, Mapping):  # a detector's metric: its first figure is the headline
            found = next(iter(found.values()))
        return float(torch.as_tensor(found).double().nanmean())

    def joined_by(self, others: Sequence[Gathered]) -> Gathered:
        """All examples together."""
        whole = Gathered(self._metric.clone(), [])
        whole._updates = [u for one in (self, *others) for u in one._updates]
        if _mergeable(self._metric):
            for other in others:
                whole._metric.merge_state(other._metric)
        return whole


def _mergeable(metric: Metric) -> bool:
    return metric.full_state_update is False and not metric.dist_sync_on_step


def gather(metric: Metric, prediction: Any, target: Any) -> Gathered:
    """What the metric makes of a batch, on the CPU and without gradients."""
    return Gathered(metric, [(on_cpu(prediction), on_cpu(target))])


def on_cpu(value: Any) -> Any:
    """Tensors, and what is built of them, without gradients and on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: on_cpu(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        found = [on_cpu(one) for one in value]
        return found if isinstance(value, list) else tuple(found)
    return value


def together(values: Sequence[Any]) -> Any:
    """One figure of several batches as that of all their examples."""
    first, *others = values
    return first.joined_by(others) if isinstance(first, Gathered) else torch.cat(list(values))


def measured(scores: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """{name: value} of these figures over all batches: a metric's value, else the mean."""
    found = {name: together([part[name] for part in scores]) for name in names}
    return {
        name: one.value() if isinstance(one, Gathered) else float(one.double().mean())
        for name, one in found.items()
    }
