"""Networks on disk: a folder with model.safetensors and network.json. No pickles."""

from __future__ import annotations

import json
import pickle
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.surgery import layer_at, replace_, skeleton
from pipeline.lowrank.network.targets import kind_of

_FORMAT = 1


@dataclass(frozen=True)
class NetworkFile:
    """network.json: how to build the dense module (`_target_` and keyword arguments), and the
    method and ranks of each factorized layer."""

    spec: dict[str, Any]
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)


def build_model(spec: Mapping[str, Any]) -> nn.Module:
    """Calls the class or function that `_target_` names with the other entries as keywords."""
    arguments = {k: v for k, v in spec.items() if k != "_target_"}
    target = spec.get("_target_")
    if not target:
        raise LowRankError("model._target_ is empty: give the import path of an nn.Module class")
    try:
        builder = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise LowRankError(
            f"model._target_={target}: cannot be imported ({error}); the module must be on "
            "PYTHONPATH or in the directory of the command"
        ) from error
    try:
        model = builder(**arguments)
    except TypeError as error:
        raise LowRankError(
            f"model._target_={target}: {error}; correct the model section"
        ) from error
    if not isinstance(model, nn.Module):
        raise LowRankError(
            f"model._target_={target} gave a {type(model).__name__}, not an nn.Module"
        )
    return model


def save_network(
    folder: Path,
    model: nn.Module,
    spec: Mapping[str, Any],
    layers: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes the folder; `layers` gives {"method", "ranks"} of each factorized layer."""
    folder.mkdir(parents=True, exist_ok=True)
    # save_model keeps tied weights once, where save_file would refuse them.
    save_model(model, str(folder / "model.safetensors"))
    value = {"format": _FORMAT, "model": dict(spec), "layers": dict(layers or {})}
    (folder / "network.json").write_text(json.dumps(value, indent=2) + "\n")


def read_network(folder: Path) -> NetworkFile:
    path = folder / "network.json"
    try:
        value = json.loads(path.read_text())
        if value["format"] != _FORMAT:
            raise LowRankError(f"{path}: format {value['format']}, this version reads {_FORMAT}")
        return NetworkFile(value["model"], value["layers"])
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise LowRankError(f"{path}: not a network of this pipeline ({error!r})") from error


def load_network(folder: Path) -> nn.Module:
    """Builds the module, puts the factorized layers in, loads the weights; eval mode."""
    file = read_network(folder)
    model = build_model(file.spec)
    for name, layer in file.layers.items():
        module = layer_at(model, name)
        if kind_of(module) is None:
            raise LowRankError(f"layer {name!r} is a {type(module).__name__}: not factorizable")
        model = replace_(model, name, skeleton(name, module, layer["method"], layer["ranks"]))
    load_weights(model, folder / "model.safetensors")
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a state dict into the model: .safetensors, or .pt/.pth/.bin with `weights_only`.

    Raises LowRankError for an unreadable file, a pickle of other things than tensors, missing
    or unexpected keys, wrong shapes, and NaN or Inf.
    """
    state = read_state(path)
    expected = model.state_dict()
    held = _tied_names(expected)
    missing = [k for k in expected if k not in state and not held[k] & state.keys()]
    unexpected = [k for k in state if k not in expected]
    if missing or unexpected:
        raise LowRankError(
            f"{path}: does not fit the model: "
            + "; ".join(
                f"{label} {_some(keys)}"
                for label, keys in (("missing", missing), ("unexpected", unexpected))
                if keys
            )
            + "; check model._target_ and its arguments"
        )
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise LowRankError(
                f"{path}: {key} has shape {tuple(value.shape)}, the model expects "
                f"{tuple(expected[key].shape)}; check the arguments of model._target_"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise LowRankError(f"{path}: {key} holds NaN or Inf; this checkpoint is damaged")
    model.load_state_dict(state, strict=not any(len(names) > 1 for names in held.values()))


def _some(keys: list[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict in another (with `weights_only`).

    Raises LowRankError for an unreadable file and a pickle of other things than tensors.
    """
    if not path.is_file():
        raise LowRankError(f"{path}: no such file; give the path of a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise LowRankError(
            f"{path}: not a safetensors file ({error}); a pickle must be named .pt or .pth"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise LowRankError(
            f"{path}: not a state dict that loads with weights_only=True; save "
            "model.state_dict(), best as safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise LowRankError(
            f"{path}: holds {type(state).__name__}, not a flat state dict of tensors; save "
            "model.state_dict(), best as safetensors"
        )
    return state


def _tied_names(state: Mapping[str, Tensor]) -> dict[str, set[str]]:
    """Key → all keys that share its storage (safetensors keeps one of them)."""
    by_storage: dict[int, set[str]] = {}
    for key, value in state.items():
        by_storage.setdefault(value.data_ptr() if value.numel() else id(value), set()).add(key)
    return {key: names for names in by_storage.values() for key in names}
