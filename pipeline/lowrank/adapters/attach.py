"""Low-rank adapters on what a compressed network is made of: trained, then merged.

Each factor F, and the weight of each layer that was narrowed and not factorized, seen as the matrix
out × (in·taps), becomes F + (α/r)·B·A while it is trained (Hu et al. 2021), and is that sum
afterwards: the network has the same layers, ranks and keys.
Measured on digits (budget 0.2, rank 4, learning rate 0.03, seeds 0 to 2): mean validation loss
0.146 before, 0.084 with "zeros", 0.061 with "svd".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.lowrank.analysis.spectra import analyze_weight, truncated_svd
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.surgery import Factorized
from pipeline.lowrank.network.inner.narrowing import narrowing_of
from pipeline.lowrank.network.kinds import kind_of
from pipeline.lowrank.network.linalg import balance
from pipeline.lowrank.network.stacks import stack_name
from pipeline.lowrank.typed import knob, options


@options
class AdapterOptions:
    """Adapters B·A·α/r on factors and narrowed layers, and what else is trained.

    rank, alpha: r and α.
    init: "zeros" starts with B = 0 (LoRA: Hu et al. 2021); "svd" takes the r leading singular
        directions out of the factor and trains those (PiSSA: Meng et al. 2024).
    targets: shell-style patterns on the names of factorized and narrowed layers.
    others: what is trained besides: "vectors" (biases and the parameters of normalisation, all of
        one dimension), "dense" (the weights of all layers that stayed as they were).
    """

    rank: int = knob(default=4, ge=1, help="adapters: rank of each")
    alpha: float = knob(default=4.0, gt=0, help="adapters: alpha / rank scales them")
    init: Literal["zeros", "svd"] = knob(
        default="svd", help="adapters: start from zeros, or from the leading singular directions"
    )
    targets: Sequence[str] = knob(
        default=("*",), min_length=1, help='adapters: names of compressed layers; ["*"] means all'
    )
    others: Sequence[Literal["vectors", "dense"]] = knob(
        default=("vectors",),
        help="factors, adapters: what else is trained: vectors (biases, norms), dense layers",
    )


class Adapter(nn.Module):
    """weight ↦ weight + (α/r) · left · right, as a parametrization of a layer's weight
    (torch.nn.utils.parametrize).

    left (out, rank), right (rank, in/groups · taps). A grouped kernel and a stack are seen as the
    same matrix: each of their groups has rows of `left`, and all of them share `right`.
    """

    def __init__(
        self,
        matrix: Tensor,
        options: AdapterOptions,
        generator: torch.Generator,
        behind: Sequence[str] = (),
    ) -> None:
        """matrix: (out, in/groups · taps), the weight; behind: the parameters of its module that
        come after it."""
        super().__init__()
        self.behind = tuple(behind)
        self.scale = options.alpha / options.rank
        start = _leading if options.init == "svd" else _zero
        left, right = start(matrix, options.rank, self.scale, generator)
        self.left = nn.Parameter(left.to(matrix))
        self.right = nn.Parameter(right.to(matrix))

    def forward(self, weight: Tensor) -> Tensor:
        # Under autocast the product would be rounded here and not where it is merged.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.update().view(weight.shape)

    def update(self) -> Tensor:
        """(α/r) · left · right, (out, in/groups · taps)."""
        return self.scale * (self.left @ self.right)


def attach_(model: nn.Module, chosen: AdapterOptions, seed: int) -> list[str]:
    """Puts adapters on the factors of the matching layers, and on the matching layers that were
    narrowed alone, and freezes all that is not trained.

    A matrix for which rank·(rows + columns) ≥ rows·columns is trained itself: an adapter would have
    as many parameters and could express less.

    seed: of the random start of "zeros".

    Returns the names of what is adapted. Raises LowRankError where no such layer matches.
    """
    layers = _compressed(model)
    for pattern in chosen.targets:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise LowRankError(
                f"the pattern {pattern!r} matches no compressed layer (there are "
                f"{', '.join(layers) or 'none'}); correct the adapter targets, or train all "
                "parameters"
            )
    for weight in freeze_(model, chosen.others):
        weight.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    adapted = []
    for name, layer in layers.items():
        if any(fnmatchcase(name, pattern) for pattern in chosen.targets):
            for place, one in layer.items():
                if _adapt(one, chosen, generator):
                    adapted.append(".".join(filter(None, (name, place))))
    return adapted


def names_inside(model: nn.Module, names: Sequence[str]) -> list[str]:
    """What to give other libraries, such as peft, where a name means a layer that is factorized by
    now: LoraConfig(target_modules=names_inside(net, ["q_proj", "v_proj"])).

    names: names of layers or ends of them ("q_proj", "self_attn.q_proj").

    Returns the full names of these layers; of a factorized one, those of the layers inside it that
    have a weight. Raises LowRankError for a name that no layer has.
    """
    found: dict[str, None] = {}
    for wanted in names:
        layers = {n: m for n, m in model.named_modules() if f".{n}".endswith(f".{wanted}")}
        if not layers:
            raise LowRankError(f"no layer has the name {wanted!r}, or a name that ends in it")
        for name, layer in layers.items():
            parts = _weighted(layer)
            found |= dict.fromkeys(".".join(filter(None, (name, part))) for part in parts)
    return list(found)


def freeze_(model: nn.Module, others: Sequence[str]) -> list[nn.Parameter]:
    """Freezes all parameters but the factors, the weights of layers that were narrowed, and
    `others` (see AdapterOptions).

    Returns the weights of the factors and of the narrowed layers.
    """
    weights = [one.parameter for layer in _compressed(model).values() for one in layer.values()]
    known = {id(weight) for weight in weights}
    for parameter in model.parameters():
        kind = "vectors" if parameter.dim() <= 1 else "dense"
        parameter.requires_grad_(id(parameter) in known or kind in others)
    return weights


def merge_(model: nn.Module) -> None:
    """Adds the adapters into the weights that they adapt, and lets all parameters train again. The
    network computes the same function as before, with the layers and keys that it had."""
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module):
            continue
        for key, chain in list(module.parametrizations.items()):  # type: ignore[operator,union-attr]
            if isinstance(chain[0], Adapter):
                parametrize.remove_parametrizations(module, key, leave_parametrized=True)
                # It was registered anew, behind the others: back to the order of the class.
                for name in [n for n in chain[0].behind if n in module._parameters]:
                    module.register_parameter(name, module._parameters.pop(name))
    model.requires_grad_(True)


@dataclass(frozen=True)
class _Weight:
    """A parameter of a compressed layer that may get an adapter."""

    module: nn.Module
    key: str = "weight"

    @property
    def parameter(self) -> nn.Parameter:
        found = self.module._parameters[self.key]
        assert found is not None
        return found


def _compressed(model: nn.Module) -> dict[str, dict[str, _Weight]]:
    """{name: the weights by their places in it} of each layer that is factorized, or narrower than
    it was and not factorized."""
    inside = {id(m) for f in model.modules() if isinstance(f, Factorized) for m in f.modules()}
    found: dict[str, dict[str, _Weight]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Factorized):
            found[name] = {place: _Weight(one) for place, one in _weighted(module).items()}
        elif id(module) not in inside:
            found |= _narrowed(name, module)
    return found


def _narrowed(name: str, module: nn.Module) -> dict[str, dict[str, _Weight]]:
    """The module itself where it has fewer channels than it was built with in a weight of its own,
    and the stacks of one matrix an expert of which it has fewer."""
    changed = narrowing_of(module)
    if changed is None:
        return {}
    own = {key: p for key, p in module._parameters.items() if p is not None and p.dim() > 1}
    if kind_of(module) is None:
        stacks = [key for key, p in own.items() if p.dim() == 3 and key in changed.shapes]
        if stacks:
            return {stack_name(name, key): {"": _Weight(module, key)} for key in stacks}
    return {name: {"": _Weight(module)}} if "weight" in own else {}


def _weighted(layer: nn.Module) -> dict[str, nn.Module]:
    """The modules inside a layer that have a weight (reshaping and pivots have none); a layer that
    is not factorized is one itself, ""."""
    if not isinstance(layer, Factorized):
        return {"": layer}
    named = ((n, m) for n, m in layer.named_modules() if m is not layer)
    return {n: m for n, m in named if isinstance(getattr(m, "weight", None), nn.Parameter)}


def _adapt(one: _Weight, options: AdapterOptions, generator: torch.Generator) -> bool:
    """Puts an adapter on the weight, or lets it train itself; returns whether it got an adapter."""
    weight = one.parameter
    of_groups = kind_of(one.module) in (None, "stack") and weight.dim() == 3
    matrix = weight.detach().flatten(*(0, 1) if of_groups else (1, -1))
    rows, columns = matrix.shape
    if options.rank * (rows + columns) >= rows * columns:
        weight.requires_grad_(True)
        return False
    names = list(one.module._parameters)
    adapter = Adapter(matrix, options, generator, names[names.index(one.key) + 1 :])
    with torch.no_grad():
        weight.sub_(adapter.update().view(weight.shape))
    parametrize.register_parametrization(one.module, one.key, adapter)
    return True


def _zero(
    matrix: Tensor, rank: int, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """left = 0, and right as nn.Linear draws its weight, on the CPU in float32, so that it is the
    same on every device and in every precision."""
    rows, columns = matrix.shape
    right = torch.rand(rank, columns, generator=generator) * 2 - 1
    return matrix.new_zeros(rows, rank), right / math.sqrt(columns)


def _leading(
    matrix: Tensor, rank: int, scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """scale · left · right is the truncated SVD, √σ on each side."""
    right, left = balance(*truncated_svd(matrix, analyze_weight(matrix), rank))
    return left / math.sqrt(scale), right / math.sqrt(scale)
