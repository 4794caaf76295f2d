"""A folder for the user's own module: weights, constructors of torch, and a loader beside them."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports import standalone
from pipeline.lowrank.exports.base import Check, Format, Job, Written
from pipeline.lowrank.exports.building import building, weights_check
from pipeline.lowrank.exports.calls import Call
from pipeline.lowrank.exports.checking import difference
from pipeline.lowrank.exports.converting import in_form, is_factorized
from pipeline.lowrank.forms.constructors import constructor_of
from pipeline.lowrank.forms.shards import WEIGHTS
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.forms.weights import save_weights
from pipeline.lowrank.network.calling import layer_input
from pipeline.lowrank.network.inner.narrowing import NarrowedLayer, narrowing_of
from pipeline.lowrank.typed import save_record

LOWRANK_JSON, LOADER = "lowrank.json", "lowrank_load.py"
_LOAD = "import sys\nsys.path.insert(0, folder)\nfrom lowrank_load import load\n"


@dataclass(frozen=True)
class Layers:
    """One factorized layer: the constructors of its parts, first to last, and the shape of the
    weight and the plain attributes of the layer that it replaced."""

    parts: list[dict[str, Any]]
    shape: list[int]
    facts: dict[str, Any]


@dataclass(frozen=True)
class LowRankFile:
    """The content of lowrank.json: {name of a factorized layer: how it is made}, and {name of a
    layer with fewer channels than it was built with: its sizes}."""

    format: Literal[1]
    layers: Mapping[str, Layers]
    narrowed: Mapping[str, NarrowedLayer]


def layers_of(model: nn.Module) -> dict[str, Layers]:
    """How each factorized layer is made. Raises LowRankError for one that torch's own layers do
    not make, or that stands where the dense network has no layer."""
    found: dict[str, Layers] = {}
    for name, module in model.named_modules():
        if any(name.startswith(f"{known}.") or not known for known in found):
            continue
        if not is_factorized(module):
            _check_foreign(name, module)
            continue
        assert isinstance(module, Factorized)
        try:
            parts = [constructor_of(part) for part in module]
        except LowRankError as error:
            raise LowRankError(f"layer {name!r}: {error}") from error
        facts = {key: value for key, value in module.facts.items() if not key.startswith("_")}
        with torch.no_grad():  # the shape alone: nothing is multiplied out
            found[name] = Layers(parts, list(module.weight.shape), facts)
    return found


def narrowed_of(model: nn.Module) -> dict[str, NarrowedLayer]:
    """What is another size in layers that are narrower than they were built; of factorized ones
    their constructors say it."""
    sizes = {
        name: narrowing_of(module)
        for name, module in model.named_modules()
        if not is_factorized(module)
    }
    return {name: one for name, one in sizes.items() if one is not None}


def _check_foreign(name: str, module: nn.Module) -> None:
    """Raises LowRankError for a module of this project in the place of one of the network's."""
    if type(module).__module__.startswith("pipeline.lowrank."):
        raise LowRankError(
            f"{name or 'the network'} was opened, so that its parts could be factorized, or that "
            "it could have fewer heads: such layers run as graphs (to=onnx, to=pt2); factors alone "
            "may be multiplied out, form=dense"
        )


class ToTorch(Format):
    name = "torch"
    loses = "The class of the network: it is built by its own code, to which the loader is given."

    def write(self, job: Job, folder: Path) -> Written:
        layers = layers_of(job.network)
        save_weights(job.network, folder / WEIGHTS)
        save_record(folder / LOWRANK_JSON, LowRankFile(1, layers, narrowed_of(job.network)))
        shutil.copyfile(standalone.__file__, folder / LOADER)
        made = building(job.builder)
        if made is not None:
            return Written(f"{_LOAD}{made}model = load(network, folder)\n")
        usage = f"{_LOAD}model = load(MyNet(), folder)  # your own class, dense\n"
        return Written(usage, check=_by_layers(job, list(layers), folder))


def _by_layers(job: Job, names: list[str], folder: Path) -> Check:
    """Each factorized layer on what it reads when the network runs; with none, all weights. The
    loader itself is tried here, on the network with its layers made dense."""
    _try_loader(job, folder)
    if not names:
        return weights_check(job.network, folder)
    inputs = _inputs(job.network, names, job.calls[0])
    expected = {}
    with torch.no_grad():
        for name, value in inputs.items():
            expected[name] = job.network.get_submodule(name)(value).clone()
    code = (
        f"{_LOAD}from lowrank_load import layers\n"
        "built = layers(folder)\n"
        "model = lambda **inputs: {name: built[name](x) for name, x in inputs.items()}\n"
    )
    return Check("layers", code, [Call((), inputs)], [expected])


def _try_loader(job: Job, folder: Path) -> None:
    dense = copy.deepcopy(in_form(job.network, "dense"))
    found = [one.of(standalone.load(dense, folder)) for one in job.calls[:1]]
    expected = [one.of(job.network) for one in job.calls[:1]]
    if difference(expected, found).absolute:
        raise LowRankError("the network computes something that its weights do not say: a hook?")


def _inputs(model: nn.Module, names: list[str], example: Call) -> dict[str, Tensor]:
    """{name: what that layer reads at its first call}."""
    inputs: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def remember(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            inputs.setdefault(name, layer_input(given, named).detach().clone())

        return remember

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True)
        for name in names
    ]
    try:
        example.of(model)
    finally:
        for handle in handles:
            handle.remove()
    return inputs
