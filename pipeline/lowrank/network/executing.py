"""Work on layers, which do not depend on each other: one after the other in this process, or by an
executor in others, on this machine or on many."""

from __future__ import annotations

import os
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import torch

from pipeline.lowrank.errors import LowRankError

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
        What it warns of is warned of here.
    """
    if executor is None:
        for arguments in jobs:
            yield function(*arguments)
        return
    waiting: deque[Answer] = deque()
    for arguments in jobs:
        given = (_here(), torch.get_num_threads(), function, arguments)
        waiting.append(executor.submit(_alone, *given))
        if len(waiting) == _AHEAD:
            yield _taken(waiting.popleft().result())
    while waiting:
        yield _taken(waiting.popleft().result())


@dataclass(frozen=True)
class _Outcome(Generic[T]):
    """What became of a job in another process: its value, or the error that a user can mend, which
    engines would wrap in errors of their own; and what it warned of."""

    value: T | None = None
    error: LowRankError | None = None
    warned: tuple[str, ...] = ()


def _taken(outcome: _Outcome[T]) -> T:
    for text in outcome.warned:
        warnings.warn(text, stacklevel=3)
    if outcome.error is not None:
        raise outcome.error
    return cast(T, outcome.value)


def _alone(
    asked: str, threads: int, function: Callable[..., T], arguments: tuple[Any, ...]
) -> _Outcome[T]:
    """The call of a function; `asked` is the process that wants it, where warnings are heard."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if _here() == asked:
        return _Outcome(function(*arguments))
    value, error = None, None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            value = function(*arguments)
        except LowRankError as reason:
            error = reason
    warned = tuple(str(one.message) for one in told if one.category is UserWarning)
    return _Outcome(value, error, warned)


def _here() -> str:
    return f"{socket.gethostname()} {os.getpid()}"
