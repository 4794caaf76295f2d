"""Finding the targets of a network, and why its other layers are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.kinds import (
    LOOKUPS,
    computes_weight,
    is_transposed_linear,
    kind_of,
    why_unknown,
)
from pipeline.lowrank.network.opening import closed_reasons
from pipeline.lowrank.network.opening.base import is_plain
from pipeline.lowrank.network.stacks import Stack
from pipeline.lowrank.network.targets import dense_weight, is_one_layer, memory_of

_NAMED = 10  # layers that an error names
_FORMATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def find_targets(
    model: nn.Module,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    stacks: Mapping[str, Stack] | None = None,
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Finds the layers to factorize, and why every other layer with a weight matrix is left alone.

    include, exclude: shell-style patterns on module names (the root is ""); exclude wins. A module
        that is reachable under several names is one target, under its first name.
    stacks: {name: what may be a target beside the layers}, of `by_hand.stack_candidates`.

    Inside of a packed module layers have names while it is open: call it in the context `opened`.

    Returns ({name: module}, {name: reason it is skipped}). Raises LowRankError when a pattern
    matches no layer, or when no target is left.
    """
    layers = _layers(model) | dict(stacks or {})
    for pattern in [*include, *exclude]:
        if layers and not any(fnmatchcase(name, pattern) for name in layers):
            raise LowRankError(
                f"the pattern {pattern!r} matches no layer: the layers with weight matrices are "
                f"{', '.join(layers)}; correct analyze.include or analyze.exclude"
            )
    tied = _tied_weights(model)
    targets: dict[str, nn.Module] = {}
    skipped = closed_reasons(model)
    for name, module in layers.items():
        if any(fnmatchcase(name, pattern) for pattern in exclude):
            skipped[name] = "excluded by analyze.exclude"
        elif not any(fnmatchcase(name, pattern) for pattern in include):
            skipped[name] = "not in analyze.include"
        elif reason := _obstacle(model, name, module, tied):
            skipped[name] = reason
        else:
            targets[name] = module
    if not targets:
        named = [f"{name or '(root)'}: {reason}" for name, reason in skipped.items()]
        why = "; ".join([*named[:_NAMED], *(["…"] if named[_NAMED:] else [])])
        raise LowRankError(
            "the model has no layer to factorize: "
            + (f"all are skipped ({why})" if why else "it has no Linear or convolution layer")
            + "; docs/layers.md says which layers are targets"
        )
    return targets, skipped


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """{name: layer with a weight matrix}; a factorized layer is one layer, whatever is in it."""
    found: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        if is_one_layer(module):
            inside |= {id(part) for part in module.modules() if part is not module}
        if id(module) not in inside and (is_one_layer(module) or _matrix_like(module)):
            found[name] = module
    return found


def _matrix_like(module: nn.Module) -> bool:
    known = nn.modules.conv._ConvNd | nn.Linear | nn.Bilinear | nn.Embedding | nn.EmbeddingBag
    return isinstance(module, known) or is_transposed_linear(type(module))


def _tied_weights(model: nn.Module) -> dict[int, list[str]]:
    """Memory of a parameter → names of the *different* modules that hold it, where there are
    several."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(memory_of(parameter), []).append(name)
    return {key: names for key, names in holders.items() if len(names) > 1}


def _obstacle(
    model: nn.Module, name: str, module: nn.Module, tied: dict[int, list[str]]
) -> str | None:
    """Why this layer cannot be replaced by a Sequential of factors, or None."""
    if is_one_layer(module):
        return (
            "is factorized already and stays so; lr.to_dense_(model) makes it dense again, to be "
            "factorized anew"
        )
    if kind_of(module) is None:
        return why_unknown(module)
    if isinstance(module, LOOKUPS) and (option := _lookup_option(module)):
        return f"{type(module).__name__} with {option}, which its factors could not keep"
    stored = list(module.parameters()) if computes_weight(module) else [module.weight]
    odd = next((one for one in stored if not is_plain(one)), None)  # type: ignore[arg-type]
    if odd is not None:
        return f"weights are stored as {type(odd).__name__}: start from those in float"
    weight = dense_weight(module)
    if weight.dtype not in _FORMATS:
        return f"weights are {weight.dtype}, not in a floating point format of two bytes or more"
    inside = {one for one, _ in module.named_modules(prefix=name)}
    holders = (tied.get(memory_of(one), []) for one in stored)  # type: ignore[arg-type]
    others = [n for names in holders for n in names if n not in inside]
    if others:
        return f"weight is tied to {', '.join(name or 'the whole network' for name in others)}"
    return None


def _lookup_option(module: nn.Embedding | nn.EmbeddingBag) -> str | None:
    """The option of a table that acts on rows of it, which factors do not have; None where there is
    none."""
    if getattr(module, "mode", None) == "max":
        return "mode='max'"
    if module.max_norm is not None:
        return f"max_norm={module.max_norm}"
    if module.sparse:
        return "sparse=True"
    return "scale_grad_by_freq=True" if module.scale_grad_by_freq else None
