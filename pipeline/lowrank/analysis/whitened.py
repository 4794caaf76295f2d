"""Weights in the metric of an analysis, each computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.lowrank.forms.dense import dense_of
from pipeline.lowrank.network.opening import module_at
from pipeline.lowrank.network.targets import dense_weight

if TYPE_CHECKING:
    from pipeline.lowrank.analysis.analysis import Analysis


_KEPT = 2**30  # bytes


class WhitenedWeights(Mapping[str, Tensor]):
    """{target: its weight in the metric}; of a factorized layer that of its product. The latest
    ones are kept, up to a gibibyte."""

    def __init__(self, analysis: Analysis, model: nn.Module) -> None:
        self._analysis, self._model = analysis, model
        self._known: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            target = self._analysis.targets[name]
            module = module_at(self._model, name, in_first=target.in_first, split=target.split)
            weight = dense_weight(dense_of(module))
            self._known[name] = self._analysis.whiten(name, weight)
            while len(self._known) > 1 and sum(w.nbytes for w in self._known.values()) > _KEPT:
                self._known.pop(next(iter(self._known)))
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._analysis.targets)

    def __len__(self) -> int:
        return len(self._analysis.targets)
