"""Moments of a stack, one matrix a group, from the positions that went through each group: the
tokens that were routed to an expert."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pipeline.lowrank.analysis.moments import Moments, check_sums, gram
from pipeline.lowrank.network.readings import Part, Reading

_LEAST = 1.0  # positions that a group counts for which none went through
_SHOWN = 8  # groups that a note names


class StackSums:
    """Sums over the positions of each group, float64, which lie on the CPU or where the network is.

    inputs: (groups, n, n) Σx·xᵀ; means: (groups, n) Σx.
    outputs: (groups, m, m) Σg·gᵀ of the gradients, or (groups, m), its diagonal alone; None before
        any gradient was added.
    counts, seen: (groups,) how many positions were added, and how many gradients.
    """

    def __init__(self, groups: int, inputs: int, like: Tensor, *, wide: bool) -> None:
        """inputs: n; like: a tensor of the network; wide: diagonals alone of the outputs."""
        zeros = partial(torch.zeros, dtype=torch.float64, device=like.device)
        self.groups, self.wide = groups, wide
        self.inputs = zeros(groups, inputs, inputs)
        self.means = zeros(groups, inputs)
        self.outputs: Tensor | None = None
        self.counts, self.seen = torch.zeros(groups), torch.zeros(groups)

    def add(self, reading: Reading, *, gradients: bool) -> Tensor | None:
        """Adds what one product reads; with `gradients` also what a later backward pass brings to
        its result, in whose place the tensor that is returned has to go."""
        parts = [part for part in reading.parts() if len(part.rows)]
        with torch.no_grad():
            for part in parts:
                self.inputs[part.group] += gram(part.rows[None])[0]
                self.means[part.group] += part.rows.double().sum(0)
                self.counts[part.group] += len(part.rows)
        if not gradients:
            return None
        result = reading.result
        watched = result if result.requires_grad else result.detach().requires_grad_()
        watched.register_hook(partial(self._add_outputs, parts))  # type: ignore[no-untyped-call]
        return None if watched is result else watched.clone()

    def _add_outputs(self, parts: list[Part], gradient: Tensor) -> None:
        gradient = gradient.detach()
        for part in parts:
            rows = part.of(gradient)
            found = rows.double().square().sum(0) if self.wide else gram(rows[None])[0]
            if self.outputs is None:
                self.outputs = found.new_zeros(self.groups, *found.shape)
            self.outputs[part.group] += found
            self.seen[part.group] += len(rows)

    def moments(self, name: str, units: int) -> Moments:
        """The moments, such that ½·tr(outputs·ΔW·inputs·ΔWᵀ), summed over the groups, is a loss per
        unit, and ‖ΔW·inputs^½‖² the mean squared error of all positions.

        `inputs` of a group are its own mean times its share of the positions; `outputs` are as if
        all positions went through it. A group with fewer positions than a matrix has rows is known
        too little: the mean of the other groups stands in for the positions that are missing. One
        that was never used counts as a single position, and so does one without any gradient.
        """
        check_sums(name, self.inputs, self.outputs)
        counts = self.counts.to(self.inputs)
        share = counts.clamp_min(_LEAST if self.groups > 1 else 0.0) / counts.sum()
        inputs = _filled(self.inputs, counts) * share[:, None, None]
        means = self.means / counts.clamp_min(1.0)[:, None]
        outputs = self.outputs
        if outputs is not None:
            seen = self.seen.to(outputs)
            outputs = _filled(outputs, seen) * (float(seen.sum()) / units)
        return Moments(inputs, means, outputs, int(counts.sum()), counts=self.counts)


def _filled(sums: Tensor, counts: Tensor) -> Tensor:
    """The mean of each group, (groups, …), where the mean of the others fills a group up to as many
    positions as a matrix has rows."""
    size = sums.shape[1]
    shape = (-1, *[1] * (sums.dim() - 1))
    others = (sums.sum(0) - sums) / (counts.sum() - counts).clamp_min(1.0).view(shape)
    empty = ~(sums != 0).flatten(1).any(1)  # a zero matrix would count as the identity
    missing = torch.maximum(size - counts, empty.to(counts)).clamp_min(0.0)
    missing = torch.where(counts.sum() > counts, missing, 0.0)
    total = (counts + missing).clamp_min(1.0)
    return (sums + missing.view(shape) * others) / total.view(shape)


def rare_groups(moments: Moments) -> str:
    """Which groups of a stack fewer positions went through than their matrices have columns, and so
    borrow what is missing; empty where there are none."""
    if moments.counts is None or len(moments.counts) == 1:
        return ""
    rare = (moments.counts < moments.inputs.shape[-1]).nonzero().flatten().tolist()
    if not rare:
        return ""
    shown = ", ".join(map(str, rare[:_SHOWN])) + (", …" if len(rare) > _SHOWN else "")
    return (
        f"{len(rare)} of {len(moments.counts)} experts ({shown}) read fewer tokens than they have "
        "inputs: moments of the others fill them up"
    )
