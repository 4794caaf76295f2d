"""Processors of transformers, which make inputs of images and sounds; and a model's classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.models.huggingface import _source, _transformers, _unloadable

PROCESSOR_JSON = "preprocessor_config.json"


def load_processor(name: str, sha256: str | None) -> Any:
    """The processor of images, or else of sounds, that belongs to the network `name`."""
    transformers = _transformers()
    arguments = _source(name, sha256)
    try:
        return transformers.AutoImageProcessor.from_pretrained(**arguments)
    except (OSError, ValueError) as first:
        try:
            return transformers.AutoFeatureExtractor.from_pretrained(**arguments)
        except (OSError, ValueError):
            raise _unloadable(name, first) from first


def processed(processor: Any, value: Any, name: str) -> Tensor | dict[str, Tensor]:
    """What the processor makes of one example: a tensor, or several by the names of the forward's
    keywords. name: of the example, for messages."""
    sound = isinstance(value, Tensor) and value.dim() < 3 and hasattr(processor, "sampling_rate")
    try:
        if sound:
            made = processor(
                value.squeeze(0).numpy(),
                sampling_rate=processor.sampling_rate,
                return_tensors="pt",
            )
        else:
            made = processor(images=value, return_tensors="pt")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise LowRankError(
            f"data.processor: cannot read {name} ({reason_of(error)}); give the "
            "processor of a network for such examples"
        ) from error
    found = {key: rows[0] for key, rows in made.items() if isinstance(rows, Tensor)}
    return next(iter(found.values())) if len(found) == 1 else found


def configuration_of(processor: Any) -> dict[str, Any]:
    """A processor's configuration, in the types of JSON."""
    values: dict[str, Any] = json.loads(processor.to_json_string())
    return values


def own_constants(
    folder: Path,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) in the unit in which bytes are 0…1 that preprocessor_config.json in a model's
    folder has; None where there is none, or it normalises nothing."""
    values = _json(folder / PROCESSOR_JSON)
    mean, std = values.get("image_mean"), values.get("image_std")
    if not values.get("do_normalize", True) or mean is None or std is None:
        return None
    # Processors that do not rescale read bytes as they are; those of 1/255 as 0…1.
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    unit = factor * 255
    return tuple(one / unit for one in mean), tuple(one / unit for one in std)


def own_classes(folder: Path) -> tuple[str, ...] | None:
    """The classes that config.json in a model's folder names (`id2label`), in the order of its
    outputs; None where they have no names of their own."""
    return named_classes(_json(folder / "config.json").get("id2label"))


def classes_of(name: str, sha256: str | None) -> tuple[str, ...] | None:
    """The classes of the network `name`, wherever it is; None where it has no configuration, or
    they have no names of their own."""
    return named_classes(getattr(_configuration(name, sha256), "id2label", None))


def decoder_start(name: str, sha256: str | None) -> int:
    """The token with which the network `name` begins a text that it writes. Raises LowRankError
    where its configuration names none."""
    found = _configuration(name, sha256)
    for key in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        value = getattr(found, key, None)
        if isinstance(value, int):
            return value
    raise LowRankError(
        f"data.text.tokenizer={name}: its configuration has no decoder_start_token_id, with which "
        "the second text begins; give the folder of a network that writes text"
    )


def _configuration(name: str, sha256: str | None) -> Any:
    """The configuration of the network; None where there is a tokenizer alone."""
    transformers = _transformers()
    try:
        return transformers.AutoConfig.from_pretrained(**_source(name, sha256))
    except (OSError, ValueError):
        return None


def named_classes(id2label: Mapping[Any, Any] | None) -> tuple[str, ...] | None:
    """The names of `id2label` by number; None where they are LABEL_0, … or no numbers 0…n-1."""
    if not id2label:
        return None
    names = {int(number): str(name) for number, name in id2label.items()}
    if sorted(names) != list(range(len(names))):
        return None
    if all(name == f"LABEL_{number}" for number, name in names.items()):
        return None
    return tuple(names[number] for number in range(len(names)))


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where there is no such file. Raises LowRankError for a
    damaged one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LowRankError(f"{path}: cannot be read ({error}); get the model again") from error
    return values if isinstance(values, dict) else {}
