"""Networks on disk: a folder with the weights in safetensors and network.json. No pickles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms import get_form
from pipeline.lowrank.forms.allowed import Allowed
from pipeline.lowrank.forms.building import BUILDER, build_model, known_builder
from pipeline.lowrank.forms.shards import save_shards, weight_names
from pipeline.lowrank.forms.surgery import Factorized, layer_at, unfilled
from pipeline.lowrank.forms.weights import load_weights
from pipeline.lowrank.network.inner.narrowing import NarrowedLayer, narrowing_of, resized
from pipeline.lowrank.network.opening import replace_
from pipeline.lowrank.typed import load_record, save_record
from pipeline.lowrank.typed.content import Checksums, checked, checksums_of

NETWORK = "network.json"


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
    """Writes a network, compressed or not, to a folder: weights and buffers (model.safetensors;
    what takes more than 5 GB in several files with an index, as `save_shards` tells), and which
    layers are factorized, with the checksums of the weights (network.json). No code is pickled.

    folder: made where it does not exist.
    builder: how `load` builds the dense module: `_target_`, the import path of its class or of a
        function, and keyword arguments. None takes the builder of a network that `build_model`
        made; where there is none the folder is for `load_`, which is given the module.
    beside: names of other files in the folder whose checksums are kept with those of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_shards(model, folder)
    layers = {
        name: FactorizedLayer(module.form.name, module.ranks, *(module.stored_as or ()))
        for name, module in model.named_modules()
        if isinstance(module, Factorized)
    }
    sizes = {name: narrowing_of(module) for name, module in model.named_modules()}
    narrowed = {name: one for name, one in sizes.items() if one is not None}
    known = known_builder(model) if builder is None else builder
    checksums = checksums_of(folder, [*weights, *beside])
    file = NetworkFile(2, known and dict(known), layers, narrowed, checksums)
    save_record(folder / NETWORK, file)


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

    Returns the model (a new object only where the root itself is factorized, or where fewer
    channels are left of a parameter of its own). Raises LowRankError where the folder is damaged or
    does not fit the model.
    """
    folder = Path(folder)
    file = read_network(folder)
    names = weight_names(file.checksums)
    weights = [checked(folder, name, file.checksums, NETWORK) for name in names]
    builder = known_builder(model)
    for name, sizes in file.narrowed.items():
        model = replace_(model, name, resized(name, layer_at(model, name), sizes))
    for name, layer in file.layers.items():
        module = layer_at(model, name, in_first=layer.in_first, split=layer.split)
        built = unfilled(name, module, get_form(layer.form), layer.ranks)
        model = replace_(model, name, built)
    load_weights(model, *weights, keep_dtypes=True, mapped=mapped)
    if builder is not None:
        setattr(model, BUILDER, builder)
    return model.eval()
