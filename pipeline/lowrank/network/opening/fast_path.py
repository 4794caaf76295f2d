"""torch's transformer encoders have a fast path, which takes their layers' weights and runs none of
these layers. Opened, they run their layers."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from pipeline.lowrank.network.opening.base import Opening

# The attribute on which the fast path depends, and its value where there is none. An encoder's
# makes nested tensors of padded batches, which its layers take on their fast path alone.
_SWITCHES: dict[type[nn.Module], tuple[str, int]] = {
    nn.TransformerEncoder: ("use_nested_tensor", False),
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
}
_KEPT = "_fast_path"  # holds the value that the switch had


class FastPath(Opening):
    """Encoders and their layers, and subclasses, which inherit the fast path."""

    makes_parts: ClassVar[bool] = False

    def fits(self, module: nn.Module) -> bool:
        return any(
            isinstance(module, kind) and bool(getattr(module, switch, off))
            for kind, (switch, off) in _SWITCHES.items()
        )

    def open_(self, module: nn.Module) -> None:
        switch, off = _switch(module)
        setattr(module, _KEPT, getattr(module, switch))
        setattr(module, switch, off)

    def is_open(self, module: nn.Module) -> bool:
        return _KEPT in vars(module)

    def close_(self, module: nn.Module) -> None:
        setattr(module, _switch(module)[0], vars(module).pop(_KEPT))


def _switch(module: nn.Module) -> tuple[str, int]:
    return next(switch for kind, switch in _SWITCHES.items() if isinstance(module, kind))
