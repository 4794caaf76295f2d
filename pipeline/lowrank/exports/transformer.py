"""Networks of transformers: called as transformers calls them, known by their class's name, so that
nothing here needs the library."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.surgery import FORWARD_HOOKS

_BASE = ("transformers.modeling_utils", "PreTrainedModel")
_LENGTH = 12  # tokens of an example that is made here


def is_transformer(model: nn.Module) -> bool:
    """Whether the network is a model of transformers."""
    return any((c.__module__, c.__qualname__) == _BASE for c in type(model).__mro__)


@contextmanager
def as_transformers_calls(model: nn.Module) -> Iterator[None]:
    """A context without the hooks of the model itself, by which this project gives it one tensor
    and takes one: an export is called by keywords and answers with all that the model gives."""
    kept = {name: getattr(model, name) for name in FORWARD_HOOKS}
    for name in FORWARD_HOOKS:
        setattr(model, name, OrderedDict())
    try:
        yield
    finally:
        for name, hooks in kept.items():
            setattr(model, name, hooks)


def transformer_example(model: Any, example: Any) -> Any:
    """An example by keywords: token ids, where negative ones are padding, with their mask; random
    ids where there is no example; a dict with token ids but no mask gets one.

    Raises LowRankError where the model reads no tokens and no example was given.
    """
    if isinstance(example, Mapping):
        ids = example.get("input_ids")
        if isinstance(ids, Tensor) and "attention_mask" not in example:
            return {**example, **_tokens(ids)}
        return dict(example)
    if example is None:
        config = model.config.get_text_config()
        vocabulary = getattr(config, "vocab_size", None)
        if vocabulary is None or model.main_input_name != "input_ids":
            raise LowRankError(
                f"example: {type(model).__name__} reads {model.main_input_name}: give a batch, "
                "example={'" + model.main_input_name + "': …}"
            )
        longest = getattr(config, "max_position_embeddings", None) or _LENGTH
        size = (2, min(_LENGTH, longest))
        example = torch.randint(vocabulary, size, generator=torch.Generator().manual_seed(0))
    if not isinstance(example, Tensor):
        raise LowRankError("example: give token ids (N, T), or a dict of the model's own keywords")
    if example.is_floating_point():
        return {model.main_input_name: example}
    return _tokens(example)


def _tokens(ids: Tensor) -> dict[str, Tensor]:
    mask = (ids >= 0).to(torch.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}
