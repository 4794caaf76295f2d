"""The section `task`: what the network predicts."""

from __future__ import annotations

from pipeline.lowrank.tasks import TASKS, get_task
from pipeline.lowrank.typed import knob, options


@options
class TaskOptions:
    """What the network predicts: its loss, its quality, and how two networks are compared."""

    name: str = knob(help=f"a task of pipeline.lowrank.tasks: {', '.join(TASKS)}")

    def __post_init__(self) -> None:
        get_task(self.name)
