"""The view of a running sweep, read from the jobs' status files, so that it is the same under every
launcher: a table on a terminal, one line an event elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.reporting.sweep.record import JobRecord, SweepRecord, count, is_cached, read_jobs
from pipeline.reporting.sweep.status import DONE, FAILED, LOG, RUNNING, STOPPED

_SECONDS = 0.5
_LAST_LINES = 5


@contextmanager
def sweep_view(folder: Path, total: int | None) -> Iterator[None]:
    """Shows the sweep in `folder` on standard output until the block ends."""
    # The very file: while a job runs in this process, sys.stdout is the job's log.
    console = Console(file=sys.stdout, highlight=False)
    started, ended = time.time(), threading.Event()
    told: set[int] = set()

    def show(live: Live | None) -> None:
        jobs = read_jobs(folder)
        if live is not None:
            live.update(_table(folder, jobs, total, time.time() - started), refresh=True)
            return
        for job in jobs:
            if job.state in (DONE, FAILED) and job.job not in told:
                told.add(job.job)
                of = "" if total is None else f"/{total}"
                line = f"[{len(told)}{of}] {_line(job)}"
                console.print(line, markup=False, soft_wrap=True)

    def watch(live: Live | None) -> None:
        while not ended.wait(_SECONDS):
            show(live)

    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    shown = live if console.is_terminal else None
    if shown:
        shown.start()
    thread = threading.Thread(target=watch, args=(shown,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        show(shown)
        if shown:
            shown.stop()


def print_outcome(folder: Path, record: SweepRecord) -> None:
    """Prints the end of a sweep: how many jobs ended how, why those failed, where everything is."""
    console = Console(file=sys.stdout, highlight=False)
    jobs = record.jobs
    for job in jobs:
        if job.state == FAILED:
            console.print(f"\njob {job.job} failed: {job.error}", markup=False)
            log = folder / job.folder / LOG
            for line in _last_lines(log):
                console.print(f"    {line}", markup=False, soft_wrap=True)
            console.print(f"    log  {log}", markup=False, soft_wrap=True)
    console.print(f"\n{_counts(jobs, record.total)}")
    console.print(f"sweep      {folder}", soft_wrap=True)
    console.print(f"MLflow run {record.parent_run_id} ({record.experiment})")
    if record.state != DONE:
        console.print(
            f"What is missing, and nothing else, is computed by\n"
            f"    python -m pipeline --resume {folder}",
            soft_wrap=True,
        )


def _table(folder: Path, jobs: Sequence[JobRecord], total: int | None, took: float) -> Group:
    counted = count(jobs)
    ended = counted[DONE] + counted[FAILED]
    left = f", about {_clock(took / ended * (total - ended))} left" if ended and total else ""
    table = Table(box=None, pad_edge=False, show_header=False)
    for job in jobs:
        if job.state in (RUNNING, FAILED):
            now = job.error if job.state == FAILED else job.stage or "from the cache"
            since = _clock((job.ended or time.time()) - job.started)
            log = str(folder / job.folder / LOG)
            name = Text(f"{job.job}", style=f"link file://{log}")
            table.add_row(name, " ".join(job.overrides), str(now), since)
    return Group(f"{_counts(jobs, total)}; {_clock(took)}{left}; {folder}", table)


def _counts(jobs: Sequence[JobRecord], total: int | None) -> str:
    counted = count(jobs)
    parts = [f"{counted[DONE]} done ({counted['cached']} from the cache)"]
    parts += [f"{counted[state]} {state}" for state in (RUNNING, FAILED, STOPPED) if counted[state]]
    return f"{len(jobs) if total is None else total} jobs: {', '.join(parts)}"


def _line(job: JobRecord) -> str:
    what = f"job {job.job} ({' '.join(job.overrides)})"
    took = _clock((job.ended or time.time()) - job.started)
    if job.state == FAILED:
        return f"{what} failed: {job.error}"
    values = ", ".join(f"{name} {value:.6g}" for name, value in job.objectives.items())
    ran = [name for name, outcome in job.stages.items() if outcome == "ran"]
    source = "from the cache" if is_cached(job) else f"ran {', '.join(ran)}"
    return f"{what}: {values}; {source}; {took}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02}"


def _last_lines(log: Path) -> list[str]:
    if not log.is_file():
        return []
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-_LAST_LINES:]
