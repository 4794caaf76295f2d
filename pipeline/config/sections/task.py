"""What the network predicts."""

from __future__ import annotations

from typing import Literal

from pipeline.lowrank.typed import knob, options


@options
class TaskOptions:
    """What the network predicts: its loss, its quality, and how two networks are compared."""

    name: Literal["classification", "causal_lm", "sequence_classification", "encoder"] = knob(
        help="one of the tasks of pipeline.lowrank.tasks"
    )
