"""Options of the refit, which follows the factorization."""

from __future__ import annotations

from typing import Literal

from pipeline.lowrank.typed import knob, options

StateError = Literal["relative", "plain", "fisher"]


@options
class RefitOptions:
    """Block by block, layers take up the errors of the layers before them, in closed form, trained,
    or both, on calibration data. It is kept only where the network comes closer to the dense one on
    data held out from the statistics. Needs blocks in a ModuleList or Sequential."""

    share: float = knob(
        default=0.0,
        ge=0,
        le=1,
        help="how far the weights move to the least-squares solution; 0 is off",
    )
    batchnorm: bool = knob(
        default=False, help="the statistics of BatchNorm layers are estimated again"
    )
    steps: int = knob(
        default=0, ge=0, help="training steps of each block, all its parameters; 0 is off"
    )
    learning_rate: float = knob(
        default=5e-4, gt=0, help="steps: the peak of AdamW's rate in each block's cycle"
    )
    error: StateError = knob(
        default="relative",
        help="steps: the squared error of a block's output, relative to the size of each token or "
        "image, plain, or in nats by the gradients of the loss",
    )
    minutes: float | None = knob(
        default=None,
        gt=0,
        help="steps: at most so many, the blocks then get fewer steps; null: no limit",
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

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return self.share > 0 or self.batchnorm or self.steps > 0
