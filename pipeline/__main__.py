"""python -m pipeline [run] [-m] [GROUP=OPTION | KEY=VALUE …]: the chain with overrides.
python -m pipeline --resume SWEEP: what is missing of a sweep.
python -m pipeline plan [GROUP=OPTION | KEY=VALUE …]: the plan of a run, which is not built.
python -m pipeline export | extract_lora | report | share …: what is done with results.
python -m pipeline --help [SECTION], --version: what there is to choose.
Installed, `lowrank` is short for `python -m pipeline`.

Each run gets its own DVC workspace (Hydra's output directory) on the shared run-cache, so
what any run computed before is not computed again, and ends as one MLflow run.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from pipeline.config.compose import check_overrides
from pipeline.config.help import print_help, version
from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.machine.faults import one_line, told
from pipeline.reporting.sweep.status import DONE
from pipeline.sweeps.command import (
    Command,
    describe_sweep,
    hydra_arguments,
    parse_command,
)
from pipeline.sweeps.job import Job, plan_job, run_job
from pipeline.sweeps.record import opened
from pipeline.sweeps.view import print_outcome, sweep_view

ROOT = Path(__file__).resolve().parent.parent
CONF = str(ROOT / "conf")
RUN, PLAN = "run", "plan"
# The commands beside the chain: each is `python -m MODULE` with the words behind it.
BESIDE = {
    "export": "pipeline.export",
    "extract_lora": "pipeline.extract_lora",
    "report": "pipeline.report",
    "share": "pipeline.sweeps.share",
}


@hydra.main(config_path=CONF, config_name="config", version_base="1.3")
def run(config: DictConfig) -> float | tuple[float, ...] | None:
    """Runs one job; returns its objectives to the sweeper, None when it failed."""
    try:
        values = tuple(run_job(config, Job.current(ROOT)).values())
    except Exception as error:
        line = told(error, "pipeline", ROOT)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return None  # the other jobs go on; the job's status.json says why
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    return values[0] if len(values) == 1 else values


@hydra.main(config_path=CONF, config_name="config", version_base="1.3")
def plan(config: DictConfig) -> None:
    """Decides on one configuration, shows the plan, and builds nothing."""
    job = Job.current(ROOT)
    with one_line("pipeline", ROOT):  # Hydra would tell it with its own words
        file = plan_job(config, job)
    # torch: seconds of import, not needed before.
    from pipeline.lowrank.planning.files import load_plan
    from pipeline.lowrank.planning.tables import plan_table
    from pipeline.reporting.run.ending import from_here

    print(f"\n{plan_table(load_plan(file)).text(Console().width)}\n")
    print(f"plan       {from_here(file)}")
    print(f"build it   python -m pipeline {shlex.join(job.overrides)}".rstrip())


def sweep(command: Command) -> int:
    """Runs a whole sweep; returns the exit status, 0 when all jobs are done."""
    described = describe_sweep(ROOT / "conf", command)
    folder = described.folder
    sys.argv[1:] = hydra_arguments(command, folder)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of ending the process
    interrupted = False
    with opened(folder, described, ROOT) as opened_sweep:
        print(f"sweep {folder}", flush=True)
        with sweep_view(folder, described.total):
            try:
                run()
            except (KeyboardInterrupt, SystemExit):
                opened_sweep.interrupted = interrupted = True
            except Exception as error:  # a launcher or a sweeper may raise anything
                line = told(error, "launcher", ROOT)
                print(f"error: the sweep ended early: {line}", file=sys.stderr)
    record = opened_sweep.record
    print_outcome(folder, record)
    if interrupted:
        return 130
    # Torch and matplotlib: seconds of import, not needed before.
    from pipeline.sweeps.publish import publish_comparison

    print(publish_comparison(folder, described.track, record.parent_run_id), flush=True)
    return 0 if record.state == DONE else 1


def main() -> None:
    # A job's processes are ended on the way out, also when someone else ends this one.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with one_line("pipeline", ROOT):
        run_command(sys.argv[1:])


def run_command(words: Sequence[str]) -> None:
    """What the command line asks for."""
    try:
        name, arguments = named_command(words)
        sys.argv[1:] = arguments
        if name in BESIDE:
            runpy.run_module(BESIDE[name], run_name="__main__", alter_sys=True)
        else:
            chain(name, arguments)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def chain(name: str, arguments: Sequence[str]) -> None:
    """The command `run` or `plan`."""
    if "--version" in arguments:
        print(version(ROOT))
        return
    if "--help" in arguments or "-h" in arguments:
        print_help(ROOT, [word for word in arguments if not word.startswith("-")])
        return
    command = parse_command(arguments)
    if command.completes:  # Hydra knows no commands
        line = os.environ.get("COMP_LINE", "")
        os.environ["COMP_LINE"] = re.sub(rf"^(\S+ +)({RUN}|{PLAN}) ", r"\1", line)
    else:
        check_overrides(ROOT / "conf", command.overrides)
    if name == PLAN and command.multirun:
        raise LowRankError("plan: shows the plan of one configuration; leave out -m and --resume")
    if command.multirun:
        sys.exit(sweep(command))
    if name == PLAN:
        plan()
    else:
        run()


def named_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """(the command that the first word names, or else `run`; what is left of the arguments).

    Raises LowRankError for a first word that is neither a command nor an override.
    """
    first, rest = (arguments[0], list(arguments[1:])) if arguments else (RUN, [])
    commands = [RUN, PLAN, *BESIDE]
    if first in commands:
        return first, rest
    if re.fullmatch(r"\w+", first) and not {"-h", "--help"} & set(rest):
        raise LowRankError(
            f"{first}: neither a command nor an option (GROUP=OPTION or KEY=VALUE); "
            f"{suggest(first, commands)}"
        )
    return RUN, list(arguments)


if __name__ == "__main__":
    main()
