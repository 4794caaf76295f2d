"""LSTMCell, GRUCell and RNNCell, opened: the input weights are the Linear `input`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.network.opening.base import Opening, linear, packed_class
from pipeline.lowrank.network.opening.products import product


class OpenCell(nn.RNNCellBase):
    """A cell whose input weights are a layer; it answers for the packed parameters."""

    input: nn.Module

    @property
    def weight_ih(self) -> Tensor:  # type: ignore[override]
        """(gates · hidden, in)."""
        weight: Tensor = self.input.weight  # type: ignore[assignment]
        return weight

    @property
    def bias_ih(self) -> Tensor | None:  # type: ignore[override]
        """(gates · hidden,), or None."""
        bias: Tensor | None = self.input.bias  # type: ignore[assignment]
        return bias

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
        one = product(self.input, input)
        bias = one.bias
        if bias is None and self.bias_hh is not None:
            bias = torch.zeros_like(self.bias_hh)
        value, matrix = (tensor.to(self.weight_hh.dtype) for tensor in (one.value, one.matrix))
        given = tuple(states) if of_lstm else states[0]
        found = self._kernel()(value, given, matrix, self.weight_hh, bias, self.bias_hh)
        if not alone:
            return found
        return tuple(state[0] for state in found) if of_lstm else found[0]

    def _kernel(self) -> Any:
        if isinstance(self, nn.LSTMCell):
            return torch._VF.lstm_cell
        if isinstance(self, nn.GRUCell):
            return torch._VF.gru_cell
        kind = self.nonlinearity
        return torch._VF.rnn_tanh_cell if kind == "tanh" else torch._VF.rnn_relu_cell


class OpenLSTMCell(OpenCell, nn.LSTMCell):
    """nn.LSTMCell whose input weights are a layer."""


class OpenGRUCell(OpenCell, nn.GRUCell):
    """nn.GRUCell whose input weights are a layer."""


class OpenRNNCell(OpenCell, nn.RNNCell):
    """nn.RNNCell whose input weights are a layer."""


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
        weight, bias = (module._parameters.pop(f"{kind}_ih") for kind in ("weight", "bias"))
        assert weight is not None
        module.__class__ = _OPEN[type(module)]
        module._modules["input"] = linear(weight, bias, training=module.training)

    def is_open(self, module: nn.Module) -> bool:
        return isinstance(module, OpenCell)

    def close_(self, module: nn.Module) -> None:
        assert isinstance(module, OpenCell)
        found = {name: getattr(module, name) for name in _ORDER}
        del module._modules["input"]
        module.__class__ = packed_class(module, _OPEN)  # type: ignore[assignment]
        module._parameters.clear()
        module._parameters.update(found)
