"""Progress of the long loops of a stage: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.lowrank.network.progress import watched

_SOON = 0.5  # seconds after which a loop gets its bar
_SELDOM = 10.0  # seconds from one line to the next


@contextmanager
def shown_progress(label: str) -> Iterator[None]:
    """Shows on standard output how far the loops of `steps` in the block are, and how long they
    take still; `label` stands before each."""
    console = Console(file=sys.stdout, highlight=False)
    shown = _Bars(label, console) if console.is_terminal else _Lines(label)
    try:
        with watched(shown.tell):
            yield
    finally:
        shown.end()


@dataclass
class _Lines:
    """For pipes and logs."""

    label: str
    begun: dict[str, float] = field(default_factory=dict)
    last: float = 0.0

    def tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == 0:
            self.begun[what] = now
        elif done < total and now - max(self.last, self.begun[what]) >= _SELDOM:
            left = (now - self.begun[what]) / done * (total - done)
            minutes, seconds = divmod(round(left), 60)
            about = f"about {minutes}:{seconds:02} left"
            print(f"{self.label}: {what} {done}/{total}, {about}", flush=True)
            self.last = now

    def end(self) -> None:
        pass


@dataclass
class _Bars:
    """For terminals. A loop that is over soon gets no bar."""

    label: str
    console: Console
    begun: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, TaskID] = field(default_factory=dict)
    progress: Progress | None = None

    def tell(self, what: str, done: int, total: int) -> None:
        if done == 0:
            self.begun[what] = time.monotonic()
        if done == total:
            self._remove(what)
        elif what in self.tasks:
            assert self.progress is not None
            self.progress.update(self.tasks[what], completed=done)
        elif time.monotonic() - self.begun[what] >= _SOON:
            self._add(what, done, total)

    def end(self) -> None:
        for what in list(self.tasks):
            self._remove(what)

    def _add(self, what: str, done: int, total: int) -> None:
        if self.progress is None:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.progress.start()
        description = f"{self.label}: {what}"
        self.tasks[what] = self.progress.add_task(description, total=total, completed=done)

    def _remove(self, what: str) -> None:
        if self.progress is None or what not in self.tasks:
            return
        self.progress.remove_task(self.tasks.pop(what))
        if not self.tasks:  # the next loop may be a training, which has its own display
            self.progress.stop()
            self.progress = None
