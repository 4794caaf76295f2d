"""The options of an analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.lowrank.typed import knob, options

# Of the calibration examples, the last: statistics never see them, plans are measured on them.
HELD_OUT = 0.25

MetricName = Literal["weight", "input", "fisher"]


@options
class AnalysisOptions:
    """In which norm errors are measured, on what, and which layers may be factorized."""

    metric: MetricName = knob(
        default="fisher",
        help="the norm of the errors: weight (Frobenius), input (of each layer's output) or fisher "
        "(nats of loss)",
    )
    damping: float = knob(
        default=0.1, gt=0, help="fisher: added to G = E[ggᵀ], relative to its mean diagonal"
    )
    batch_size: int = knob(default=64, ge=1, help="calibration examples a batch")
    gradient_share: float = knob(
        default=1.0,
        gt=0,
        le=1,
        help="fisher: fraction of the batches with a backward pass; inputs need more data than "
        "gradients",
    )
    memory_gib: float = knob(
        default=8.0,
        gt=0,
        help="for the sums of the statistics; what does not fit takes further passes",
    )
    bf16: bool = knob(
        default=False,
        help="the network runs in bfloat16 while statistics are collected (their sums stay float32 "
        "and float64)",
    )
    include: Sequence[str] = knob(
        default=("*",),
        min_length=1,
        help="shell-style patterns on module names: the layers that may be factorized",
    )
    exclude: Sequence[str] = knob(default=(), help="exclude wins over include")
