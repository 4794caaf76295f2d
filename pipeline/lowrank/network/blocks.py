"""The blocks of a network that follow one another. They are run one at a time on stored states, so
that the blocks before one are not computed again for each block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import call, layer_input
from pipeline.lowrank.network.targets import is_one_layer


@dataclass(frozen=True)
class BlockCall:
    """The arguments with which a block is called, but for its first one, the state."""

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class _Enough(Exception):  # noqa: N818
    """Ends a forward pass whose rest is not needed."""


def find_blocks(model: nn.Module, targets: Sequence[str], remedy: str) -> list[str]:
    """Names of the entries of the ModuleList or Sequential that holds most of the `targets`. An
    nn.Sequential among the entries is replaced by its own entries.

    remedy: what the error recommends to set.

    Raises LowRankError where no list of at least two entries holds a target.
    """
    found = _most([list(_entries(*one)) for one in _lists(model)], targets)
    if not found:
        raise LowRankError(
            "the network has no blocks that follow one another, in a ModuleList or Sequential, "
            f"with a factorized layer in them; set {remedy}"
        )
    return found


def find_walk(
    model: nn.Module, targets: Sequence[str], batches: Sequence[Any], remedy: str
) -> tuple[list[str], list[list[BlockCall]]]:
    """(the blocks of `find_blocks`, their calls for each of the batches). Where several lists stand
    beside one another, as the stages of a ResNet, and the network runs them as one, they are one.

    Raises LowRankError as `find_blocks` and `record_calls` do.
    """
    blocks = find_blocks(model, targets, remedy)
    beside: dict[str, list[str]] = {}
    for name, module in _lists(model):
        beside.setdefault(name.rpartition(".")[0], []).extend(_entries(name, module))
    joined = _most([blocks, *beside.values()], targets)
    if joined != blocks:
        with suppress(LowRankError):  # they do not follow one another
            return joined, [record_calls(model, joined, batch, remedy) for batch in batches]
    return blocks, [record_calls(model, blocks, batch, remedy) for batch in batches]


def _lists(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not is_one_layer(module):
            yield name, module


def _most(lists: Sequence[list[str]], targets: Sequence[str]) -> list[str]:
    """The first of those lists of at least two entries that hold the most targets; [] where none
    holds one."""
    best: tuple[int, list[str]] = (0, [])
    for entries in lists:
        held = sum(len(targets_in(entry, targets)) for entry in entries)
        if len(entries) > 1 and held > best[0]:
            best = (held, entries)
    return best[1]


def _entries(name: str, module: nn.Module) -> Iterator[str]:
    for key, child in module.named_children():
        full = f"{name}.{key}" if name else key
        if type(child) is nn.Sequential:
            yield from _entries(full, child)
        else:
            yield full


def targets_in(block: str, targets: Sequence[str]) -> list[str]:
    """The targets that are the block itself or inside of it."""
    return [t for t in targets if t == block or t.startswith(f"{block}.")]


@torch.no_grad()
def record_calls(
    model: nn.Module, blocks: Sequence[str], batch: Any, remedy: str
) -> list[BlockCall]:
    """The call of each block in a forward pass, which ends with the last block.

    Raises LowRankError where a block is not called exactly once, right after the block before it
    and on its output, or where it is given an earlier output besides.
    """
    calls: list[BlockCall] = []
    outputs: list[Tensor] = []

    def before(block: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            place = len(calls)
            others = [*arguments[1:], *keywords.values()]
            if (
                place >= len(blocks)
                or blocks[place] != block
                or not arguments
                or (outputs and arguments[0] is not outputs[-1])
                or any(other is output for other in others for output in outputs)
            ):
                raise LowRankError(
                    f"refit walks the blocks one after the other, and {block} is not called just "
                    f"once, on the output of the block before it; set {remedy}"
                )
            calls.append(BlockCall(arguments[1:], keywords))

        return hook

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        outputs.append(state_of(output))
        if len(outputs) == len(blocks):
            raise _Enough

    handles = []
    for block in blocks:
        module = model.get_submodule(block)
        handles.append(module.register_forward_pre_hook(before(block), with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        with suppress(_Enough):
            call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if len(outputs) < len(blocks):
        raise LowRankError(f"refit: {blocks[len(calls)]} is not used in the forward pass")
    return calls


class BlockOutputs:
    """Keeps the output of each block in every forward pass of the network from now on."""

    def __init__(self, model: nn.Module, blocks: Sequence[str]) -> None:
        self._found: dict[str, Tensor] = {}
        for block in blocks:
            model.get_submodule(block).register_forward_hook(partial(self._keep, block))

    def take(self) -> list[Tensor]:
        """The blocks' outputs in the last forward pass, in the order in which the blocks ran; they
        are then forgotten."""
        found, self._found = self._found, {}
        return list(found.values())

    def _keep(self, block: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        self._found[block] = state_of(output).clone()  # what follows may work in place


class BlockStates:
    """The states of one network before a block, batch by batch; at the start those before the first
    block."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        batches: Sequence[Any],
        calls: Sequence[Sequence[BlockCall]],
    ) -> None:
        """calls: what `record_calls` gave for each of the batches."""
        self._model, self._blocks, self._calls = model, blocks, calls
        self.states = [self._first(batch) for batch in batches]

    @torch.no_grad()
    def inputs(
        self, place: int, names: Sequence[str], *, leave: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """For each batch {layer: its input}, layers in the order in which they run.

        place: the block that is run, until the last of the layers `names` was called once.
        leave: run the block to its end, and move the states behind it.
        """
        for index in range(len(self.states)):
            found: dict[str, Tensor] = {}
            with suppress(_Enough), self._watched(names, found, stop=not leave):
                state = self.output(place, index)
                if leave:
                    self.states[index] = state
            yield found

    @torch.no_grad()
    def go_on(self, place: int) -> None:
        """Moves the states behind the block at `place`."""
        self.states = [self.output(place, index) for index in range(len(self.states))]

    def output(self, place: int, index: int) -> Tensor:
        """The state behind the block at `place`, for one batch; with gradients where they are
        enabled."""
        given, block = self._calls[index][place], self._model.get_submodule(self._blocks[place])
        # A copy: blocks may work in place.
        return state_of(block(self.states[index].clone(), *given.arguments, **given.keywords))

    @torch.no_grad()
    def _first(self, batch: Any) -> Tensor:
        found: dict[str, Tensor] = {}
        with suppress(_Enough), self._watched(self._blocks[:1], found):
            call(self._model, batch)
        return found[self._blocks[0]].clone()

    @contextmanager
    def _watched(
        self, names: Sequence[str], found: dict[str, Tensor], *, stop: bool = True
    ) -> Iterator[None]:
        def hook(name: str) -> Callable[..., None]:
            def see(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
                found.setdefault(name, layer_input(given, named).detach())
                if stop and len(found) == len(names):
                    raise _Enough

            return see

        modules = {name: self._model.get_submodule(name) for name in names}
        handles = [
            m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def state_of(output: Any) -> Tensor:
    """The state in a block's output, which is its first entry where the output is a tuple (as of
    some blocks of transformers)."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
