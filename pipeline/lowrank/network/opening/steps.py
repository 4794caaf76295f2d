"""Recurrent layers one step of time after the other, by calling their layers: where hooks listen to
the recurrent weights, and where their factors are not worth multiplying out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# (what the input adds to the gates, what the state before adds to them, that state) → the state.
Step = Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]]


def lstm_step(given: Tensor, recurrent: Tensor, states: list[Tensor]) -> list[Tensor]:
    """[output, cell] of the next step; a projection of the output is still to come."""
    enter, keep, new, show = (given + recurrent).chunk(4, -1)
    cell = torch.sigmoid(keep) * states[1] + torch.sigmoid(enter) * torch.tanh(new)
    return [torch.sigmoid(show) * torch.tanh(cell), cell]


def gru_step(given: Tensor, recurrent: Tensor, states: list[Tensor]) -> list[Tensor]:
    """[output] of the next step."""
    reset, keep, new = given.chunk(3, -1)
    reset_before, keep_before, new_before = recurrent.chunk(3, -1)
    fresh = torch.tanh(new + torch.sigmoid(reset + reset_before) * new_before)
    return [fresh + torch.sigmoid(keep + keep_before) * (states[0] - fresh)]


def tanh_step(given: Tensor, recurrent: Tensor, states: list[Tensor]) -> list[Tensor]:
    """[output] of the next step."""
    return [torch.tanh(given + recurrent)]


def relu_step(given: Tensor, recurrent: Tensor, states: list[Tensor]) -> list[Tensor]:
    """[output] of the next step."""
    return [torch.relu(given + recurrent)]


STEPS: dict[str, Step] = {
    "LSTM": lstm_step,
    "GRU": gru_step,
    "RNN_TANH": tanh_step,
    "RNN_RELU": relu_step,
}


def walk(
    mode: str,
    gates: Sequence[Tensor],
    states: list[Tensor],
    hidden: nn.Module,
    projection: nn.Module | None,
    *,
    backwards: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """(outputs of each step, final states of each example).

    mode: the key of STEPS.
    gates: for each step (examples that have this step, gates), what the input adds; longer examples
        come first, as in a PackedSequence.
    states: of all examples before the first step, each (N, channels).
    hidden: makes of an output what it adds to the gates of the next step.
    projection: of the output of an LSTM, or None.
    backwards: from the last step to the first.
    """
    now = [state[: len(gates[-1])] for state in states] if backwards else states
    outputs: list[Tensor] = []
    ended: list[list[Tensor]] = []
    for given in reversed(gates) if backwards else gates:
        count, before = len(given), len(now[0])
        if count < before:
            ended.append([state[count:] for state in now])
            now = [state[:count] for state in now]
        elif count > before:
            now = [torch.cat([n, s[before:count]]) for n, s in zip(now, states, strict=True)]
        now = STEPS[mode](given, hidden(now[0]), now)
        if projection is not None:
            now[0] = projection(now[0])
        outputs.append(now[0])
    finals = [torch.cat(parts) for parts in zip(now, *reversed(ended), strict=True)]
    return outputs[::-1] if backwards else outputs, finals
