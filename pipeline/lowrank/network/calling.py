"""Calling a network with a batch of any layout, and finding the padding in it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, compress
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError

PADDING = -1  # stands for no token: it is no part of the text, and is masked in every model


def call(model: nn.Module, batch: Any) -> Any:
    """model(batch); a tuple or list is spread over positional arguments, and a dict, or what acts
    as one, over keywords. Raises LowRankError where the model's forward takes no such arguments."""
    given, named = arguments(batch)
    try:
        return model(*given, **named)
    except TypeError as error:
        if (problem := _misfit(model, given, named)) is None:
            raise  # the fault is inside of the model
        raise LowRankError(
            f"the model's forward does not take a batch of {len(given) + len(named)} arguments "
            f"({problem}); batches hold what the model takes, without labels"
        ) from error


def arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments of a call with this batch."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,), {}


def _misfit(model: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> str | None:
    """Why these are no arguments of the model's forward, or None where they are."""
    try:
        signature = inspect.signature(model.forward)
    except ValueError:  # not written in Python
        return None
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        return str(error)
    return None


def layer_input(given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """What a layer reads, from the arguments of its call: the first of them, or the first keyword
    where it is called by keywords alone."""
    return given[0] if given else next(iter(named.values()))


def first_example(batches: Sequence[Any]) -> Any:
    """A batch of one: the first example of the first batch that has one. Raises LowRankError where
    none has."""
    if not len(batches):
        raise LowRankError("give an example (a batch of one), or calibration batches")
    filled = next((batch for batch in batches if count_examples(batch)), None)
    if filled is None:
        raise LowRankError("no calibration batch holds an example: give one with examples")
    return rows_of(filled, slice(0, 1))


def beginning_of(model: nn.Module, example: Any, most: int) -> Any:
    """An example of text with its first `most` tokens alone, where the model takes it so; else the
    very same example. Text is token ids (N, T), with whatever else is (N, T) beside them."""
    named = example if isinstance(example, Mapping) else {"": example}
    values = list(named.values())
    shapes = {value.shape if isinstance(value, Tensor) else None for value in values}
    (shape,) = shapes if len(shapes) == 1 else (None,)
    if shape is None or len(shape) != 2 or shape[1] <= most:
        return example
    if not any(value.dtype == torch.int64 for value in values):
        return example
    cut = {key: value[:, :most] for key, value in named.items()}
    short = cut if isinstance(example, Mapping) else cut[""]
    try:
        answer(model, placed(short, device_of(model)))
    except Exception:  # whatever other people's code raises for a length that it was not made for
        return example
    return short


def rows_of(batch: Any, chosen: slice) -> Any:
    """The chosen examples of a batch: of its tensor, or of each tensor in its tuple or dict."""
    if isinstance(batch, Tensor):
        return batch[chosen]
    if isinstance(batch, Mapping):
        return {key: rows_of(value, chosen) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        rows = [rows_of(value, chosen) for value in batch]
        return rows if isinstance(batch, list) else tuple(rows)
    return batch


def evenly(batches: Sequence[Any], share: float) -> tuple[list[Any], list[Any]]:
    """(`share` of the batches, at least one and evenly spread; the other batches)."""
    chosen = [int((i + 1) * share) > int(i * share) for i in range(len(batches))]
    if chosen and not any(chosen):
        chosen[0] = True
    return list(compress(batches, chosen)), list(compress(batches, (not c for c in chosen)))


def count_examples(batch: Any) -> int:
    """The length of the first tensor in a batch. Raises LowRankError where there is none."""
    if isinstance(batch, Tensor) and batch.dim():
        return len(batch)
    values = batch.values() if isinstance(batch, Mapping) else batch
    for value in values if isinstance(batch, Mapping | tuple | list) else ():
        if isinstance(value, Tensor) and value.dim():
            return len(value)
    raise LowRankError(
        f"a batch is a {type(batch).__name__} without a tensor: give tensors, or tuples or dicts "
        "of them"
    )


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer lies; the CPU for one that has none."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def placed(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: placed(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        there = [placed(value, device) for value in batch]
        return there if isinstance(batch, list) else tuple(there)
    return batch


def beside(model: nn.Module, batches: Sequence[Any]) -> list[Any]:
    """The batches with their tensors where the model lies."""
    device = device_of(model)
    return [placed(batch, device) for batch in batches]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in eval mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def with_gradients(model: nn.Module, wanted: bool) -> Iterator[None]:
    """A context in which all parameters want gradients, or none does; afterwards each wants what it
    wanted."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(wanted)
    try:
        yield
    finally:
        for parameter, value in before.items():
            parameter.requires_grad_(value)


def answer(model: nn.Module, batch: Any) -> Any:
    """The model's output for a batch, in eval mode and without gradients."""
    with torch.no_grad(), evaluating(model):
        return call(model, batch)


def backward(loss: Tensor) -> None:
    """The backward pass of a loss. Raises LowRankError where the network has none in eval mode."""
    try:
        torch.autograd.backward(loss)
    except RuntimeError as error:  # of the network's own functions
        told = " ".join(str(error).split())[:200]
        raise LowRankError(
            f"the network has no backward pass in eval mode ({told}); choose the metric input, "
            "which needs none"
        ) from error


def padding_mask(batch: Any) -> Tensor | None:
    """(N, T) bool, false at padding; None where the batch has none.

    The mask is the `attention_mask` of a dict, or of its `input_ids`; in token ids, negative ones
    are padding. Where `decoder_input_ids` are of the same shape there is none: a layer's positions
    could be those of either text.
    """
    if not isinstance(batch, Mapping):
        return _text(batch)
    given = batch.get("attention_mask")
    mask = _text(batch.get("input_ids")) if given is None else given.bool()
    decoder = batch.get("decoder_input_ids")
    mixed = mask is not None and isinstance(decoder, Tensor) and decoder.shape == mask.shape
    return None if mixed else mask


def _text(ids: Any) -> Tensor | None:
    if isinstance(ids, Tensor) and ids.dim() == 2 and ids.dtype == torch.int64:
        return ids >= 0
    return None


def hold_out(batches: Sequence[Any], share: float) -> tuple[list[Any], list[Any]]:
    """(the batches without the last `share` of their examples; these last examples as batches)."""
    sizes = [count_examples(batch) for batch in batches]
    kept = sum(sizes) - round(share * sum(sizes))
    before: list[Any] = []
    after: list[Any] = []
    for batch, size in zip(batches, sizes, strict=True):
        part = min(max(kept, 0), size)
        before += [rows_of(batch, slice(0, part))] if part else []
        after += [rows_of(batch, slice(part, size))] if part < size else []
        kept -= size
    return before, after


def up_to(batches: Sequence[Any], most: int) -> list[Any]:
    """The first `most` examples, as batches."""
    found: list[Any] = []
    for batch in batches:
        size = min(count_examples(batch), most)
        if size:
            found.append(rows_of(batch, slice(0, size)))
        most -= size
    return found
