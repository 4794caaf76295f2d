"""Options of the refit, which follows the factorization."""

from __future__ import annotations

from pipeline.lowrank.typed import knob, options


@options
class RefitOptions:
    """Block by block, layers take up the errors of the layers before them, in closed form on
    calibration data. It is kept only where the network comes closer to the dense one on data held
    out from the statistics. Needs blocks in a ModuleList or Sequential."""

    share: float = knob(
        default=0.0,
        ge=0,
        le=1,
        help="how far the weights move to the least-squares solution; 0 is off",
    )
    examples: int = knob(
        default=64, ge=1, help="calibration examples, of those that the statistics see"
    )
    batch_size: int = knob(default=64, ge=1, help="examples a batch")
    held_out: int = knob(
        default=64, ge=1, help="examples to compare on, of those held out (data.held_out)"
    )
    bf16: bool = knob(
        default=False,
        help="the networks run in bfloat16 meanwhile (sums and solutions stay float32 and float64)",
    )
