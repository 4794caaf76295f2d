"""One forward pass proves that a network runs with its factorized layers; else they come out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.calling import call, device_of, evaluating, placed
from pipeline.lowrank.network.inner.narrowing import outer_first
from pipeline.lowrank.network.opening import Structure, replace_


def put_in_(
    model: nn.Module,
    built: Mapping[str, nn.Module],
    example: Any,
    *,
    given: bool,
    together: Sequence[Collection[str]] = (),
) -> tuple[nn.Module, bool]:
    """Puts layers into the network, in place, and runs the example once, in eval mode and without
    gradients.

    built: {name: the layer that takes this place}.
    example: what the model takes; None runs nothing.
    given: whether the example is meant for this network as it is now. One that was kept from the
        time of the plan proves nothing where the dense network does not run it either (it may have
        been moved to another device since).
    together: layers that run with one another alone, those of each narrowed inner dimension.

    Returns (the network, whether it ran). Raises LowRankError where it fails and the dense network
    does not; the layer and the reason are named, and the model is as it was.
    """
    before = Structure(model)
    network = _with(model, built)
    if example is None:
        return network, False
    try:
        reason = _failure(network, example)
    except BaseException:  # interrupted: nothing is left half way
        before.restore_()
        raise
    if reason is None:
        return network, True
    before.restore_()
    if (dense_reason := _failure(model, example)) is None:
        raise LowRankError(_named(model, built, before, example, together) or _together(reason))
    if given:
        raise LowRankError(f"the network does not run the example: {dense_reason}")
    return _with(model, built), False


def _with(model: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    for name in outer_first(layers):
        model = replace_(model, name, layers[name])
    return model


def _failure(model: nn.Module, example: Any) -> str | None:
    """What the model raises for the example, in one line; None where it runs."""
    try:
        with torch.no_grad(), evaluating(model):
            call(model, placed(example, device_of(model)))
    except Exception as error:  # whatever other people's code raises
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text[:200]}"
    return None


def _named(
    model: nn.Module,
    built: Mapping[str, nn.Module],
    before: Structure,
    example: Any,
    together: Sequence[Collection[str]],
) -> str | None:
    """Says which layer alone, or which layers that belong together, make the network fail; None
    where none do."""
    several = {name for names in together for name in names}
    for names in [*together, *([name] for name in built if name not in several)]:
        network = _with(model, {name: built[name] for name in names})
        reason = _failure(network, example)
        before.restore_()
        if reason is not None:
            text = ", ".join(repr(name) for name in names)
            return (
                f"layer{'s' * (len(names) > 1)} {text}: with {'them' if len(names) > 1 else 'it'} "
                f"factorized the network fails on the example ({reason}); leave "
                f"{'them' if len(names) > 1 else 'it'} out, exclude=[{text}]"
            )
    return None


def _together(reason: str) -> str:
    return (
        f"with all planned layers factorized the network fails on the example ({reason}), with "
        "each of them alone it runs; leave some of them out with exclude"
    )
