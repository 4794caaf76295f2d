"""python -m pipeline [-m] [GROUP=OPTION | KEY=VALUE …]: the chain with overrides.
python -m pipeline --resume SWEEP: what is missing of a sweep.
python -m pipeline --help [SECTION], --version: what there is to choose.

Each run gets its own DVC workspace (Hydra's output directory) on the shared run-cache, so
what any run computed before is not computed again, and ends as one MLflow run.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pipeline.config.compose import check_overrides
from pipeline.config.help import print_help, version
from pipeline.machine.faults import one_line, told
from pipeline.reporting.sweep.status import DONE
from pipeline.sweeps.command import (
    Command,
    describe_sweep,
    hydra_arguments,
    parse_command,
)
from pipeline.sweeps.job import Job, run_job
from pipeline.sweeps.record import opened
from pipeline.sweeps.view import print_outcome, sweep_view

ROOT = Path(__file__).resolve().parent.parent


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
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
    # Plotly and matplotlib: seconds of import, not needed before.
    from pipeline.sweeps.publish import publish_comparison

    print(publish_comparison(folder, described.track, record.parent_run_id), flush=True)
    return 0 if record.state == DONE else 1


def main() -> None:
    # A job's processes are ended on the way out, also when someone else ends this one.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with one_line("pipeline", ROOT):
        run_command(sys.argv[1:])


def run_command(arguments: list[str]) -> None:
    """What the command line asks for."""
    try:
        if "--version" in arguments:
            print(version(ROOT))
            return
        if "--help" in arguments or "-h" in arguments:
            print_help(ROOT, [name for name in arguments if not name.startswith("-")])
            return
        command = parse_command(arguments)
        if not command.completes:
            check_overrides(ROOT / "conf", command.overrides)
        if command.multirun:
            sys.exit(sweep(command))
        run()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
