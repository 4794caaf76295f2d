"""Loops over layers and batches say how far they are, to whoever watches, if anybody does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

# Gets what is gone through, how many of it are done, and of how many.
Watch = Callable[[str, int, int], None]

_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """`watch` is told of all loops of `steps` within the block: at the beginning (0 done), after
    each step, and a last time with all of them done. A loop that is left earlier tells no end."""
    before = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(before)


def steps(items: Collection[T], what: str) -> Iterator[T]:
    """The items one after the other.

    what: names them ("spectra"); of loops inside of each other the names differ.
    """
    watch = _WATCH.get()
    for done, item in enumerate(items):
        if watch is not None:
            watch(what, done, len(items))
        yield item
    if watch is not None:
        watch(what, len(items), len(items))
