"""Which part of a network's weights is reached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline import lowrank as lr
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.network.skipped import Skipped
from pipeline.lowrank.network.stacks import stack_name
from pipeline.lowrank.network.targets import memory_of

UNNAMED = "not named anywhere"


@dataclass(frozen=True)
class Left:
    """A weight that is no target: its share of all that is counted, and the reason in the plan."""

    name: str
    share: float
    reason: str


@dataclass(frozen=True)
class Coverage:
    """The weights of a network: its parameters with two dimensions longer than 1 or more, each
    memory once. Biases and the scales of norms are vectors, and so not among them.

    params: of the whole network.
    tied: numbers of the weights that several modules hold, such as a head and its embedding, and
        that no target reaches; they are set aside.
    counted: numbers of all other weights, heads and embeddings included.
    reached: the fraction of these that is in targets.
    factorized: the fraction of these that is in layers of which half the rank saves something, so
        that the plan factorizes them.
    left: the weights that are counted and not reached, the largest first.
    """

    params: int
    tied: int
    counted: int
    reached: float
    factorized: float
    left: tuple[Left, ...]


def coverage_of(model: nn.Module, plan: lr.Plan) -> Coverage:
    """The coverage of a plan for a network that it was not applied to."""
    holders: dict[int, list[str]] = defaultdict(list)
    sizes: dict[int, int] = {}
    with opened(model):
        params = sum({memory_of(p): p.numel() for p in model.parameters()}.values())
        for name, weight in _weights(model):
            holders[memory_of(weight)].append(name)
            sizes[memory_of(weight)] = weight.numel()
    reached = {key: _first(names, plan.layers) for key, names in holders.items()}
    tied = {key for key, names in holders.items() if len(names) > 1 and reached[key] is None}
    counted = sum(size for key, size in sizes.items() if key not in tied)
    in_targets = [size for key, size in sizes.items() if reached[key] is not None]
    in_factorized = [size for key, size in sizes.items() if reached[key] in plan.factorized]
    left = [
        Left(holders[key][0], size / counted, _reason(holders[key][0], plan.skipped))
        for key, size in sizes.items()
        if key not in tied and reached[key] is None
    ]
    return Coverage(
        params=params,
        tied=sum(sizes[key] for key in tied),
        counted=counted,
        reached=sum(in_targets) / counted if counted else 1.0,
        factorized=sum(in_factorized) / counted if counted else 1.0,
        left=tuple(sorted(left, key=lambda one: (-one.share, one.name))),
    )


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, parameter) of every weight, once for each module that holds it."""
    for owner, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and sum(size > 1 for size in parameter.shape) > 1:
                yield f"{owner}.{key}" if owner else key, parameter


def _first(names: Sequence[str], layers: Collection[str]) -> str | None:
    """The target that holds one of the parameters: what answers for it alone, or the nearest
    module that it is in."""
    for name in names:
        owner, _, key = name.rpartition(".")
        if (stack := stack_name(owner, key)) in layers:
            return stack
        while owner and owner not in layers:
            owner = owner.rpartition(".")[0]
        if owner in layers:
            return owner
    return None


def _reason(name: str, skipped: Mapping[str, Skipped]) -> str:
    """That of the parameter, or of the nearest module above it."""
    above = name
    while above not in skipped and above:
        above = above.rpartition(".")[0]
    return skipped[above].reason if above in skipped else UNNAMED
