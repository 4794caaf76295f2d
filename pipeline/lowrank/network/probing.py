"""What a layer computes, found by running it on drawn numbers, whoever wrote its class."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CLOSE = 1e-4  # of the largest output: float32's rounding, whatever the order of its sums
_PRODUCTS = frozenset(
    {
        functional.linear,
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    }
)


@dataclass(frozen=True)
class Shown:
    """The class that a layer behaves as.

    computed: whether it does so with a weight that it computes of what it holds, anew in every
        call, as weight standardization does.
    """

    cls: type[nn.Module]
    computed: bool


def shown_by(module: nn.Module, classes: Sequence[type[nn.Module]]) -> Shown | None:
    """The first of the classes of which a layer with the same weight and options gives the output
    of the layer, on drawn numbers; None where none does.

    A layer that holds more than a weight and a bias has to put all of it into the weight.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            twin = _twin(module, type(module))
            inputs = _inputs(twin)
            outputs = [twin(value) for value in inputs]
            used = [weight_in_call(twin, value) for value in inputs]
        except Exception:  # whatever other people's code raises
            return None
        weights = _weights(twin, used)
        for cls, computed in itertools.product(classes, weights):
            known = _twin(module, cls, weights[computed])
            if all(map(_equal, outputs, map(known, inputs))):
                return Shown(cls, computed)
    return None


def _weights(layer: nn.Module, used: Sequence[Tensor | None]) -> dict[bool, Tensor]:
    """{whether it is computed: a weight that the layer may multiply by}."""
    own, first = layer._parameters["weight"], used[0]
    assert own is not None
    found = {False: own.detach()} if set(layer._parameters) <= {"weight", "bias"} else {}
    same = first is not None and all(w is not None and torch.equal(w, first) for w in used)
    if first is not None and same and first.shape == own.shape and not torch.equal(first, own):
        found[True] = first
    return found


def weight_in_call(module: nn.Module, value: Tensor) -> Tensor | None:
    """The weight that the layer multiplies this input by, as it stores its own; None where it does
    not make just one product."""
    seen = _Seen()
    with torch.no_grad(), seen:
        type(module).forward(module, value)
    return seen.weights[0] if len(seen.weights) == 1 else None


@torch.no_grad()
def computed_weight(module: nn.Module) -> Tensor:
    """The weight that a layer computes anew in every call, in its own format and on its device, as
    it is in eval mode; nothing that the layer holds changes."""
    twin = type(module).__new__(type(module))
    twin.__dict__.update(vars(module))
    twin.__dict__["_modules"] = copy.deepcopy(module._modules)
    twin.eval()
    own = module._parameters.get("weight")  # None with a parametrization
    weight = twin.weight if own is None else weight_in_call(twin, _inputs(twin)[0].to(own))
    assert isinstance(weight, Tensor), "one product was seen when the layer was probed"
    return weight.detach()


class _Seen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _PRODUCTS:
            self.weights.append(args[1] if len(args) > 1 else named["weight"])
        return func(*args, **named)


def _twin(module: nn.Module, cls: type[nn.Module], weight: Tensor | None = None) -> nn.Module:
    """A layer of the class with the options of `module`, in eval mode, on the CPU, without hooks,
    with drawn parameters, always the same, or with this weight."""
    generator = torch.Generator().manual_seed(0)
    twin = cls.__new__(cls)
    nn.Module.__init__(twin)
    own = vars(twin).keys()
    twin.__dict__.update({key: value for key, value in vars(module).items() if key not in own})
    for key, value in module._parameters.items():
        drawn = None if value is None else torch.randn(value.shape, generator=generator)
        used = weight if weight is not None and key == "weight" else drawn
        twin.register_parameter(key, None if used is None else nn.Parameter(used.clone()))
    return twin.eval()


def _inputs(module: nn.Module) -> list[Tensor]:
    """Inputs of two sizes: of one alone, two paddings may be the same."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        entries = module.num_embeddings
        return [torch.randint(entries, (n, 3), generator=generator) for n in (2, 4)]
    shapes: list[tuple[int, ...]]
    if isinstance(module, nn.Linear):
        shapes = [(2, module.in_features), (2, 3, module.in_features)]
    else:
        assert isinstance(module, nn.modules.conv._ConvNd)
        geometry = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        sizes = [(k - 1) * d + 1 + 2 * s for k, s, d in geometry]
        shapes = [(2, module.in_channels, *(size + more for size in sizes)) for more in (0, 1)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _equal(one: object, other: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= _CLOSE * other.abs().max())
