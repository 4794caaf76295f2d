"""The numbers of a network on disk: parameters and buffers, tied ones once. No pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes parameters and buffers, tied ones once; the same network gives the same bytes (which
    safetensors' own save_model does not, where several names are tied)."""
    save_file(tied_once(model.state_dict()), path)


def load_weights(
    model: nn.Module, *paths: Path, keep_dtypes: bool = False, mapped: bool = False
) -> None:
    """Loads a state dict into the model: .safetensors, or .pt/.pth/.bin by torch.load with
    `weights_only`. As Module.load_state_dict(strict=True), with tied weights stored once.

    paths: the file, or several among which the tensors are shared out.
    keep_dtypes: parameters and buffers take the file's number formats, else they keep the model's.
    mapped: as of `load`; they are then in the file's formats.

    Raises LowRankError for an unreadable file, a pickle of other things than tensors, missing or
    unexpected keys, wrong shapes, NaN, and Inf in parameters (a buffer may hold it, as a causal
    mask does).
    """
    path, *_ = paths
    state = {key: value for one in paths for key, value in read_state(one).items()}
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
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise LowRankError(
                f"{path}: {key} has shape {tuple(value.shape)}, the model expects "
                f"{tuple(expected[key].shape)}; check the arguments of model._target_"
            )
        bad = torch.isnan(value) if key not in parameters else ~torch.isfinite(value)
        if value.is_floating_point() and bad.any():
            raise LowRankError(f"{path}: {key} holds NaN or Inf; this checkpoint is damaged")
        if not mapped and keep_dtypes and value.dtype != expected[key].dtype:
            _tensor_at(model, key).data = expected[key].to(value.dtype)
    if mapped:
        put_weights_(model, state)
    else:
        model.load_state_dict(state, strict=not any(len(names) > 1 for names in held.values()))


def put_weights_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Makes parameters and buffers hold these very tensors. Tied ones, of which the state needs one
    name only, stay the one parameter that they are."""
    held = _tied_names(model.state_dict())
    for key, value in state.items():
        for name in held[key]:
            _tensor_at(model, name).data = value


def _tensor_at(model: nn.Module, key: str) -> Tensor:
    """The parameter or buffer `key` of the model."""
    owner, _, name = key.rpartition(".")
    tensor = getattr(model.get_submodule(owner), name)
    assert isinstance(tensor, Tensor)
    return tensor


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
    except Exception as error:  # unpickling damaged bytes raises whatever they mean
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


def tied_once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that safetensors wants: contiguous, in storages of their own; of several tensors
    that share their numbers only the one whose name comes first."""
    tied, found, storages = _tied_names(state), {}, set()
    for key, value in state.items():
        if key != min(tied[key]):
            continue
        storage = value.untyped_storage().data_ptr()
        found[key] = value.clone() if storage in storages else value
        found[key] = found[key].contiguous()
        storages.add(storage)
    return found


def _tied_names(state: Mapping[str, Tensor]) -> dict[str, set[str]]:
    """Key → all keys that share its storage (safetensors keeps one of them)."""
    by_storage: dict[object, set[str]] = {}
    for key, value in state.items():
        same = (value.data_ptr(), value.shape, value.stride()) if value.numel() else key
        by_storage.setdefault(same, set()).add(key)
    return {key: names for names in by_storage.values() for key in names}
