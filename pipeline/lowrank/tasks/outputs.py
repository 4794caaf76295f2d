"""What a network gives: tensors, tuples, dicts, objects of transformers; and parts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError

# A key or an index, several of them, or a function of the output.
Selector = str | int | list[str | int] | tuple[str | int, ...] | Callable[[Any], Any]

TASKS_PAGE = "docs/tasks.md has the tasks"


def select(output: Any, chosen: Selector) -> Any:
    """The chosen part of a network's output; several parts are a tuple. Raises LowRankError where
    there is no such part."""
    if isinstance(chosen, list | tuple):
        return tuple(select(output, one) for one in chosen)
    if callable(chosen):
        return chosen(output)
    try:
        return _part(output, chosen)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise LowRankError(
            f"task.output={chosen}: the network gives {described(output)}, which has no such "
            "part; name one that it has"
        ) from error


def _part(output: Any, chosen: str | int) -> Any:
    named = isinstance(chosen, str) and not isinstance(output, Mapping)
    return getattr(output, str(chosen)) if named else output[chosen]


def leaves(output: Any) -> Iterator[Tensor]:
    """The tensors of a network's output, in its order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from leaves(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from leaves(value)


def numbers(output: Any, task: str) -> list[Tensor]:
    """The tensors of floating numbers of a network's output that have a row for each example, each
    (N, …) and N the length of the first one; scalars, such as a loss, are none of them.

    Raises LowRankError where there is none, and where tensors differ in length.
    """
    found = [one for one in leaves(output) if one.is_floating_point() and one.dim()]
    if not found:
        raise LowRankError(
            f"the network gives {described(output)}, in which the task {task} finds no numbers; "
            "choose a part of it with output=…, a key, an index or a function; " + TASKS_PAGE
        )
    if len({len(one) for one in found}) > 1:
        raise LowRankError(
            f"the network gives {described(output)}, tensors of several lengths: choose those with "
            f"a row an example with output=…, keys, indices or a function; {TASKS_PAGE}"
        )
    return found


def one_tensor(output: Any, task: str, instead: str) -> Tensor:
    """The only tensor (N, …) of floating numbers that the output is, or its `logits`.

    instead: what to do about another output; it ends the LowRankError for one.
    """
    found = output if isinstance(output, Tensor) else part(output, "logits")
    if isinstance(found, Tensor) and found.is_floating_point() and found.dim():
        return found
    raise LowRankError(
        f"the task {task}: the network gives {described(output)}; {instead}; {TASKS_PAGE}"
    )


def part(output: Any, name: str) -> Any:
    """The entry of a dict or the attribute of an object; None where there is none."""
    named = output.get(name) if isinstance(output, Mapping) else None
    return getattr(output, name, None) if named is None else named


def described(output: Any) -> str:
    """An output in a few words: its shape, or its type with the shapes inside."""
    if isinstance(output, Tensor):
        number = "" if output.is_floating_point() else f" of {output.dtype}".replace("torch.", "")
        return f"{list(output.shape)}{number}"
    if isinstance(output, Mapping):
        inside = [f"{key}: {described(value)}" for key, value in list(output.items())[:6]]
    elif isinstance(output, tuple | list):
        inside = [described(value) for value in output[:6]]
    else:
        return type(output).__name__
    more = ", …" if len(output) > 6 else ""
    return f"{type(output).__name__} ({', '.join(inside)}{more})"


def flattened(tensors: list[Tensor]) -> Tensor:
    """(N, …) tensors side by side, (N, numbers)."""
    return torch.cat([one.reshape(len(one), -1) for one in tensors], dim=1)
