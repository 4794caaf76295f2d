"""The process of one job: reproduces the DVC workspace in the current directory.

Two jobs that miss the same stage at once would compute it twice, and can corrupt each other's
data. So each stage runs under a file lock named by all that determines it: the commands and
parameters of the stage and of everything upstream. The second job waits, then finds the
result in the run-cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from filelock import FileLock

from pipeline.orchestration.status import update_status

# What became of a stage: computed here, restored from the run-cache, or as it was already.
RAN, CACHED, UNCHANGED = "ran", "cached", "unchanged"


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


def reproduce_here(locks: Path) -> None:
    """Reproduces every stage of the current directory, one at a time, each under its lock, and
    keeps ./status.json.

    Raises DvcException when a stage fails.
    """
    repo, watch = Repo("."), _Watch()
    outcomes: dict[str, str] = {}
    logging.getLogger("dvc").addHandler(watch)
    chain = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    params = yaml.safe_load(Path("params.yaml").read_text())
    locks.mkdir(parents=True, exist_ok=True)
    keys = {}
    graph = repo.index.graph  # edges point from a stage to what it needs
    for stage in graph:
        upstream = sorted(s.addressing for s in networkx.descendants(graph, stage))
        keys[stage.addressing] = stage_key([*upstream, stage.addressing], chain, params)

    changed = []

    def under_lock(stage: Any, **options: Any) -> Any:
        """DVC's own step under a lock, less writing dvc.lock, which takes as long as the rest."""
        name = stage.addressing
        watch.outcome = UNCHANGED
        watch.on_run = lambda: update_status(Path(), stage=name, stages={**outcomes, name: RAN})
        with FileLock(locks / f"{name}-{keys[name]}.lock"):
            done = stage.reproduce(**options)
        if done:
            changed.append(done)
        outcomes[name] = watch.outcome
        return done

    try:
        repo.reproduce(repro_fn=under_lock)
    finally:
        if changed:
            changed[0].dvcfile.dump_stages(changed, update_pipeline=False)
        update_status(Path(), stage=None, stages=outcomes)


def stage_key(names: list[str], chain: dict[str, Any], params: dict[str, Any]) -> str:
    """Hash of the commands and parameter values of the stages `names`."""
    determined = [
        [name, chain[name]["cmd"], {key: params[key] for key in chain[name].get("params", [])}]
        for name in names
    ]
    return hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()[:16]


def end_with_parent() -> None:
    """Ends this process group when the process that started it is gone, however it went:
    standard input is a pipe of which that process alone holds the other end."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    end_with_parent()
    logging.getLogger("dvc").setLevel(logging.INFO)
    try:
        reproduce_here(Path(os.environ["LOWRANK_SCRATCH"]) / "locks")
    except DvcException as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
