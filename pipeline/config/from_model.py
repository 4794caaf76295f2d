"""What a network that is not trained here knows of its own data: preprocessing, and its classes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pipeline.data.options import USED
from pipeline.data.preprocessing import PREPROCESSING_JSON, Preprocessing, load_preprocessing
from pipeline.models.processors import PROCESSOR_JSON, own_classes, own_constants

TRANSFORMER = "pipeline.models.huggingface.load"
# Options that say how inputs are normalised; one of them is enough.
EXPLICIT = ("normalise", "mean", "transform", "processor")


def fill_from_model(values: dict[str, Any]) -> None:
    """Fills in what the configuration leaves open of `data` and a pretrained network's own files
    say: its classes (`id2label`), and its preprocessing, which is that of the saved network of this
    project whose weights are imported, the processor or constants of a transformer, or the
    constants of timm. In place; values: the sections as plain values, not checked yet."""
    data, model, baseline = (values.get(key) or {} for key in ("data", "model", "baseline"))
    used = next((keys for name, keys in USED.items() if name == data.get("name")), ())
    folder = _folder(model)
    if folder is not None and "class_names" in used and data.get("class_names") is None:
        data["class_names"] = _listed(own_classes(folder))
    if baseline.get("source") == "train" or "normalise" not in used:
        return
    if any(data.get(key) is not None for key in EXPLICIT):
        return
    weights = baseline.get("weights")
    if isinstance(weights, str) and (Path(weights).parent / PREPROCESSING_JSON).is_file():
        _take(data, used, load_preprocessing(Path(weights).parent))
    elif folder is not None:
        _of_transformer(data, used, folder, model["name"])
    elif str(model.get("_target_")).startswith("timm."):
        _of_timm(data, used, model)


def _folder(model: dict[str, Any]) -> Path | None:
    """The folder of a transformer, if it lies on this machine."""
    if model.get("_target_") != TRANSFORMER or not isinstance(model.get("name"), str):
        return None
    return folder if (folder := Path(model["name"])).is_dir() else None


def _take(data: dict[str, Any], used: tuple[str, ...], saved: Preprocessing) -> None:
    if saved.transform is not None and "transform" in used:
        data["transform"] = dict(saved.transform)
    elif "inputs" in saved.channels:
        channels = saved.channels["inputs"]
        data["mean"], data["std"] = list(channels.mean), list(channels.std)
    elif not saved.channels and saved.processor is None:
        data["normalise"] = "none"
    if saved.size is not None and "size" in used and data.get("size") is None:
        data["size"] = list(saved.size)
        data["resize"], data["colour"] = saved.resize or "crop", saved.colour or "rgb"


def _of_transformer(data: dict[str, Any], used: tuple[str, ...], folder: Path, name: str) -> None:
    if "processor" in used and data.get("size") is None and (folder / PROCESSOR_JSON).is_file():
        data["processor"] = name
    elif (constants := own_constants(folder)) is not None:
        data["mean"], data["std"] = (list(values) for values in constants)


def _of_timm(data: dict[str, Any], used: tuple[str, ...], model: dict[str, Any]) -> None:
    """timm's pretrained_cfg of the model's name; nothing where it has none, or timm is missing."""
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        return  # building the model says so
    found = timm.get_pretrained_cfg(str(model.get("model_name")), allow_unregistered=True)
    mean, std = (getattr(found, key, None) for key in ("mean", "std"))
    if mean is None or std is None:
        return
    data["mean"], data["std"] = list(mean), list(std)
    size = getattr(found, "input_size", None)
    if size is not None and "size" in used and data.get("size") is None:
        data["size"] = list(size[1:])


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)
