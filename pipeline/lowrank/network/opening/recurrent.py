"""nn.LSTM, nn.GRU and nn.RNN, opened: input weights, recurrent weights and projection of each layer
and direction are Linears."""

from __future__ import annotations

from torch import nn

from pipeline.lowrank.network.opening.base import Opening, linear, packed_class
from pipeline.lowrank.network.opening.recurrence import LAYERS, OpenRecurrent

# Attributes in which torch's classes keep their parameters once more, for the fused kernel.
_LISTS = ("_flat_weights", "_flat_weights_names", "_flat_weight_refs")


class OpenLSTM(OpenRecurrent, nn.LSTM):  # type: ignore[misc]
    """nn.LSTM whose weights are layers."""


class OpenGRU(OpenRecurrent, nn.GRU):  # type: ignore[misc]
    """nn.GRU whose weights are layers."""


class OpenRNN(OpenRecurrent, nn.RNN):  # type: ignore[misc]
    """nn.RNN whose weights are layers."""


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
        for key in [key for key in held if key.startswith("weight")]:
            _, kind, place = key.split("_", 2)
            weight, bias = held.pop(key), held.pop(key.replace("weight", "bias"), None)
            assert weight is not None
            layer = linear(weight, bias, training=module.training)
            # Its products are made by a kernel that knows no factors.
            layer.is_multiplied_out = kind != "ih"  # type: ignore[assignment]
            module._modules[f"{LAYERS[kind]}_{place}"] = layer

    def is_open(self, module: nn.Module) -> bool:
        return isinstance(module, OpenRecurrent)

    def close_(self, module: nn.Module) -> None:
        assert isinstance(module, OpenRecurrent)
        found = {name: getattr(module, name) for names in module._all_weights for name in names}
        module._modules.clear()
        module.__class__ = packed_class(module, _OPEN)  # type: ignore[assignment]
        module._flat_weights_names = []
        for name, parameter in found.items():
            module.register_parameter(name, parameter)
        module._flat_weights_names = list(found)
        module._init_flat_weights()
