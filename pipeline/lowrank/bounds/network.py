"""Bounds on the output error of the whole network: for given inputs (the certificate), for all
inputs up to a length (the worst case), and Theorem 4 of the course module "Matrix Factorization"
that this project started from (docs/theorems.md), which is no bound."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.bounds.grouped import GroupedInFloat64
from pipeline.lowrank.bounds.layers import LayerBounds
from pipeline.lowrank.bounds.linear import NotCertifiedError, example_norms, run
from pipeline.lowrank.bounds.measured import float64_gib, measured_alone, outputs_of, quantiles
from pipeline.lowrank.bounds.options import MEMORY_GIB
from pipeline.lowrank.bounds.propagation import Propagation
from pipeline.lowrank.bounds.record import Bounds, NetworkBound
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.dense import without_factors_
from pipeline.lowrank.network.calling import count_examples, rows_of
from pipeline.lowrank.network.inner.narrowing import narrowing_of
from pipeline.lowrank.network.opening import module_at, open_towards_
from pipeline.lowrank.network.progress import steps
from pipeline.lowrank.network.stacks import Stack


def certify(
    dense: nn.Module,
    approximate: nn.Module,
    inputs: Any,
    names: Sequence[str],
    *,
    batch_size: int = 64,
    memory_gib: float = MEMORY_GIB,
) -> Bounds:
    """Bounds on what replacing the layers `names` of `dense` changes; changes neither network.

    approximate: a network of the same structure, with other weights or factorized layers at
        `names`.
    inputs: (N, …) examples, N ≥ 1, on which layers are measured and the network is certified. Token
        numbers are no vectors, and several inputs, a dict or a tuple, are not one: for them there
        are only the layers' bounds.
    batch_size: how many examples pass through the networks at a time; it changes no result.
    memory_gib: for float64 copies of both networks. Where they take more, nothing is bounded: the
        networks run as they are, and their difference is measured.

    A stack, whose module multiplies by it itself, has no bound, and neither has its network.

    Everything is computed in float64 on the CPU, with rounding as a part of each bound. Raises
    LowRankError when a measured error exceeds a certified bound.
    """
    if (count := count_examples(inputs)) == 0:
        raise LowRankError("no example to certify the network on; give at least one")
    if (needed := float64_gib(dense) + float64_gib(approximate)) > memory_gib:
        reason = (
            f"its copies in float64 take {needed:.3g} GiB, and certify.memory_gib is {memory_gib:g}"
        )
        return Bounds({}, measured_alone(dense, approximate, inputs, batch_size, reason))
    dense, approximate = without_factors_(_exact(dense)), _exact(approximate)
    inputs = _in_float64(inputs)
    for name in names:
        open_towards_(dense, name)
        open_towards_(approximate, name)
    _check_sizes(approximate)
    stacks = [n for n in names if isinstance(module_at(dense, n), Stack)]
    called = [n for n in names if n not in stacks]
    pairs = {n: (dense.get_submodule(n), approximate.get_submodule(n)) for n in called}
    layers, certifier = LayerBounds(pairs), _Certifier(dense, approximate, inputs, stacks)
    with layers.watching(), GroupedInFloat64():
        for start in steps(range(0, count, batch_size), "certificates"):
            batch = rows_of(inputs, slice(start, start + batch_size))
            certifier.send(batch, outputs_of(approximate, batch))
    return Bounds(layers.result(), certifier.result())


class _Certifier:
    """Sends batches through the dense network, and certifies them until a step has no known
    constant."""

    def __init__(
        self, dense: nn.Module, approximate: nn.Module, inputs: Any, stacks: Sequence[str]
    ) -> None:
        self.dense, self.longest = dense, 0.0
        self.measured: list[Tensor] = []
        self.certified: list[Tensor] = []
        self.reason: str | None = None
        self.worst = 0.0
        try:
            if stacks:
                raise NotCertifiedError(
                    f"{stacks[0]} is no layer: its module multiplies by it itself"
                )
            if not isinstance(inputs, Tensor):
                raise NotCertifiedError("it reads several inputs, and bounds are of one vector")
            if not inputs.is_floating_point():
                raise NotCertifiedError(f"its inputs are {inputs.dtype} numbers and no vectors")
            self.longest = example_norms(inputs).max().item()
            self.propagation = Propagation(dense, approximate)
        except NotCertifiedError as reason:
            self.reason = str(reason)

    def send(self, batch: Any, approximate: Tensor) -> None:
        """approximate: (N, outputs), what the approximate network makes of the batch."""
        if self.reason is None:
            try:
                carried = self.propagation.run(batch, self.longest)
                if not self.measured:
                    self._check_trace(carried.value[:1], batch[:1])
            except NotCertifiedError as reason:
                self.reason = str(reason)
            else:
                self.certified.append(carried.error)
                self.worst = max(self.worst, carried.worst)
                self.measured.append(example_norms(carried.value.flatten(1) - approximate))
                return
        self.measured.append(example_norms(outputs_of(self.dense, batch) - approximate))

    def result(self) -> NetworkBound:
        """Raises LowRankError when a measured error exceeds what was certified."""
        measured = torch.cat(self.measured)
        if self.reason is not None:
            return NetworkBound(False, self.reason, len(measured), quantiles(measured))
        certificate = torch.cat(self.certified)
        _check_certificate(measured, certificate, self.worst)
        tight = torch.where(certificate > 0, measured / certificate, 1.0)
        return NetworkBound(
            certified=True,
            reason=None,
            examples=len(measured),
            measured=quantiles(measured),
            longest_input=self.longest,
            certificate=quantiles(certificate),
            tightness=quantiles(tight),
            worst_case=self.worst,
            printed_formula=printed_formula(
                list(self.propagation.matrix_norms.values()),
                self.propagation.activation,
                self.longest,
            ),
        )

    def _check_trace(self, traced: Tensor, example: Tensor) -> None:
        """Checks that one example alone gives what its row of the batch gave."""
        if not torch.allclose(traced, run(self.dense, example), rtol=1e-9, atol=1e-12):
            raise NotCertifiedError(
                "the network gives one example alone another output than its traced graph gives it "
                "in a batch: it mixes the examples, or the trace is not the network"
            )


def printed_formula(norms: Sequence[tuple[float, float]], lipschitz: float, length: float) -> float:
    """Σ_l σ_{k_l+1}·∏_{j>l}‖W_j‖₂·Lip(φ)^(L−l)·‖x‖, Theorem 4 of the course module as it is
    printed.

    norms: (‖W_l‖₂, ‖W_l − Ŵ_l‖₂) of the weights as matrices, first layer first.
    lipschitz: Lip(φ), the constant of the activation.
    length: ‖x‖.

    **Not a bound**: ∏_{j<l}‖W_j‖₂ is missing, kernels are taken for matrices, and biases, branches
    and BatchNorm do not occur. With W₁ = 10·I, W₂ = diag(1, ½) cut to rank 1 and x = e₂ the error
    is 5, and the formula gives 0.5.
    """
    total, behind = 0.0, 1.0
    for dense, cut in reversed(norms):
        total += cut * behind
        behind *= dense * lipschitz
    return total * length


def _in_float64(batch: Any) -> Any:
    """The batch on the CPU, its floating numbers in float64."""
    if isinstance(batch, Tensor):
        return batch.to("cpu", torch.float64 if batch.is_floating_point() else batch.dtype)
    if isinstance(batch, Mapping):
        return {key: _in_float64(value) for key, value in batch.items()}
    return tuple(map(_in_float64, batch)) if isinstance(batch, tuple | list) else batch


def _check_sizes(approximate: nn.Module) -> None:
    for name, module in approximate.named_modules():
        if narrowing_of(module) is not None:
            raise LowRankError(
                f"layer {name!r} was narrowed, and cannot be compared with the dense one: certify "
                "the network with all channels, report.widened(network) of what lr.apply_ returned"
            )


def _exact(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu", torch.float64).eval()


def _check_certificate(measured: Tensor, certificate: Tensor, worst: float) -> None:
    for what, bound in (
        ("certificate", certificate),
        ("worst case", torch.full_like(measured, worst)),
    ):
        broken = (~(measured <= bound)).nonzero().flatten()  # NaN too
        if len(broken):
            place = int(broken[0])
            raise LowRankError(
                f"the network's output error {measured[place]:.9g} on example {place} exceeds its "
                f"{what} {bound[place]:.9g}; this is a bug, please report it"
            )
