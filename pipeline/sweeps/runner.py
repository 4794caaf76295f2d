"""The process of one job: reproduces the DVC workspace in the current directory, or the stages
up to the ones that are named.

Two jobs that miss the same stage at once would compute it twice, and can corrupt each other's
data. So each stage runs under a file lock named by all that determines it: the commands and
parameters of the stage and of everything upstream. The second job waits, then finds the
result in the run-cache.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dvc.dependency.param
import dvc.stage.run
import networkx
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.exceptions import StageCmdFailedError
from filelock import FileLock

from pipeline.lowrank.errors import LowRankError
from pipeline.machine.faults import one_line
from pipeline.reporting.chain import headline
from pipeline.reporting.sweep.status import read_status, write_status
from pipeline.sweeps.warm import parent_ended, warm_stages

# Outcomes of a stage: computed here, restored from the run-cache, or as it was already.
RAN, CACHED, UNCHANGED = "ran", "cached", "unchanged"
_TOLD = {CACHED: "from the cache", UNCHANGED: "as it was"}
# Bytes of a file up to which a workspace has it for itself.
_SMALL = 16 << 20


class _Watch(logging.Handler):
    """Notes from DVC's messages whether the command of the current stage really runs."""

    def __init__(self) -> None:
        super().__init__()
        self.outcome = UNCHANGED
        self.on_run: Callable[[], None] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Running stage"):
            self.outcome = RAN
            self.on_run()
        elif "is cached - skipping run" in message:
            self.outcome = CACHED


def reproduce_here(locks: Path, targets: Sequence[str] = ()) -> None:
    """Reproduces every stage of the current directory, or the `targets` and what they need, one at
    a time, each under its lock, and keeps ./status.json.

    Raises DvcException when a stage fails.
    """
    repo, watch = Repo("."), _Watch()
    outcomes: dict[str, str] = {}
    logging.getLogger("dvc").addHandler(watch)
    chain = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    params = yaml.safe_load(Path("params.yaml").read_text())
    locks.mkdir(parents=True, exist_ok=True)
    changed = []

    def key_of(stage: Any) -> str:
        # Edges point from a stage to what it needs. The index is the one that DVC has at hand.
        upstream = networkx.descendants(repo.index.graph, stage)
        names = [*sorted(s.addressing for s in upstream), stage.addressing]
        return stage_key(names, chain, params)

    def under_lock(stage: Any, **options: Any) -> Any:
        """DVC's own step under a lock, less writing dvc.lock, which takes as long as the rest."""
        name = stage.addressing
        watch.outcome = UNCHANGED
        watch.on_run = lambda: _note(stage=name, outcomes={**outcomes, name: RAN})
        with FileLock(locks / f"{name}-{key_of(stage)}.lock"):
            done = stage.reproduce(**options)
        if done:
            changed.append(done)
        outcomes[name] = watch.outcome
        if watch.outcome != RAN:  # else the stage has told it itself
            print(f"{headline(name)}, {_TOLD[watch.outcome]}", flush=True)
        return done

    try:
        repo.reproduce(list(targets), repro_fn=under_lock)
    finally:
        if changed:
            changed[0].dvcfile.dump_stages(changed, update_pipeline=False)
        own_small_files(repo.cache.local, Path())
        _note(stage=None, outcomes=outcomes)


def own_small_files(cache: Any, workspace: Path) -> None:
    """Puts copies in the place of links into the cache, but for large files: what a person writes
    into a result reaches no other run then, and `dvc gc` or another place of the repository takes
    no result away. `cache` is DVC's local cache, whose own way this is."""
    for folder in ("out", "reports"):
        for path in (workspace / folder).rglob("*"):
            if path.is_symlink() and path.is_file() and path.stat().st_size <= _SMALL:
                cache.unprotect(str(path))


def _say_only_warnings() -> None:
    """Of DVC's messages: the stages and `headline` say what runs, and the end where results are.
    They are heard all the same, by `_Watch`."""
    logging.getLogger("dvc").setLevel(logging.INFO)
    for handler in logging.getLogger("dvc").handlers:
        handler.setLevel(logging.WARNING)
    logging.getLogger("dvc.progress").setLevel(logging.WARNING)  # bars of what takes no time


def _note(stage: str | None, outcomes: dict[str, str]) -> None:
    """Writes the running stage and the outcomes of the others to ./status.json."""
    write_status(Path(), replace(read_status(Path()), stage=stage, stages=outcomes))


def _parse_params_once() -> None:
    """DVC parses params.yaml at every look at a stage: 42 times a job, two thirds of the time of
    a job that is all cached. It doesn't change while a job runs."""
    load, parsed = dvc.dependency.param.load_path, {}

    def load_once(path: str, *arguments: Any, **options: Any) -> Any:
        if path not in parsed:
            parsed[path] = load(path, *arguments, **options)
        return copy.deepcopy(parsed[path])

    dvc.dependency.param.load_path = load_once


def stage_key(names: list[str], chain: dict[str, Any], params: dict[str, Any]) -> str:
    """Hash of the commands and parameter values of the stages `names`."""
    determined = [
        [name, chain[name]["cmd"], {key: params[key] for key in chain[name].get("params", [])}]
        for name in names
    ]
    return hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()[:16]


def end_with_parent(parent_gone: Callable[[], None]) -> None:
    """Ends this process group when parent_gone() returns."""

    def wait() -> None:
        parent_gone()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def stdin_closed() -> None:
    """Returns when the process that started this one has ended in any way: standard input is a pipe
    of which that process alone holds the other end."""
    while os.read(0, 1024):
        pass


def main(parent_gone: Callable[[], None] = stdin_closed, targets: Sequence[str] = ()) -> int:
    end_with_parent(parent_gone)
    _parse_params_once()
    _say_only_warnings()
    with one_line("job"):
        try:
            reproduce_here(Path(os.environ["LOWRANK_SCRATCH"]) / "locks", targets)
        except DvcException as error:
            raise LowRankError(str(error)) from error
    return 0


def run_warm() -> None:
    """The same as a job of a sweep: its stages are forks (see warm.py)."""
    with warm_stages() as run_stage:

        def run(executable: str, command: str, **options: Any) -> None:
            with _deaf_to_interrupts():  # as DVC is while a command runs, which gets them too
                status = run_stage(command, options["env"])
            if status is None:
                popen(executable, command, **options)
            elif status != 0:
                raise StageCmdFailedError(command, status)

        popen, dvc.stage.run._run = dvc.stage.run._run, run
        sys.exit(main(parent_ended))


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main(targets=sys.argv[1:]))
