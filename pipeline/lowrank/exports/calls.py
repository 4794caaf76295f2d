"""Examples as a network is called with them, in several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.fresh import tensors_of
from pipeline.lowrank.network.calling import call

_MOST = 8  # examples of a call: an export is checked, not measured


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a network: by position, and by keyword."""

    given: tuple[Tensor, ...] = ()
    named: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All arguments, those by position under their places."""
        return {**{str(i): value for i, value in enumerate(self.given)}, **self.named}

    @property
    def batch(self) -> int:
        """How many examples there are."""
        return next((len(value) for value in self.tensors.values() if value.dim()), 1)

    def examples(self) -> Iterator[Call]:
        """The calls of one example each."""
        for i in range(self.batch):
            yield Call(*_each(self, lambda x, i=i: x[i : i + 1]))

    def cast(self, dtype: torch.dtype | None) -> Call:
        """The same with values (not ids) in a number format; None: as they are."""
        return Call(*_each(self, lambda x: x.to(dtype) if x.is_floating_point() else x))

    def of(self, model: nn.Module) -> dict[str, Tensor]:
        """{name: tensor} of the model's outputs, on the CPU. Raises LowRankError where the model
        does not run with these arguments, or gives no tensor."""
        try:
            with torch.no_grad():
                found = tensors_of(call(model, dict(self.named) if self.named else self.given))
        except LowRankError:
            raise
        except Exception as error:  # whatever the network's own code raises
            shapes = ", ".join(f"{k}: {list(x.shape)}" for k, x in self.tensors.items())
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LowRankError(
                f"example ({shapes}): the network fails with it ({reason}); give a batch as it "
                "takes it"
            ) from error
        if not found:
            raise LowRankError("the network's output holds no tensor that could be compared")
        return {key: value.detach().cpu().clone() for key, value in found.items()}


def calls_of(example: Any) -> tuple[Call, ...]:
    """The example (a batch: a tensor, or a tuple or dict of tensors); the same with one example
    more; and, of sequences of ids, shorter ones: no size of an example may be frozen into an
    export."""
    first = Call(*_each(ready(example), lambda x: x[:_MOST]))
    taller = Call(*_each(first, lambda x: torch.cat([x, x[:1]])))
    found = [first, taller]
    if lengths := {len(x[0]) for x in first.tensors.values() if is_sequence(x)}:
        cut = max(lengths) - 1
        if cut > 1:
            shorter = Call(*_each(first, lambda x: x[:, :cut] if is_sequence(x) else x))
            found.append(shorter)
    return tuple(found)


def is_sequence(value: Tensor) -> bool:
    """Whether a tensor is (N, T) of ids or of a mask: its length is free, as its batch is."""
    return value.dim() == 2 and not value.is_floating_point()


def ready(example: Any) -> Call:
    """The call of a batch, on the CPU. Raises LowRankError where it holds anything but tensors."""
    if isinstance(example, Mapping):
        call = Call((), dict(example))
    else:
        call = Call(tuple(example) if isinstance(example, tuple | list) else (example,))
    for name, value in call.tensors.items():
        if not isinstance(value, Tensor) or not value.dim():
            raise LowRankError(
                f"example: {name} is a {type(value).__name__}; give a batch of examples as the "
                "network takes it: a tensor, or a tuple or dict of tensors"
            )
    return Call(*_each(call, lambda x: x.detach().cpu().clone()))


def _each(one: Call, change: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    return tuple(map(change, one.given)), {k: change(v) for k, v in one.named.items()}
