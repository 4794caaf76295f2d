"""Which measures a network's scores hold, in the order in which people read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipeline.lowrank.tasks import TASKS, Task
from pipeline.lowrank.tasks.measure import Measure

ELSEWHERE = "ood_"  # before the name of a measure on the second text


def measures(scores: Mapping[str, float]) -> list[Measure]:
    """The measures of the task in which a network was scored, the most telling one first; each is
    followed by the same measure on a text of another domain, where there is one."""
    return [measure for measure in _all(_task_of(scores)) if measure.name in scores]


def _task_of(scores: Mapping[str, float]) -> Task:
    """The task that has most of its measures there (a language model has a classifier's accuracy
    and loss, too)."""
    return max(TASKS.values(), key=lambda task: sum(m.name in scores for m in task.measures))


def _all(task: Task) -> Iterator[Measure]:
    for measure in task.measures:
        yield measure
        if measure.elsewhere is not None:
            name = f"{ELSEWHERE}{measure.name}"
            yield replace(measure, name=name, label=measure.elsewhere)
