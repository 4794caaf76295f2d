"""Networks on disk: a folder with model.safetensors and network.json. No pickles."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms import get_form
from pipeline.lowrank.forms.allowed import Allowed
from pipeline.lowrank.forms.building import BUILDER, build_model, known_builder
from pipeline.lowrank.forms.surgery import Factorized, layer_at, unfilled
from pipeline.lowrank.network.inner.narrowing import NarrowedLayer, narrowing_of, resized
from pipeline.lowrank.network.opening import replace_
from pipeline.lowrank.typed import load_record, save_record
from pipeline.lowrank.typed.content import Checksums, checked, checksums_of

WEIGHTS, NETWORK = "model.safetensors", "network.json"


@dataclass(frozen=True)
class FactorizedLayer:
    """One factorized layer in network.json; its modules are made from the form and the ranks.

    in_first: whether a stack is stored with the inputs before the outputs.
    split: how many dimensions of a stack are together the rows of one matrix, or 0.
    """

    form: str
    ranks: tuple[int, ...]
    in_first: bool = False
    split: int = 0


@dataclass(frozen=True)
class NetworkFile:
    """The content of network.json.

    builder: how to build the dense module: `_target_` and keyword arguments; None where that is not
        known.
    layers: {name of a factorized layer: its form and ranks}.
    narrowed: {name of a layer with fewer channels than it was built with: its sizes}.
    checksums: {name of a file of weights in the folder: its sha256}, verified on load.
    """

    format: Literal[2]
    builder: Mapping[str, Any] | None
    layers: Mapping[str, FactorizedLayer]
    narrowed: Mapping[str, NarrowedLayer] = field(default_factory=dict)
    checksums: Checksums = field(default_factory=dict)


def save(
    model: nn.Module,
    folder: Path | str,
    builder: Mapping[str, Any] | None = None,
    *,
    beside: Iterable[str] = (),
) -> None:
    """Writes a network, compressed or not, to a folder: weights and buffers (model.safetensors),
    and which layers are factorized, with the checksum of the weights (network.json). No code is
    pickled.

    folder: made where it does not exist.
    builder: how `load` builds the dense module: `_target_`, the import path of its class or of a
        function, and keyword arguments. None takes the builder of a network that `build_model`
        made; where there is none the folder is for `load_`, which is given the module.
    beside: names of other files in the folder whose checksums are kept with those of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    layers = {
        name: FactorizedLayer(module.form.name, module.ranks, *(module.stored_as or ()))
        for name, module in model.named_modules()
        if isinstance(module, Factorized)
    }
    sizes = {name: narrowing_of(module) for name, module in model.named_modules()}
    narrowed = {name: one for name, one in sizes.items() if one is not None}
    known = known_builder(model) if builder is None else builder
    checksums = checksums_of(folder, [WEIGHTS, *beside])
    file = NetworkFile(2, known and dict(known), layers, narrowed, checksums)
    save_record(folder / NETWORK, file)


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes parameters and buffers, tied ones once; the same network gives the same bytes (which
    safetensors' own save_model does not, where several names are tied)."""
    save_file(_once(model.state_dict()), path)


def read_network(folder: Path | str) -> NetworkFile:
    """The network.json of a folder. Raises LowRankError for a folder that is no network of this
    project."""
    return load_record(Path(folder) / NETWORK, NetworkFile, "give the folder of a saved network")


def load(folder: Path | str, *, allow: Iterable[Allowed] = (), mapped: bool = False) -> nn.Module:
    """The network that `save` wrote to a folder, in eval mode, equal to the bit and in its dtypes.

    allow: whose code the folder may name as its network, beside torch's and this project's:
        packages or modules (`["my_package"]`), or classes and functions themselves (`[MyNet]`).
    mapped: the numbers stay in the file and are read when they are needed, so that a network larger
        than the memory can be opened; the file must not be written while the network is in use.

    Raises LowRankError for a damaged folder, for one that names other code, and for one that does
    not say how its network is built: that needs `load_`, which is given the module.
    """
    file = read_network(folder)
    if file.builder is None:
        raise LowRankError(
            f"{folder}: does not say how its network is built; load it into a new one of your "
            "own, lr.load_(MyNet(), folder), or save it with builder={'_target_': …}"
        )
    return load_(build_model(file.builder, allow), folder, mapped=mapped)


def load_(model: nn.Module, folder: Path | str, *, mapped: bool = False) -> nn.Module:
    """Turns a dense network into the saved one, in place, and puts it into eval mode.

    model: a network of the same class and arguments as the saved one was before it was factorized.
    mapped: as of `load`.

    Returns the model (a new object only where the root itself is factorized). Raises LowRankError
    where the folder is damaged or does not fit the model.
    """
    folder = Path(folder)
    file = read_network(folder)
    weights = checked(folder, WEIGHTS, file.checksums, NETWORK)
    builder = known_builder(model)
    for name, sizes in file.narrowed.items():
        model = replace_(model, name, resized(name, layer_at(model, name), sizes))
    for name, layer in file.layers.items():
        module = layer_at(model, name, in_first=layer.in_first, split=layer.split)
        built = unfilled(name, module, get_form(layer.form), layer.ranks)
        model = replace_(model, name, built)
    load_weights(model, weights, keep_dtypes=True, mapped=mapped)
    if builder is not None:
        setattr(model, BUILDER, builder)
    return model.eval()


def load_weights(
    model: nn.Module, path: Path, *, keep_dtypes: bool = False, mapped: bool = False
) -> None:
    """Loads a state dict into the model: .safetensors, or .pt/.pth/.bin by torch.load with
    `weights_only`. As Module.load_state_dict(strict=True), with tied weights stored once.

    keep_dtypes: parameters and buffers take the file's number formats, else they keep the model's.
    mapped: as of `load`; they are then in the file's formats.

    Raises LowRankError for an unreadable file, a pickle of other things than tensors, missing or
    unexpected keys, wrong shapes, NaN, and Inf in parameters (a buffer may hold it, as a causal
    mask does).
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
        if mapped:
            for name in held[key]:
                _put_(model, name, value)
        elif keep_dtypes and value.dtype != expected[key].dtype:
            _tensor_at(model, key).data = expected[key].to(value.dtype)
    if mapped:
        return
    model.load_state_dict(state, strict=not any(len(names) > 1 for names in held.values()))


def _put_(model: nn.Module, key: str, value: Tensor) -> None:
    """Makes the parameter or buffer `key` hold this very tensor; tied ones stay the one parameter
    that they are."""
    tensor = _tensor_at(model, key)
    tensor.data = value


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


def _once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
