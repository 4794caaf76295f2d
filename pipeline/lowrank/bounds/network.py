"""The whole network: the formula of the course module that this project started from
(docs/theorems.md), the worst case, and the certificate on given inputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.lowrank.bounds.carried import leaves
from pipeline.lowrank.bounds.layers import LayerBound, LayerBounds
from pipeline.lowrank.bounds.linear import NotCertifiedError, example_norms, run
from pipeline.lowrank.bounds.propagation import Propagation
from pipeline.lowrank.errors import LowRankError


@dataclass(frozen=True)
class Quantiles:
    """Of one figure over the examples: the 50 %, 90 % and 100 % quantiles."""

    median: float
    p90: float
    max: float


@dataclass(frozen=True)
class NetworkBound:
    """What is known of ‖f(x) − f̂(x)‖, outputs in the network's own unit, in float64.

    measured: over the given inputs (of several outputs, all together). certificate: an upper
    bound for each of these inputs (and for no others). tightness: measured / certificate, input
    by input. worst_case: for every x with ‖x‖ ≤ longest_input. source_formula: Theorem 4 of the
    course module as printed; it is *not a bound*.
    The last five are None, and `reason` says why, where the network cannot be certified.
    """

    certified: bool
    reason: str | None
    examples: int
    measured: Quantiles
    longest_input: float | None = None
    certificate: Quantiles | None = None
    tightness: Quantiles | None = None
    worst_case: float | None = None
    source_formula: float | None = None


@dataclass(frozen=True)
class Bounds:
    """The bounds of all changed layers, and of the network."""

    layers: Mapping[str, LayerBound]
    network: NetworkBound


def certify(
    dense: nn.Module,
    approximate: nn.Module,
    inputs: Tensor,
    names: Sequence[str],
    *,
    batch_size: int = 64,
) -> Bounds:
    """Bounds on what replacing the layers `names` of `dense` changes; changes neither network.

    inputs: (N, …) examples, N ≥ 1, for which layers are measured and the network is certified
    (token numbers are no vectors: they get the layers' bounds only).
    `approximate` has the same structure, with other weights or factorized layers at `names`.
    All of it is computed in float64 on the CPU. Raises LowRankError when a measured error
    exceeds a certified bound.
    """
    if len(inputs) == 0:
        raise LowRankError("no example to certify the network on; give at least one")
    dense, approximate = _exact(dense), _exact(approximate)
    if inputs.is_floating_point():
        inputs = inputs.to(torch.float64)
    pairs = {n: (dense.get_submodule(n), approximate.get_submodule(n)) for n in names}
    layers, certifier = LayerBounds(pairs), _Certifier(dense, approximate, inputs)
    with layers.watching():
        for batch in torch.split(inputs, batch_size):
            certifier.send(batch.cpu(), _outputs(approximate, batch.cpu()))
    return Bounds(layers.result(), certifier.result())


class _Certifier:
    """Sends batches through the dense network, with certificates as long as there are any."""

    def __init__(self, dense: nn.Module, approximate: nn.Module, inputs: Tensor) -> None:
        self.dense, self.longest = dense, 0.0
        self.measured: list[Tensor] = []
        self.certified: list[Tensor] = []
        self.reason: str | None = None
        self.worst = 0.0
        try:
            if not inputs.is_floating_point():
                raise NotCertifiedError(f"its inputs are {inputs.dtype} numbers and no vectors")
            self.longest = example_norms(inputs).max().item()
            self.propagation = Propagation(dense, approximate)
        except NotCertifiedError as reason:
            self.reason = str(reason)

    def send(self, batch: Tensor, approximate: Tensor) -> None:
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
        self.measured.append(example_norms(_outputs(self.dense, batch) - approximate))

    def result(self) -> NetworkBound:
        """Raises LowRankError when a measured error exceeds what was certified."""
        measured = torch.cat(self.measured)
        if self.reason is not None:
            return NetworkBound(False, self.reason, len(measured), _quantiles(measured))
        certificate = torch.cat(self.certified)
        _check_certificate(measured, certificate, self.worst)
        tight = torch.where(certificate > 0, measured / certificate, 1.0)
        return NetworkBound(
            certified=True,
            reason=None,
            examples=len(measured),
            measured=_quantiles(measured),
            longest_input=self.longest,
            certificate=_quantiles(certificate),
            tightness=_quantiles(tight),
            worst_case=self.worst,
            source_formula=source_formula(
                list(self.propagation.matrix_norms.values()),
                self.propagation.activation,
                self.longest,
            ),
        )

    def _check_trace(self, traced: Tensor, example: Tensor) -> None:
        """One example alone must give what its row of the batch gave."""
        if not torch.allclose(traced, run(self.dense, example), rtol=1e-9, atol=1e-12):
            raise NotCertifiedError(
                "the network gives one example alone another output than its traced graph gives it "
                "in a batch: it mixes the examples, or the trace is not the network"
            )


def source_formula(norms: Sequence[tuple[float, float]], lipschitz: float, length: float) -> float:
    """Σ_l σ_{k_l+1}·∏_{j>l}‖W_j‖₂·Lip(φ)^(L−l)·‖x‖ as the course module prints it (Theorem 4).

    norms: (‖W_l‖₂, ‖W_l − Ŵ_l‖₂) of the weights as matrices, first layer first. **Not a bound**:
    ∏_{j<l}‖W_j‖₂ is missing, kernels are no operators, biases, branches and BatchNorm don't
    occur. With W₁ = 10·I, W₂ = diag(1, ½) cut to rank 1 and x = e₂ the error is 5, this is 0.5.
    """
    total, behind = 0.0, 1.0
    for dense, cut in reversed(norms):
        total += cut * behind
        behind *= dense * lipschitz
    return total * length


def _outputs(model: nn.Module, batch: Tensor) -> Tensor:
    """(N, all numbers) of what the network gives for a batch: a tensor, or a tuple or mapping
    of tensors among other things."""
    with torch.no_grad():
        found = [
            leaf.reshape(len(batch), -1)
            for leaf in leaves(model(batch))
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and len(leaf) == len(batch)
        ]
    if not found:
        raise LowRankError(
            "the network gives no tensor with a row an example; its error is undefined"
        )
    return torch.cat(found, dim=1)


def _exact(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu", torch.float64).eval()


def _quantiles(values: Tensor) -> Quantiles:
    return Quantiles(*(values.quantile(q).item() for q in (0.5, 0.9, 1.0)))


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
