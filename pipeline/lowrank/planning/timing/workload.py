"""What is timed: one call of the network with a batch, or one step of a text that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import (
    arguments,
    call,
    count_examples,
    device_of,
    placed,
    rows_of,
)
from pipeline.lowrank.typed import knob, options

WorkloadKind = Literal["batch", "decode"]


@options
class Workload:
    """The call whose time is counted, where the latency is a cost."""

    workload: WorkloadKind = knob(
        default="batch",
        help="latency: the time of a batch, which computing bounds, or of one further token of one "
        "text with cached keys, which reading the weights bounds",
    )
    workload_examples: int = knob(default=32, ge=1, help="latency: examples of the batch at most")

    def __str__(self) -> str:
        if self.workload == "decode":
            return "one further token, cached keys"
        return f"a batch of {self.workload_examples}"

    def run(self, model: nn.Module, batch: Any) -> Callable[[], object]:
        """The call, ready to be repeated; the model must be in eval mode.

        batch: what the model takes, of which the first examples are used; for `decode` the token
            ids of a text.

        Raises LowRankError for `decode` where the model keeps no keys.
        """
        if self.workload == "decode":
            return _step(model, placed(rows_of(batch, slice(0, 1)), device_of(model)))
        chosen = rows_of(batch, slice(0, min(self.workload_examples, count_examples(batch))))
        chosen = placed(chosen, device_of(model))
        return lambda: call(model, chosen)


def _step(model: nn.Module, text: Any) -> Callable[[], object]:
    """One further token after the text, which is read once; the cache is cut again each time."""
    cache = _read(model, text)
    ids = text["input_ids"] if isinstance(text, Mapping) else arguments(text)[0][0]
    assert isinstance(ids, Tensor)
    last = ids[:, -1:]

    def step() -> None:
        model(input_ids=last, past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return step


@torch.no_grad()
def _read(model: nn.Module, text: Any) -> Any:
    """The keys and values that the model keeps of a text."""
    kept: list[Any] = []

    def keep(*call: Any) -> None:
        kept.append(getattr(call[-1], "past_key_values", None))

    # Before other hooks, which may pass on the logits alone.
    handle = model.register_forward_hook(keep, prepend=True)
    given, named = arguments(text)
    try:
        model(*given, **named, use_cache=True)
    except TypeError:
        kept.append(None)
    finally:
        handle.remove()
    if not hasattr(kept[-1], "crop"):
        raise LowRankError(
            "workload=decode: the network keeps no keys and values of a text (a transformer that "
            "generates does); choose workload=batch"
        )
    return kept[-1]
