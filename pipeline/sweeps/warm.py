"""A sweep's jobs in processes that have their libraries imported already.

One budget more of a small network is seconds of work and as many of imports. So the worker
that runs a sweep's jobs keeps a process that has imported what they need and does nothing else
(multiprocessing's fork server): a job is a fork of it, and a stage a fork of a second such
process, which the job leaves behind before it does anything. Both forks are of processes with
one thread of Python's, as a safe fork must be. A stage runs the code in its job's workspace:
modules of the project that a process has from elsewhere are dropped first.
"""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, set_start_method
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

_PRELOAD = "pipeline.sweeps.preload"
_PROJECT = ("pipeline", "stages")


def start_warm(
    run: Callable[[], None], workspace: Path, environment: Mapping[str, str], log: Path
) -> BaseProcess:
    """Starts run() in a warm process that leads a process group of its own, in `workspace`, with
    this environment alone and its output in the file `log`."""
    log.write_text("")  # what an earlier process said is not this one's
    context = get_context("forkserver")
    context.set_forkserver_preload([_PRELOAD])
    arguments = (run, str(workspace), dict(environment), str(log))
    process = context.Process(target=_job, args=arguments)
    process.start()
    return process


def _job(run: Callable[[], None], workspace: str, environment: dict[str, str], log: str) -> None:
    os.setsid()
    set_start_method(None, force=True)  # not that of the launcher's workers
    os.chdir(workspace)
    _replace_environment(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run()


def parent_ended() -> None:
    """Returns when the process that started this warm one has ended in any way."""
    parent = parent_process()
    assert parent is not None
    parent.join()


@contextmanager
def warm_stages() -> Iterator[Callable[[str, Mapping[str, str]], int | None]]:
    """Yields run(command, environment) → exit status of a stage's command in a fork of this
    process as it is now; None for a command that isn't `python -m stages.NAME`.

    To be entered before this process has other threads. A status that can't be had any more,
    since the process in between was killed, is −SIGKILL.
    """
    ours, theirs = get_context("fork").Pipe()
    forker = get_context("fork").Process(target=_fork_stages, args=(theirs, ours))
    forker.start()
    theirs.close()

    def run(command: str, environment: Mapping[str, str]) -> int | None:
        module = _stage_module(command)
        if module is None:
            return None
        try:
            ours.send((module, dict(environment)))
            status: int = ours.recv()
        except (EOFError, OSError):
            return -signal.SIGKILL
        return status

    try:
        yield run
    finally:
        ours.close()
        forker.join()


def _stage_module(command: str) -> str | None:
    words = shlex.split(command)
    if len(words) == 3 and words[:2] == ["python", "-m"] and words[2].startswith("stages."):
        return words[2]
    return None


def _fork_stages(requests: Connection, other_end: Connection) -> None:
    """Forks a stage for each request until the job's process closes its end or is gone."""
    other_end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the stage's and the job's to answer
    while True:
        try:
            module, environment = requests.recv()
        except EOFError:
            return
        stage = get_context("fork").Process(target=_stage, args=(requests, module, environment))
        stage.start()
        stage.join()
        requests.send(stage.exitcode)


def _stage(requests: Connection, module: str, environment: dict[str, str]) -> None:
    """python -m MODULE, in a process that is there already."""
    requests.close()  # else the job would not see that the process in between is gone
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _replace_environment(environment)
    for name in [name for name in sys.modules if name.partition(".")[0] in _PROJECT]:
        del sys.modules[name]  # of the repository, not of the workspace
    sys.path.insert(0, os.getcwd())
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _replace_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
