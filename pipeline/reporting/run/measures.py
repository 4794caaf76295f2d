"""Which measures a network's scores hold, in the order in which people read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.lowrank.tasks import TASKS, Task
from pipeline.lowrank.tasks.measure import AGREEMENT, DIVERGENCE, Measure

ELSEWHERE = "ood_"  # before the name of a measure on the second text


def measures(scores: Mapping[str, float], given: Sequence[Measure] | None = None) -> list[Measure]:
    """The measures of the task in which a network was scored, the most telling one first; each is
    followed by the same measure on a text of another domain, where there is one. At the end stands
    what compares with the dense network.

    given: those of the task; None where the names of the scores tell them.
    """
    own = known_measures(scores) if given is None else given
    names = {measure.name for measure in own}
    beside = [one for one in (AGREEMENT, DIVERGENCE) if one.name not in names]
    return [m for m in (*_all(own), *beside) if m.name in scores]


def known_measures(scores: Mapping[str, float]) -> tuple[Measure, ...]:
    """The measures of the task that has most of its measures there (a language model has a
    classifier's accuracy and loss, too)."""

    def shared(task: Task) -> int:
        return sum(m.name in scores for m in task.measures)

    return max(TASKS.values(), key=shared).measures


def in_percent(name: str) -> bool:
    """Whether a measure of this name is a fraction, which is read in percent."""
    known = [AGREEMENT, *(measure for task in TASKS.values() for measure in task.measures)]
    return name == "cosine" or any(m.name == name and m.style == "percent" for m in known)


def _all(known: Sequence[Measure]) -> Iterator[Measure]:
    for measure in known:
        yield measure
        if measure.elsewhere is not None:
            name = f"{ELSEWHERE}{measure.name}"
            yield replace(measure, name=name, label=measure.elsewhere)
