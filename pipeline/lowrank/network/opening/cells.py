"""LSTMCell, GRUCell and RNNCell, opened: the input weights are the Linear `input`, the
recurrent ones the Linear `hidden`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.network.opening.base import Opening, linear, packed_class
from pipeline.lowrank.network.opening.products import (
    factors_of,
    multiplied_out,
    must_be_called,
    product,
)
from pipeline.lowrank.network.opening.steps import STEPS

_KERNELS: dict[str, Callable[..., Any]] = {
    "LSTM": torch._VF.lstm_cell,
    "GRU": torch._VF.gru_cell,
    "RNN_TANH": torch._VF.rnn_tanh_cell,
    "RNN_RELU": torch._VF.rnn_relu_cell,
}
_LAYERS = {"ih": "input", "hh": "hidden"}
_PACKED = re.compile(r"(weight|bias)_(ih|hh)")


class OpenCell(nn.RNNCellBase):
    """A cell whose weights are layers; it answers for the packed parameters."""

    input: nn.Module
    hidden: nn.Module

    def __getattr__(self, name: str) -> Any:
        """The packed parameters, and all else as of nn.Module."""
        if found := _PACKED.fullmatch(name):
            return getattr(self._modules[_LAYERS[found[2]]], found[1])
        return super().__getattr__(name)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As of torch's own classes."""
        if input.dim() not in (1, 2):
            raise ValueError(f"expected input of 1 or 2 dimensions, got {input.dim()}")
        of_lstm = isinstance(self, nn.LSTMCell)
        states = None if hx is None else list(hx) if of_lstm else [hx]
        alone = input.dim() == 1
        if alone:
            input = input[None]
            states = states and [state[None] for state in states]
        if states is None:
            zeros = input.new_zeros(len(input), self.hidden_size)
            states = [zeros, zeros] if of_lstm else [zeros]
        found = self._called(input, states) if self._is_called() else self._fused(input, states)
        if alone:
            found = [state[0] for state in found]
        return tuple(found) if of_lstm else found[0]

    def _is_called(self) -> bool:
        """Whether the recurrent weights have to be called: always where they are factorized, since
        multiplying out takes longer than one step."""
        return must_be_called(self.hidden) or len(factors_of(self.hidden)) > 1

    def _called(self, input: Tensor, states: list[Tensor]) -> list[Tensor]:
        return STEPS[self._mode()](self.input(input), self.hidden(states[0]), states)

    def _fused(self, input: Tensor, states: list[Tensor]) -> list[Tensor]:
        one, (weight, other) = product(self.input, input), multiplied_out(self.hidden)
        bias = torch.zeros_like(other) if one.bias is None and other is not None else one.bias
        value, matrix = (tensor.to(weight.dtype) for tensor in (one.value, one.matrix))
        mode = self._mode()
        given = tuple(states) if mode == "LSTM" else states[0]
        found = _KERNELS[mode](value, given, matrix, weight, bias, other)
        return list(found) if mode == "LSTM" else [found]

    def _mode(self) -> str:
        if isinstance(self, nn.LSTMCell | nn.GRUCell):
            return "LSTM" if isinstance(self, nn.LSTMCell) else "GRU"
        return f"RNN_{self.nonlinearity}".upper()


class OpenLSTMCell(OpenCell, nn.LSTMCell):
    """nn.LSTMCell whose weights are layers."""


class OpenGRUCell(OpenCell, nn.GRUCell):
    """nn.GRUCell whose weights are layers."""


class OpenRNNCell(OpenCell, nn.RNNCell):
    """nn.RNNCell whose weights are layers."""


_OPEN: dict[type[nn.Module], type[OpenCell]] = {
    nn.LSTMCell: OpenLSTMCell,
    nn.GRUCell: OpenGRUCell,
    nn.RNNCell: OpenRNNCell,
}
_ORDER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(Opening):
    """nn.LSTMCell, nn.GRUCell and nn.RNNCell ↔ their open classes."""

    def fits(self, module: nn.Module) -> bool:
        return type(module) in _OPEN

    def obstacle(self, module: nn.Module) -> str | None:
        if other := set(_ORDER) ^ module._parameters.keys():
            return f"its class has {', '.join(sorted(other))} in another way"
        return super().obstacle(module)

    def open_(self, module: nn.Module) -> None:
        held = module._parameters
        module.__class__ = _OPEN[type(module)]
        for kind, name in _LAYERS.items():
            weight, bias = held.pop(f"weight_{kind}"), held.pop(f"bias_{kind}")
            assert weight is not None
            module._modules[name] = linear(weight, bias, training=module.training)

    def is_open(self, module: nn.Module) -> bool:
        return isinstance(module, OpenCell)

    def close_(self, module: nn.Module) -> None:
        assert isinstance(module, OpenCell)
        found = {name: getattr(module, name) for name in _ORDER}
        module._modules.clear()
        module.__class__ = packed_class(module, _OPEN)  # type: ignore[assignment]
        module._parameters.clear()
        module._parameters.update(found)
