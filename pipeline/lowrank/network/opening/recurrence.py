"""Recurrent networks whose input weights, recurrent weights and projections are layers.

Torch's fused kernel goes on running. Of a factorized input layer it is given the last factor as its
input weight, and what the first factor makes of the input: a recurrent layer that reads as many
channels as the rank. Recurrent weights it is given multiplied out: their factors save parameters
and no time. Step by step, on factors, a loop took a CPU core 2 to 9 times as long as the fused
kernel at 64 channels, and 0.5 to 1.2 times as long from 256 channels on (rank a quarter of them,
1 or 32 sequences of 100 steps).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from pipeline.lowrank.network.opening.products import (
    multiplied_out,
    must_be_called,
    product,
    side_by_side,
)
from pipeline.lowrank.network.opening.steps import walk

_KERNELS: dict[str, Callable[..., Any]] = {
    "LSTM": torch._VF.lstm,
    "GRU": torch._VF.gru,
    "RNN_TANH": torch._VF.rnn_tanh,
    "RNN_RELU": torch._VF.rnn_relu,
}
LAYERS = {"ih": "input", "hh": "hidden", "hr": "projection"}
# The packed parameters: weight or bias, of which layer, at which place (l0, l0_reverse, l1, …).
_PACKED = re.compile(r"(weight|bias)_(ih|hh|hr)_(l\d+(?:_reverse)?)")


class OpenRecurrent(nn.RNNBase):
    """A recurrent network whose weights are layers, `input_l0`, `hidden_l0`, `input_l0_reverse`, …;
    it answers for the packed parameters."""

    def forward(
        self, input: Tensor | PackedSequence, hx: Any = None
    ) -> tuple[Tensor | PackedSequence, Any]:
        """As of torch's own classes."""
        if isinstance(input, PackedSequence):
            x, sizes, order, back = input
            states = None if hx is None else _permuted(self._listed(hx), order)
            x, states = self._run(x, states, sizes)
            return PackedSequence(x, sizes, order, back), self._given(_permuted(states, back))
        if input.dim() not in (2, 3):
            raise ValueError(f"{self.mode}: expected input of 2 or 3 dimensions, got {input.dim()}")
        alone, batch = input.dim() == 2, 0 if self.batch_first else 1
        states = None if hx is None else self._listed(hx)
        if alone:
            input = input.unsqueeze(batch)
            states = states and [state.unsqueeze(1) for state in states]
        x, states = self._run(input, states, None)
        if alone:
            x, states = x.squeeze(batch), [state.squeeze(1) for state in states]
        return x, self._given(states)

    def _run(
        self, x: Tensor, states: list[Tensor] | None, sizes: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """(outputs, final states) of all layers; sizes: of the batches of a packed sequence."""
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                f"{x.shape[-1]}"
            )
        states = self._zeros(x, sizes) if states is None else self._fitting(states, x, sizes)
        directions = 2 if self.bidirectional else 1
        finals = []
        for index in range(self.num_layers):
            of_layer = slice(index * directions, (index + 1) * directions)
            own = [state[of_layer] for state in states]
            stepwise = self._is_stepwise(index, x)
            x, final = (self._walked if stepwise else self._fused)(index, x, own, sizes)
            finals.append(final)
            if index < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, self.training)
        return x, [torch.cat(parts) for parts in zip(*finals, strict=True)]

    def _places(self, index: int) -> list[str]:
        return [f"l{index}", f"l{index}_reverse"] if self.bidirectional else [f"l{index}"]

    def _layer(self, kind: str, place: str) -> nn.Module:
        layer: nn.Module = self._modules[f"{kind}_{place}"]  # type: ignore[assignment]
        return layer

    def _is_stepwise(self, index: int, x: Tensor) -> bool:
        """Whether the recurrent weights of a layer are called, one step after the other. To
        multiply factors out takes as long as rank positions do with the product. A graph, whose
        batch may be of any size, has the kernel."""
        fused = torch.compiler.is_compiling()
        kinds = ("hidden", "projection") if self.proj_size else ("hidden",)
        for layer in (self._layer(kind, place) for kind in kinds for place in self._places(index)):
            ranks: tuple[int, ...] = getattr(layer, "ranks", ())
            few = not fused and x.numel() // x.shape[-1] <= max(ranks, default=0)
            if few or must_be_called(layer):
                return True
        return False

    def _fused(
        self, index: int, x: Tensor, states: list[Tensor], sizes: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """One layer by torch's kernel."""
        places = self._places(index)
        products = [product(self._layer("input", place), x) for place in places]
        value, matrices = side_by_side([(p.value, p.matrix) for p in products])
        weights: list[Tensor] = []
        for place, one, matrix in zip(places, products, matrices, strict=True):
            recurrent, bias = multiplied_out(self._layer("hidden", place))
            weights += [matrix.to(recurrent.dtype), recurrent]
            if bias is not None:
                given = torch.zeros_like(bias) if one.bias is None else one.bias
                weights += [given, bias]
            if self.proj_size:
                weights.append(multiplied_out(self._layer("projection", place))[0])
        value = value.to(states[0].dtype)
        before = tuple(states) if self.mode == "LSTM" else states[0]
        flags = (self.bias, 1, 0.0, self.training, self.bidirectional)
        if sizes is None:
            result = _KERNELS[self.mode](value, before, weights, *flags, self.batch_first)
        else:
            result = _KERNELS[self.mode](value, sizes, before, weights, *flags)
        return result[0], list(result[1:])

    def _walked(
        self, index: int, x: Tensor, states: list[Tensor], sizes: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """One layer, one step after the other."""
        outputs, finals, axis = [], [], 1 if self.batch_first else 0
        for which, place in enumerate(self._places(index)):
            gates = self._layer("input", place)(x)
            steps = gates.unbind(axis) if sizes is None else gates.split(sizes.tolist())
            found, final = walk(
                self.mode,
                steps,
                [state[which].to(gates.dtype) for state in states],
                self._layer("hidden", place),
                self._layer("projection", place) if self.proj_size else None,
                backwards=which == 1,
            )
            outputs.append(torch.stack(found, axis) if sizes is None else torch.cat(found))
            finals.append(final)
        return torch.cat(outputs, -1), [torch.stack(parts) for parts in zip(*finals, strict=True)]

    def _state_shapes(self, x: Tensor, sizes: Tensor | None) -> list[tuple[int, int, int]]:
        """The shapes (layers · directions, N, channels) of the states."""
        batch = int(sizes[0]) if sizes is not None else x.shape[0 if self.batch_first else 1]
        count = self.num_layers * (2 if self.bidirectional else 1)
        output = (count, batch, self.proj_size or self.hidden_size)
        return [output, (count, batch, self.hidden_size)] if self.mode == "LSTM" else [output]

    def _zeros(self, x: Tensor, sizes: Tensor | None) -> list[Tensor]:
        return [x.new_zeros(shape) for shape in self._state_shapes(x, sizes)]

    def _fitting(self, states: list[Tensor], x: Tensor, sizes: Tensor | None) -> list[Tensor]:
        for state, shape in zip(states, self._state_shapes(x, sizes), strict=True):
            if state.shape != shape:
                raise RuntimeError(f"Expected hidden size {shape}, got {list(state.shape)}")
        return states

    def _listed(self, hx: Any) -> list[Tensor]:
        return list(hx) if self.mode == "LSTM" else [hx]

    def _given(self, states: list[Tensor]) -> Any:
        return tuple(states) if self.mode == "LSTM" else states[0]

    def __getattr__(self, name: str) -> Any:
        """The packed parameters, and all else as of nn.Module."""
        if found := _PACKED.fullmatch(name):
            return getattr(self._layer(LAYERS[found[2]], found[3]), found[1])
        return super().__getattr__(name)

    def flatten_parameters(self) -> None:
        """Nothing: there is no one block of memory that holds the parameters."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        nn.Module._apply(self, fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return vars(self).copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]


def _permuted(states: list[Tensor], order: Tensor | None) -> list[Tensor]:
    return states if order is None else [state.index_select(1, order) for state in states]
