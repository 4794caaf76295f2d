"""Bounds of one layer at a time: the certified norm of W − Ŵ, and the largest error that was
measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.bounds.linear import LinearPair, example_norms, is_linear, run
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import layer_input


@dataclass(frozen=True)
class LayerBound:
    """‖Wx − Ŵx‖ ≤ `bound`·‖x‖ for every x, W and Ŵ as operators on images of the size that was
    seen.

    bound: ≥ ‖W − Ŵ‖₂; σ_{k+1} for the plain truncated SVD of a matrix.
    theorem: where the bound comes from.
    measured: the largest ‖(W − Ŵ)h‖/‖h‖ over the layer's inputs h in the dense network, without
        bias.
    slack: by how much rounding may move `measured`.
    """

    bound: float
    theorem: str
    measured: float
    slack: float

    @property
    def tightness(self) -> float:
        """measured / bound; 1 is a bound that is reached."""
        return self.measured / self.bound if self.bound else 1.0


class LayerBounds:
    """Collects `LayerBound`s while batches pass through the dense network."""

    def __init__(self, pairs: Mapping[str, tuple[nn.Module, nn.Module]]) -> None:
        """pairs: {name: (dense layer, what replaces it)}, both float64 and in eval mode."""
        self._pairs = {name: LinearPair(*pair) for name, pair in pairs.items()}
        self._bounds: dict[tuple[str, torch.Size], LayerBound] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A context in which every call of a dense layer is measured."""
        hooks = [
            pair.dense.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, pair in self._pairs.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def result(self) -> dict[str, LayerBound]:
        """{layer: its bound}; the largest one for a layer that saw images of several sizes.

        Raises LowRankError when a measurement exceeds its bound by more than rounding.
        """
        largest: dict[str, LayerBound] = {}
        for (name, _), layer in self._bounds.items():
            if not layer.measured <= layer.bound + layer.slack:  # NaN too
                raise LowRankError(
                    f"layer {name!r}: the measured ‖(W − Ŵ)h‖/‖h‖ = {layer.measured:.9g} exceeds "
                    f"its certified bound {layer.bound:.9g} ({layer.theorem}) by more than the "
                    f"rounding {layer.slack:.2g}; this is a bug, please report it"
                )
            if name not in largest or layer.bound > largest[name].bound:
                largest[name] = layer
        return {name: largest[name] for name in self._pairs if name in largest}

    def _hook(self, name: str) -> Any:
        def hook(
            module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor
        ) -> None:
            value = layer_input(given, named)
            if not value.is_floating_point() or not is_linear(module):
                return  # an embedding
            if not value.any():
                return  # says nothing about a ratio, and comes from this package's own probes
            key = (name, value.shape[1:])
            layer = self._bounds.get(key) or self._start(name, value)
            measured = max(layer.measured, _largest_ratio(self._pairs[name], value, output))
            self._bounds[key] = replace(layer, measured=measured)

        return hook

    def _start(self, name: str, value: Tensor) -> LayerBound:
        pair, example = self._pairs[name], torch.zeros_like(value[:1])
        norm = pair.norm(pair.weight - pair.approximate_weight, example)
        # Both outputs are rounded, and so is their difference.
        return LayerBound(norm.value, norm.theorem, 0.0, 4 * pair.rounding(example))


def _largest_ratio(pair: LinearPair, value: Tensor, output: Tensor) -> float:
    difference = output - run(pair.approximate, value)
    zero = torch.zeros_like(value[:1])
    difference = difference - (pair.dense.forward(zero) - run(pair.approximate, zero))
    lengths, errors = example_norms(value), example_norms(difference)
    seen = lengths > 0
    ratio = (errors[seen] / lengths[seen]).max().item() if seen.any() else 0.0
    return ratio if not errors.isnan().any() else math.nan
