"""Objectives of a sweep: figures of the fine-tuned network that a job returns to its sweeper, by
name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.tasks import TASKS, Task

# Each objective with the direction in which it is better: the tasks' measures, and the sizes.
DIRECTIONS: dict[str, str] = {
    **{m.name: m.direction for task in TASKS.values() for m in task.measures},
    **{m.name: m.direction for task in TASKS.values() for m in task.unlabelled().measures},
    "params": "minimize",
    "macs": "minimize",
    "file_bytes": "minimize",
    "latency_ms": "minimize",
}


def directions_of(task: Task) -> dict[str, str]:
    """DIRECTIONS, with the measures of this task, which may be the user's own."""
    return DIRECTIONS | {measure.name: measure.direction for measure in task.measures}


def chosen_objectives(given: Sequence[str] | None, task: Task) -> list[str]:
    """The objectives that are given, by default the most telling measure of the task. Raises
    LowRankError for an unknown one, and for none."""
    known = directions_of(task)
    names = [task.measures[0].name] if given is None else list(given)
    if not names:
        raise LowRankError(f"objectives=[]: choose at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise LowRankError(f"objectives: {name} is unknown; {suggest(name, tuple(known))}")
    return names


def check_directions(names: Sequence[str], directions: Sequence[str], task: Task) -> None:
    """Raises LowRankError unless a sweeper's directions are those of the objectives."""
    known = directions_of(task)
    wanted = [known[name] for name in names]
    if list(directions) != wanted:
        raise LowRankError(
            f"hydra.sweeper.direction=[{','.join(directions)}] does not suit "
            f"objectives=[{','.join(names)}], whose directions are [{','.join(wanted)}]; "
            "give the one that suits the other"
        )


def read_objectives(names: Sequence[str], found: Mapping[str, float]) -> dict[str, float]:
    """The values of a job by name; found: all figures of its fine-tuned network."""
    missing = [name for name in names if name not in found]
    if missing:
        raise LowRankError(
            f"objectives: this run has no {missing[0]}; it has {', '.join(sorted(found))}"
        )
    return {name: float(found[name]) for name in names}
