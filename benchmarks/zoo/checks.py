"""What is tried with a network of the zoo, in one metric, and what came of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry
from pipeline import lowrank as lr
from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.network.calling import call, evaluating
from pipeline.lowrank.planning.policies.ranks import view_shape

HALF = 0.5  # the fraction of the full rank that every layer gets
# Of the largest output. The networks run in float64 there, but many compute norms and attention in
# float32 whatever their dtype is.
FULL_RANK_TOLERANCE = 1e-4


@dataclass
class Outcome:
    """What came of one network in one metric.

    failed: {check: what went wrong, in one line}; a check that needs a failed one is not tried.
    plan: with half of every layer's rank; None where it could not be made.
    """

    failed: dict[str, str] = field(default_factory=dict)
    plan: lr.Plan | None = None


class CheckError(Exception):
    """A check found something wrong; its text says what."""


def try_network(entry: Entry, metric: MetricName) -> Outcome:
    """Tries everything; what fails is a line of the outcome, and no error leaves here."""
    outcome = Outcome()
    with _told(outcome, "build"):
        model, dense = entry.build(), entry.build()
        calibration = entry.batches(2, 4)
        _outputs(dense, calibration[0])
    if outcome.failed:
        return outcome
    with _told(outcome, "plan"):
        outcome.plan = _planned(entry, model, dense, calibration, metric)
    if outcome.plan is None:
        return outcome
    with _told(outcome, "apply"):
        done = lr.apply_(model, outcome.plan)
        if not done.ran:
            raise CheckError("the example was not run")
    if not outcome.failed:
        _try_compressed(entry, outcome, done.network, dense, calibration)
    with _told(outcome, "full rank"):
        error = _full_rank_error(entry, outcome.plan)
        if not error <= FULL_RANK_TOLERANCE:
            raise CheckError(f"outputs differ by {error:.1e} of the largest")
    return outcome


def _try_compressed(
    entry: Entry, outcome: Outcome, network: nn.Module, dense: nn.Module, calibration: list[Any]
) -> None:
    found: list[Tensor] = []
    with _told(outcome, "eval"):
        found = _outputs(network, calibration[0])
        want = _outputs(dense, calibration[0])
        _check_like(found, want)
        if all(map(_same, found, want)):
            raise CheckError(
                "half of the ranks gives the dense network's outputs: no layer reaches them"
            )
        divergence = lr.Divergence(dense, calibration, entry.get_task()).of(network)
        if not math.isfinite(divergence) or divergence < -1e-6:
            raise CheckError(f"the divergence from the dense network is {divergence}")
    with _told(outcome, "saved"), tempfile.TemporaryDirectory() as folder:
        lr.save(network, folder)
        loaded = lr.load_(entry.build(), folder)
        again = _outputs(loaded, calibration[0])
        if not found or not all(map(_same, found, again)):
            raise CheckError("the loaded network's outputs differ in their bits")
    with _told(outcome, "train"):
        _check_trains(network, dense, calibration[0], routed=entry.routed)


def _planned(
    entry: Entry, model: nn.Module, dense: nn.Module, calibration: list[Any], metric: MetricName
) -> lr.Plan:
    """A plan with half of every layer's rank, which must not have changed the network."""
    plan = lr.plan(
        model,
        lr.Fixed(ranks=HALF),
        calibration=calibration,
        held_out=(),
        task=entry.get_task(),
        metric=metric,
    )
    before, after = dense.state_dict(), model.state_dict()
    if before.keys() != after.keys() or not all(_same(before[k], after[k]) for k in before):
        raise CheckError("the plan changed the network")
    if not plan.factorized:
        raise CheckError("no layer is factorized at half of its rank")
    return plan


def _full_rank_error(entry: Entry, plan: lr.Plan) -> float:
    """Of the network with the planned layers at their full ranks, in float64."""
    model, dense = (entry.build().to(entry.exact) for _ in range(2))
    batch = _as(entry.exact, *entry.batches(1, 2))
    assert plan.analysis is not None
    full = {}
    for name, layer in plan.factorized.items():
        shape = plan.analysis.targets[name].group_shape
        views = plan.methods[layer.method].views
        ranks = tuple(min(view_shape(shape, view)) for view in views)
        full[name] = lr.PlannedLayer(layer.method, ranks)
    done = lr.apply_(model, plan.with_layers(**full), example=batch)
    want, got = _outputs(dense, batch), _outputs(done.network, batch)
    scale = max(float(one.abs().max()) for one in want)
    if not scale:
        raise CheckError("the dense network gives zeros, which prove nothing")
    return max(float((a - b).abs().max()) for a, b in zip(want, got, strict=True)) / scale


def _check_like(found: list[Tensor], dense: list[Tensor]) -> None:
    if [one.shape for one in found] != [one.shape for one in dense]:
        raise CheckError("the outputs have other shapes than the dense network's")
    for one, first in zip(found, dense, strict=True):
        if not torch.equal(one.isfinite(), first.isfinite()):
            raise CheckError("the outputs hold NaN or Inf where the dense network's hold none")


def _check_trains(network: nn.Module, dense: nn.Module, batch: Any, *, routed: bool) -> None:
    """A forward and a backward pass in train mode: every factorized layer gets gradients, if the
    layer that it replaced gets any. Where the network is routed, layers may have been left out."""
    layers = {n: m for n, m in network.named_modules() if isinstance(m, lr.Factorized)}
    ran: set[nn.Module] = set()
    for layer in layers.values():
        layer.register_forward_hook(lambda module, *_: ran.add(module))
    _backward(network, batch)
    _backward(dense, batch)
    for name, layer in layers.items():
        grads = [p.grad for p in layer.parameters() if p.requires_grad]
        if not all(g is None or g.isfinite().all() for g in grads):
            raise CheckError(f"{name}: a gradient holds NaN or Inf")
        may_stand_still = routed and layer not in ran
        if all(g is None for g in grads) and not may_stand_still and _had_gradient(dense, name):
            raise CheckError(f"{name}: no gradient reaches its factors")


def _had_gradient(dense: nn.Module, name: str) -> bool:
    try:
        module = dense.get_submodule(name)
    except AttributeError:  # inside of a packed module, which holds the parameters itself
        module = dense.get_submodule(name.rpartition(".")[0])
    return any(p.grad is not None for p in module.parameters())


def _backward(model: nn.Module, batch: Any) -> None:
    torch.manual_seed(0)
    model.train()
    losses = [one.square().mean() for one in floats_in(call(model, batch)) if one.requires_grad]
    if not losses:
        raise CheckError("no output has a gradient in train mode")
    torch.stack([loss.float() for loss in losses]).sum().backward()  # type: ignore[no-untyped-call]


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad(), evaluating(model):
        found = list(floats_in(call(model, batch)))
    if not found:
        raise CheckError("the network gives no tensor of floating point numbers")
    return found


def floats_in(output: Any) -> Iterator[Tensor]:
    """The floating point tensors of an output: itself, or those in its tuples and dicts."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.numel():
            yield output
    elif isinstance(output, Mapping | tuple | list):
        for one in output.values() if isinstance(output, Mapping) else output:
            yield from floats_in(one)


def _as(dtype: torch.dtype, batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    if isinstance(batch, Mapping):
        return {key: _as(dtype, one) for key, one in batch.items()}
    return tuple(_as(dtype, one) for one in batch)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the bit; NaN equals NaN."""
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def _told(outcome: Outcome, check: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a network or the library raises is a line of the table
        outcome.failed[check] = one_line(error)


def one_line(error: Exception) -> str:
    """What happened, in one line of at most 200 letters; an error that was meant for people has no
    name of its class before it."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, CheckError) else f"{type(error).__name__}: {text}"
