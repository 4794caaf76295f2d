"""Work on layers, which do not depend on each other: one after the other in this process, or by an
executor in others, on this machine or on many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar("T")

_AHEAD = 16  # jobs that are given away and not yet taken back: so many layers are held


class Answer(Protocol):
    """What is given for a job that was given away."""

    def result(self) -> Any:
        """What the job returned, as soon as it is done; raises what it raised."""


class Executor(Protocol):
    """Whatever takes jobs as those of concurrent.futures do: loky's and dask's executors (which
    run on many machines), submitit's for Slurm. Functions and arguments are pickled by it."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Answer:
        """Begins the call of a function, and returns at once."""


def each(
    executor: Executor | None, function: Callable[..., T], jobs: Iterable[tuple[Any, ...]]
) -> Iterator[T]:
    """What the function gives for the arguments of each job, in their order.

    executor: None calls it here. In other processes it runs with as many threads as it would here,
        so that the bits are the same; what each of them needs in memory is the work on one layer.
    """
    if executor is None:
        for arguments in jobs:
            yield function(*arguments)
        return
    waiting: deque[Answer] = deque()
    for arguments in jobs:
        waiting.append(executor.submit(_alone, torch.get_num_threads(), function, arguments))
        if len(waiting) == _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _alone(threads: int, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return function(*arguments)
