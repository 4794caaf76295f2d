"""Puts the factorized layers of this folder into a dense network and loads all weights.

>>> from lowrank_load import load
>>> network = load(MyNet(), folder)

Needs torch and safetensors alone. lowrank.json says which layers there are, as constructors of
torch; preprocessing.json, where there is one, how examples were made the network's inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only


class LowRank(nn.Sequential):
    """The layers in the place of a dense one; answers for its weight, bias and plain attributes."""

    def __init__(
        self, parts: list[dict[str, Any]], shape: list[int], facts: dict[str, Any]
    ) -> None:
        super().__init__(*(build(part) for part in parts))
        self.shape = shape
        self.facts = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        return facts[name] if name in facts else super().__getattr__(name)

    @property
    def bias(self) -> Any:
        return getattr(self[-1], "bias", None)

    @property
    def weight(self) -> Tensor:
        now = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if now and len(self.shape) == 2:
            return self.product()
        return OnDemand(self.shape, next(self.parameters()), self.product)

    def product(self) -> Tensor:
        """The dense weight of a Linear or the table of an Embedding: what it makes of each unit."""
        like = next(self.parameters())
        if "num_embeddings" in self.facts:
            ids = torch.arange(self.shape[0], device=like.device)
            bags = isinstance(self[0], nn.EmbeddingBag)  # one entry in each
            return torch.as_tensor(self(ids[:, None] if bags else ids))
        if len(self.shape) > 2:
            raise ValueError("the weight of a convolution in factors has no numbers of its own")
        inputs = self.shape[0 if "nx" in self.facts else 1]  # GPT-2 stores (in, out)
        rows = self(torch.eye(inputs, dtype=like.dtype, device=like.device))
        rows = rows if self.bias is None else rows - self.bias
        return torch.as_tensor(rows if "nx" in self.facts else rows.T)


class OnDemand(Tensor):
    """A weight whose dtype and shape are read at no cost, and that is multiplied out where its
    numbers are."""

    make: Callable[[], Tensor]

    @staticmethod
    def __new__(cls, shape: list[int], like: Tensor, make: Callable[[], Tensor]) -> OnDemand:
        made: OnDemand = Tensor._make_wrapper_subclass(
            cls, shape, dtype=like.dtype, device=like.device
        )
        made.make = make
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = (args, kwargs or {})
        values, named = tree_map_only(OnDemand, lambda weight: weight.make(), given)
        return func(*values, **named)


class PivotedOutput(nn.Module):
    """Passes its inputs on as some of the outputs (the pivots) and computes the other ones."""

    order: Tensor

    def __init__(self, rest: dict[str, Any], outputs: int, dim: int, bias: bool) -> None:
        super().__init__()
        self.rest, self.dim = build(rest), dim
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("order", torch.arange(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = take(torch.cat([x, self.rest(x)], self.dim), self.dim, self.order)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * (-1 - self.dim))


class PivotedInput(nn.Module):
    """Passes some of its inputs on (the pivots) and adds what it computes from the other ones."""

    pivots: Tensor
    others: Tensor

    def __init__(self, rest: dict[str, Any], pivots: int, inputs: int, dim: int) -> None:
        super().__init__()
        self.rest, self.dim = build(rest), dim
        self.register_buffer("pivots", torch.arange(pivots))
        self.register_buffer("others", torch.arange(inputs - pivots))

    def forward(self, x: Tensor) -> Tensor:
        rest: Tensor = self.rest(take(x, self.dim, self.others))
        return take(x, self.dim, self.pivots) + rest


class Same:
    """Of a convolution: zeros around its input as that input's size asks for, so that every stride
    gives an output position."""

    def _conv_forward(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sizes = x.shape[-len(self.stride) :]
        geometry = zip(sizes, self.kernel_size, self.stride, self.dilation, strict=True)
        missing = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in geometry]
        x = functional.pad(x, [one for m in reversed(missing) for one in (m // 2, m - m // 2)])
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(sizes) - 1]
        return convolve(x, weight, bias, self.stride, 0, self.dilation, self.groups)


def take(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Channels of x; those of tokens as rows of one matrix, which is faster."""
    if dim == -1 and x.dim() > 2:
        return x.flatten(0, -2).index_select(-1, index).view(*x.shape[:-1], len(index))
    return x.index_select(dim, index)


def build(part: dict[str, Any]) -> nn.Module:
    """A layer from its constructor: {"kind": its class, argument: value}."""
    own: dict[str, Any] = {"PivotedOutput": PivotedOutput, "PivotedInput": PivotedInput}
    arguments: dict[str, Any] = dict(part)
    kind = arguments.pop("kind")
    for name, value in part.items():
        if isinstance(value, list):
            arguments[name] = tuple(value)
    if kind.endswith("Same"):
        base = getattr(nn, kind.removesuffix("Same"))
        own[kind] = type(kind, (Same, base), {})
    made: nn.Module = (own.get(kind) or getattr(nn, kind))(**arguments)
    return made


def put_in(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Puts `layer` in the place of the module `name`, under all names that this module has."""
    old = model.get_submodule(name)
    if old is model:
        return layer
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = layer
    return model


def narrow(module: nn.Module, sizes: dict[str, int], shapes: dict[str, list[int]]) -> None:
    """Gives a layer fewer channels than it was built with, in place, uninitialised."""
    vars(module).update(sizes)
    for name, shape in shapes.items():
        tensor = getattr(module, name)
        tensor.data = tensor.new_empty(shape)


def put_all(model: nn.Module, layers: dict[str, Any], narrowed: dict[str, Any]) -> nn.Module:
    """The model with its narrowed and factorized layers, both by name, in place."""
    for name, sizes in narrowed.items():
        narrow(model.get_submodule(name), **sizes)
    for name, layer in layers.items():
        model = put_in(model, name, LowRank(**layer))
    return model


def load(model: nn.Module, folder: str | Path) -> nn.Module:
    """The network of `folder`, in eval mode, made of `model`: the dense network, of the same class
    and arguments as it was. Weights keep the number formats of the file."""
    told = json.loads(Path(folder, "lowrank.json").read_text())
    model = put_all(model, told["layers"], told["narrowed"])
    state = load_file(Path(folder, "model.safetensors"))
    own = model.state_dict(keep_vars=True)
    # Weights that share their memory are one in the file.
    shared = {own[key].data_ptr(): key for key in state if key in own}
    found = {k: state.get(k if k in state else shared.get(v.data_ptr(), k)) for k, v in own.items()}
    wrong = [*(state.keys() - own.keys()), *(k for k, v in own.items() if not _fits(v, found[k]))]
    if wrong:
        raise ValueError(f"{folder} holds another network than this: see {', '.join(wrong[:5])}")
    for key, value in found.items():
        if value is not None:
            own[key].data = value.to(own[key].device)
    return model.eval()


def layers(folder: str | Path) -> dict[str, nn.Module]:
    """The factorized layers of `folder` alone, with their weights, by the names they have there."""
    state = load_file(Path(folder, "model.safetensors"))
    found: dict[str, nn.Module] = {}
    for name, layer in json.loads(Path(folder, "lowrank.json").read_text())["layers"].items():
        prefix, made = f"{name}." if name else "", LowRank(**layer)
        for key, value in made.state_dict(keep_vars=True).items():
            value.data = state[prefix + key]
        found[name] = made.eval()
    return found


def _fits(value: Tensor, found: Tensor | None) -> bool:
    return found is not None and found.shape == value.shape


def prepared(stored: Tensor, folder: str | Path, name: str = "inputs") -> Tensor:
    """Examples as they are stored (bytes count as x/255), as the network reads them: normalised by
    what preprocessing.json says of the input `name`."""
    channels = json.loads(Path(folder, "preprocessing.json").read_text())["channels"].get(name)
    x = stored / 255 if stored.dtype == torch.uint8 else stored
    if channels is None:
        return x
    shape = [1, -1] + [1] * (x.dim() - 2)
    mean, std = (torch.tensor(channels[key]).view(shape) for key in ("mean", "std"))
    return (x - mean) / std
