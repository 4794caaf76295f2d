"""Which targets calibration data can measure in a metric, and what is known to stand against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pipeline.lowrank.analysis.memory import WIDEST
from pipeline.lowrank.analysis.metrics import make_metric
from pipeline.lowrank.analysis.moments import Moments
from pipeline.lowrank.analysis.options import MetricName
from pipeline.lowrank.analysis.routing import rare_groups
from pipeline.lowrank.analysis.stored import Parts, parts_of
from pipeline.lowrank.analysis.survey import Survey
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.targets import Target

# Bytes: of a number of a weight, which is there three times while it is whitened; of an entry of a
# channels' second moment while its root is taken, on the side of the outputs and of the inputs.
_WHITENING, _LEFT, _RIGHT = 24, 16, 24
_ZERO = "the loss's gradient at it is zero on all calibration data"


@dataclass(frozen=True)
class Measured:
    """What the moments of a target say.

    parts: of its metric; empty where there is none.
    reason: why it cannot be measured; None where it can.
    note: what its statistics lack; may be empty.
    """

    parts: Parts
    reason: str | None
    note: str

    @classmethod
    def of(cls, target: Target, moments: Moments | None, metric: str, damping: float) -> Measured:
        """What these moments say, None being those of a target that no batch reaches. One at which
        the gradient is zero has a metric, too: see `measurable`."""
        reason = _unmeasured(moments, metric)
        if moments is None or reason not in (None, _ZERO):
            return cls({}, reason, "")
        parts = parts_of(make_metric(metric, moments, target, damping))
        wide = moments.outputs is not None and moments.outputs.dim() == 2
        notes = [
            rare_groups(moments),
            f"G is diagonal: more than {WIDEST:,} outputs" if wide else "",
            "no gradient at any layer: errors are those of its output, no nats"
            if reason and not wide
            else "",
        ]
        return cls(parts, reason, "; ".join(filter(None, notes)))


def measurable(found: Survey, metric: MetricName, known: Mapping[str, Measured]) -> Survey:
    """The survey without the targets that cannot be measured. Where the loss's gradient is zero at
    all of them, which so tells nothing of any, they stay."""
    reasons = {name: known[name].reason for name in found.targets}
    why = {name: reason for name, reason in reasons.items() if reason is not None}
    if set(reasons.values()) == {_ZERO}:
        return found
    if len(why) == len(found.targets):
        first = next(iter(why))
        raise LowRankError(
            f"no layer can be measured in the metric {metric} ({first or '(root)'}: {why[first]}); "
            "choose metric=weight, or let the forward pass keep its gradients"
        )
    return found.without(why)


def _unmeasured(moments: Moments | None, metric: str) -> str | None:
    """Why a target with these moments cannot be measured, or None."""
    if moments is None:
        return "not reached by the calibration data"
    if metric != "fisher":
        return None
    if moments.outputs is None:
        return "no gradient of the loss reaches it, which the metric fisher needs"
    if not moments.outputs.any():
        return _ZERO
    return None


def check_measurable(model: nn.Module, targets: Mapping[str, Target], limit: int) -> None:
    """Raises LowRankError, before anything is computed, for parameters that nothing can have
    gradients with, and where whitening the weight of one target takes more than `limit` bytes."""
    name = next((n for n, p in model.named_parameters() if p.is_inference()), None)
    if name is not None:
        raise LowRankError(
            f"{name} was made under torch.inference_mode, where nothing has gradients: load the "
            "network outside of it"
        )
    for name, target in targets.items():
        if (needed := _needed(target)) > limit:
            raise LowRankError(
                f"layer {name!r}: its weight in a metric takes {needed / 2**30:.2g} GiB, and "
                f"memory_gib is {limit / 2**30:.2g}; raise memory_gib, or leave the layer out with "
                f"analyze.exclude=[{name}]"
            )


def _needed(target: Target) -> int:
    """The bytes of the work on the metric of one target and on its weight, beside the sums."""
    outputs, inputs, *_ = target.group_shape
    left = 0 if outputs > WIDEST else _LEFT * target.groups * outputs**2
    right = 0 if target.is_lookup else _RIGHT * target.groups * inputs**2
    return max(_WHITENING * math.prod(target.shape), left, right)
