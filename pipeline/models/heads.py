"""Which head of transformers a task has, and how its inputs and outputs become the task's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import PADDING

# Task → the classes of transformers that have its head, of which the model's own kind is taken.
_SEQUENCE, _IMAGE = "AutoModelForSequenceClassification", "AutoModelForImageClassification"
HEADS: dict[str, tuple[str, ...]] = {
    "causal_lm": ("AutoModelForCausalLM",),
    "sequence_classification": (_SEQUENCE,),
    "encoder": ("AutoModel",),
    "masked_lm": ("AutoModelForMaskedLM",),
    "seq2seq": ("AutoModelForSeq2SeqLM",),
    "token_classification": ("AutoModelForTokenClassification",),
    "classification": (_IMAGE, "AutoModelForAudioClassification"),
    "multilabel": (_IMAGE, _SEQUENCE),
    "regression": (_IMAGE, _SEQUENCE),
    "segmentation": ("AutoModelForSemanticSegmentation",),
    "custom": (),  # the class that the configuration names
}
_TEXTS = (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask"))

_Call = tuple[tuple[()], dict[str, Any]]  # arguments and keywords of transformers' own forward


def head_of(transformers: Any, task: str, config: Any) -> Any:
    """The class of transformers that makes a model of this configuration with the task's head.

    Raises LowRankError where this kind of model has none.
    """
    for name in HEADS[task]:
        head = getattr(transformers, name)
        if type(config) in head._model_mapping:
            return head
    named = (config.architectures or [""])[0]
    if task == "custom" and hasattr(transformers, named):
        return getattr(transformers, named)
    raise LowRankError(
        f"model.name: transformers has no {config.model_type} for the task {task}"
        + (f" ({', '.join(HEADS[task])})" if HEADS[task] else "; its configuration names no class")
        + "; choose another task, or model._target_"
    )


def adapt(model: nn.Module, task: str) -> nn.Module:
    """Puts hooks on the model rather than a module around it, so that names and checkpoints stay
    transformers' own."""
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # nothing is generated
    read, answer = _HOOKS.get(task, (_texts, _logits))
    model.register_forward_pre_hook(read, with_kwargs=True)
    model.register_forward_hook(answer, with_kwargs=True)
    return model.eval()


def _tokens_alone(model: nn.Module, arguments: tuple[Any, ...], keywords: Any) -> _Call | None:
    """What follows a token doesn't change it: behind the text, padding needs no mask."""
    if not arguments:
        return _texts(model, arguments, keywords)
    return (), keywords | {"input_ids": arguments[0].clamp(min=0)}


def _texts(model: nn.Module, arguments: tuple[Any, ...], keywords: Any) -> _Call | None:
    """Token ids, positional or by name, with the mask of what is no padding; other inputs are
    transformers' own."""
    if arguments and arguments[0].is_floating_point():
        return None
    given = dict(keywords)
    if arguments:
        given["input_ids"] = arguments[0]
    for ids, mask in _TEXTS:
        if isinstance(given.get(ids), Tensor):
            text = (given[ids] != PADDING).to(torch.int64)
            given.setdefault(mask, text)
            given[ids] = given[ids] * text
    return (), given


def _classes_first(*call: Any) -> Tensor:
    logits: Tensor = call[-1].logits
    return logits.transpose(1, 2)


def _logits(*call: Any) -> Tensor:
    logits: Tensor = call[-1].logits
    return logits


def _whole(*call: Any) -> Any:
    return call[-1]


def _as_large_as_the_image(
    model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any
) -> Tensor:
    """Logits at each pixel: most networks give them at a fraction of the image's size."""
    image = arguments[0] if arguments else keywords["pixel_values"]
    logits: Tensor = output.logits
    if logits.shape[2:] == image.shape[2:]:
        return logits
    return functional.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)


def _mean_state(
    model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any
) -> Tensor:
    states: Tensor = output.last_hidden_state
    mask: Tensor = keywords["attention_mask"].unsqueeze(-1).to(states.dtype)
    return (states * mask).sum(1) / mask.sum(1)


_HOOKS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "causal_lm": (_tokens_alone, _classes_first),
    "encoder": (_texts, _mean_state),
    "masked_lm": (_texts, _classes_first),
    "seq2seq": (_texts, _classes_first),
    "token_classification": (_texts, _classes_first),
    "segmentation": (_texts, _as_large_as_the_image),
    "custom": (_texts, _whole),
}
