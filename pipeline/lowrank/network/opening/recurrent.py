"""LSTM, GRU and RNN, opened: the input weights of each layer and direction are a Linear, and
torch's fused kernel runs on what its factors make of the input. With a factorized Linear that is a
recurrent layer whose input has as many channels as the rank: the same function, and as fast."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from pipeline.lowrank.network.opening.base import Opening, linear, packed_class
from pipeline.lowrank.network.opening.products import product

_KERNELS: dict[str, Callable[..., Any]] = {
    "LSTM": torch._VF.lstm,
    "GRU": torch._VF.gru,
    "RNN_TANH": torch._VF.rnn_tanh,
    "RNN_RELU": torch._VF.rnn_relu,
}
# The parameters that become a Linear; those behind the second are of that layer and direction.
_PACKED = re.compile(r"(weight|bias)_ih_(l\d+(?:_reverse)?)")
# Attributes in which torch's classes keep their parameters once more, for the fused kernel.
_LISTS = ("_flat_weights", "_flat_weights_names", "_flat_weight_refs")


class OpenRecurrent(nn.RNNBase):
    """A recurrent network whose input weights are layers, `input_l0`, `input_l0_reverse`, …; it
    answers for the packed parameters."""

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
            x, final = self._layer(index, x, [state[of_layer] for state in states], sizes)
            finals.append(final)
            if index < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, self.training)
        return x, [torch.cat(parts) for parts in zip(*finals, strict=True)]

    def _layer(
        self, index: int, x: Tensor, states: list[Tensor], sizes: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        names = [f"l{index}", f"l{index}_reverse"] if self.bidirectional else [f"l{index}"]
        products = [product(getattr(self, f"input_{name}"), x) for name in names]
        value, matrices = _side_by_side([(p.value, p.matrix) for p in products])
        weights = []
        for name, one, matrix in zip(names, products, matrices, strict=True):
            recurrent = getattr(self, f"weight_hh_{name}")
            weights += [matrix.to(recurrent.dtype), recurrent]
            if self.bias:
                bias = recurrent.new_zeros(len(recurrent)) if one.bias is None else one.bias
                weights += [bias, getattr(self, f"bias_hh_{name}")]
            if self.proj_size:
                weights.append(getattr(self, f"weight_hr_{name}"))
        value = value.to(states[0].dtype)
        given = tuple(states) if self.mode == "LSTM" else states[0]
        flags = (self.bias, 1, 0.0, self.training, self.bidirectional)
        if sizes is None:
            result = _KERNELS[self.mode](value, given, weights, *flags, self.batch_first)
        else:
            result = _KERNELS[self.mode](value, sizes, given, weights, *flags)
        return result[0], list(result[1:])

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
            return getattr(getattr(self, f"input_{found[2]}"), found[1])
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


class OpenLSTM(OpenRecurrent, nn.LSTM):  # type: ignore[misc]
    """nn.LSTM whose input weights are layers."""


class OpenGRU(OpenRecurrent, nn.GRU):  # type: ignore[misc]
    """nn.GRU whose input weights are layers."""


class OpenRNN(OpenRecurrent, nn.RNN):  # type: ignore[misc]
    """nn.RNN whose input weights are layers."""


_OPEN: dict[type[nn.Module], type[OpenRecurrent]] = {
    nn.LSTM: OpenLSTM,
    nn.GRU: OpenGRU,
    nn.RNN: OpenRNN,
}


class Recurrent(Opening):
    """nn.LSTM, nn.GRU and nn.RNN ↔ their open classes."""

    def fits(self, module: nn.Module) -> bool:
        return type(module) in _OPEN

    def obstacle(self, module: nn.Module) -> str | None:
        assert isinstance(module, nn.RNNBase)
        known = {name for names in module._all_weights for name in names}
        if other := known ^ module._parameters.keys():
            return f"its class has {', '.join(sorted(other))} in another way"
        return super().obstacle(module)

    def open_(self, module: nn.Module) -> None:
        assert isinstance(module, nn.RNNBase)
        for name in _LISTS:
            del vars(module)[name]
        module.__class__ = _OPEN[type(module)]
        held = module._parameters
        for names in module._all_weights:
            weight = held.pop(names[0])
            assert weight is not None
            bias = held.pop(names[0].replace("weight", "bias")) if module.bias else None
            layer = linear(weight, bias, training=module.training)
            module._modules[names[0].replace("weight_ih", "input")] = layer

    def is_open(self, module: nn.Module) -> bool:
        return isinstance(module, OpenRecurrent)

    def close_(self, module: nn.Module) -> None:
        assert isinstance(module, OpenRecurrent)
        found = {name: getattr(module, name) for names in module._all_weights for name in names}
        for names in module._all_weights:
            del module._modules[names[0].replace("weight_ih", "input")]
        module._parameters.clear()
        module.__class__ = packed_class(module, _OPEN)  # type: ignore[assignment]
        module._flat_weights_names = []
        for name, parameter in found.items():
            module.register_parameter(name, parameter)
        module._flat_weights_names = list(found)
        module._init_flat_weights()


def _side_by_side(factors: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """One input for all directions of a layer, and their matrices: where the directions read
    different values, each has zeros for those of the others."""
    first = factors[0][0]
    if all(value is first for value, _ in factors):
        return first, [matrix for _, matrix in factors]
    widths = [value.shape[-1] for value, _ in factors]
    padded = [
        functional.pad(matrix, (sum(widths[:place]), sum(widths[place + 1 :])))
        for place, (_, matrix) in enumerate(factors)
    ]
    return torch.cat([value for value, _ in factors], -1), padded


def _permuted(states: list[Tensor], order: Tensor | None) -> list[Tensor]:
    return states if order is None else [state.index_select(1, order) for state in states]
