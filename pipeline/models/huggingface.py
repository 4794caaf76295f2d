"""Transformers as networks of this project, rebuilt without a hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.machine.checksums import check_sha256, content_sha256
from pipeline.machine.fetching import PYPI, locate
from pipeline.models.heads import HEADS, adapt, head_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(*, name: str, sha256: str | None, task: str, dtype: str) -> nn.Module:
    """A pretrained transformer, in eval mode: model(tokens) with tokens (N, T) int64, where
    PADDING stands for no token, model(images) with values (N, C, H, W), or by keywords.

    name: a folder of transformers' own format, a .gguf file (dequantised), pypi:… (see
    `packages.locate`), or a name on the Hugging Face hub. `sha256`: of the wheel, or the
    `content_sha256` of the file or folder. dtype: of the weights, float32, bfloat16 or float16.

    By task it gives causal_lm, masked_lm, seq2seq: logits (N, vocabulary, T), classes in dimension
    1 as everywhere in torch; token_classification: (N, classes, T); segmentation: (N, classes, H,
    W) in the size of the image; classification, sequence_classification, multilabel, regression:
    (N, classes); encoder: the mean of the last hidden states over the tokens, (N, width); custom:
    all that transformers gives. Parameters keep transformers' names.

    Raises LowRankError for an unknown task or dtype and for what cannot be loaded.
    """
    return adapt(from_pretrained(name, sha256, task=task, dtype=dtype), task)


def from_pretrained(name: str, sha256: str | None, *, task: str, dtype: str) -> Any:
    """The model as transformers has it, in eval mode; arguments and errors as of `load`."""
    transformers = _transformers(task, dtype)
    arguments = _source(name, sha256)
    try:
        config = transformers.AutoConfig.from_pretrained(**arguments)
        model, report = head_of(transformers, task, config).from_pretrained(
            **arguments, dtype=_DTYPES[dtype], output_loading_info=True
        )
    except Exception as error:  # whatever transformers makes of a damaged folder
        raise _unloadable(name, error) from error
    # transformers would give them random values. An encoder's pooler is never used here.
    missing = sorted(k for k in report["missing_keys"] if not k.startswith("pooler."))
    if missing:
        raise LowRankError(
            f"model.name={name}: has no weights for {', '.join(missing[:3])}; give a checkpoint "
            f"that was trained for the task {task}"
        )
    return model.eval()


def skeleton(*, name: str, task: str, dtype: str, config: Mapping[str, Any]) -> nn.Module:
    """The module that `load` gives, made from its configuration alone with uninitialised weights;
    so network.json keeps a transformer. `name` is for titles."""
    transformers = _transformers(task, dtype)
    from transformers.initialization import no_init_weights

    with no_init_weights():
        known = transformers.AutoConfig.for_model(**config)
        head = head_of(transformers, task, known)
        make = getattr(head, "from_config", None) or head._from_config
        model = make(known, dtype=_DTYPES[dtype])
    model.tie_weights()
    return adapt(model, task)


def self_contained(spec: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The spec that network.json keeps: the spec itself, but for `load` the loaded configuration,
    so that nothing outside the folder is needed to build the module again."""
    if spec.get("_target_") != f"{__name__}.load":
        return dict(spec)
    config = model.config.to_dict()  # type: ignore[operator,union-attr]
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)  # dequantised; and a machine's path
    return {
        "_target_": f"{__name__}.skeleton",
        "name": _title(spec["name"]),
        "task": spec["task"],
        "dtype": spec["dtype"],
        "config": config,
    }


def load_tokenizer(name: str, sha256: str | None) -> Any:
    """The tokenizer that belongs to the network `name`."""
    transformers = _transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(**_source(name, sha256))
    except Exception as error:  # whatever transformers makes of a damaged folder
        raise _unloadable(name, error) from error


def _source(name: str, sha256: str | None) -> dict[str, Any]:
    """from_pretrained's arguments for `name`, its checksum verified."""
    place = locate(name, sha256)
    if not place.exists():
        if place.is_absolute() or name.startswith((".", "~")) or place.suffix == ".gguf":
            raise LowRankError(f"model.name={name}: no such file or folder; correct the path")
        if sha256 is not None:
            raise LowRankError(f"model.sha256: {name} is a name on a hub; set it to null")
        return {"pretrained_model_name_or_path": name}
    if sha256 is not None and not name.startswith(PYPI):
        check_sha256(name, content_sha256(place), sha256, "correct model.sha256")
    if place.is_dir():
        return {"pretrained_model_name_or_path": str(place)}
    if place.suffix != ".gguf":
        raise LowRankError(f"model.name={name}: give a folder or a .gguf file")
    return {"pretrained_model_name_or_path": str(place.parent), "gguf_file": place.name}


def _transformers(task: str = "causal_lm", dtype: str = "float32") -> ModuleType:
    """The library, quiet; imported late, because most networks do without it."""
    for key, value, known in (("task", task, HEADS), ("model.dtype", dtype, _DTYPES)):
        if value not in known:
            raise LowRankError(f"{key}={value}: unknown; choose one of {', '.join(known)}")
    try:
        import transformers
    except ImportError as error:
        raise LowRankError(
            "this model needs transformers: pip install 'lowrank-pipeline[transformers]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return cast(ModuleType, transformers)


def _unloadable(name: str, error: Exception) -> LowRankError:
    reason = reason_of(error)
    return LowRankError(
        f"model.name={name}: cannot be loaded ({reason}); without the hub, give a local folder "
        "or a .gguf file"
    )


def _title(name: str) -> str:
    """SmolLM2-135M of any/path/SmolLM2-135M.gguf; the distribution of a wheel's folder."""
    if name.startswith(PYPI) and not name.endswith(".gguf"):
        return name.partition(":")[2].partition("==")[0]
    return Path(name).name.removesuffix(".gguf")
