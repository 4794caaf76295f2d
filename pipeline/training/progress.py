"""Progress of a training: a bar on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.lowrank.tasks.measure import Measure

_WIDE = 80  # columns of a terminal that has room for the time that is over


class Display(Protocol):
    """The events of a training loop that are shown: mean losses, and the measure that the task
    watches."""

    def step(self, done: int, train_loss: float) -> None: ...

    def epoch(self, number: int, loss: float, watched: float) -> None: ...


class SilentDisplay:
    """Shows nothing: for all processes but the first."""

    def step(self, done: int, train_loss: float) -> None:
        pass

    def epoch(self, number: int, loss: float, watched: float) -> None:
        pass


class LineDisplay:
    """Writes one line an epoch, for logs and pipes."""

    def __init__(self, label: str, epochs: int, measure: Measure) -> None:
        self._label, self._epochs, self._measure = label, epochs, measure
        self._train_loss = float("nan")

    def step(self, done: int, train_loss: float) -> None:
        self._train_loss = train_loss

    def epoch(self, number: int, loss: float, watched: float) -> None:
        train = f"train loss {self._train_loss:.4f}, " if number else ""
        quality = f", {self._measure.name} {self._measure.show(watched)}"
        print(
            f"{self._label}: epoch {number}/{self._epochs}, {train}validation loss {loss:.4f}"
            + ("" if self._measure.name == "loss" else quality),
            flush=True,
        )


class BarDisplay:
    """Shows a bar with loss, quality on validation and the remaining time."""

    def __init__(self, progress: Progress, label: str, steps: int, measure: Measure) -> None:
        self._progress, self._measure = progress, measure
        self._task = progress.add_task(label, total=steps, loss="", validation="")

    def step(self, done: int, train_loss: float) -> None:
        self._progress.update(self._task, completed=done, loss=f"loss {train_loss:.3f}")

    def epoch(self, number: int, loss: float, watched: float) -> None:
        text = f"epoch {number}: {self._measure.show(watched)}"
        self._progress.update(self._task, validation=text)


@contextmanager
def training_display(label: str, epochs: int, steps: int, measure: Measure) -> Iterator[Display]:
    """The display that suits standard output; `measure` is what is shown beside the loss."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        yield LineDisplay(label, epochs, measure)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[loss]} {task.fields[validation]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    ]
    if console.width >= _WIDE:
        columns.insert(-1, TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield BarDisplay(progress, label, steps, measure)
