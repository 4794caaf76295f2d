"""The command line of python -m pipeline, and the effect of Hydra's own options in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.compose import explain, parse_overrides, without_bases
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks import Task
from pipeline.lowrank.tasks.options import TaskOptions
from pipeline.lowrank.typed import options_from
from pipeline.reporting.objectives import check_directions, chosen_objectives, directions_of
from pipeline.reporting.sweep.record import RECORD, read_record
from pipeline.sweeps.record import SweepDescription
from pipeline.tracking.options import TrackOptions

_OPTUNA = "hydra_plugins.hydra_optuna_sweeper"


@dataclass(frozen=True)
class Command:
    """`flags` are Hydra's (`--cfg job`, …), `overrides` the rest; `resume` is the folder of a
    sweep. `completes`: the shell asks for completions, its words are no overrides."""

    flags: tuple[str, ...]
    overrides: tuple[str, ...]
    multirun: bool
    resume: Path | None
    completes: bool = False


def parse_command(arguments: Sequence[str]) -> Command:
    """Raises LowRankError for a sweep to resume that is none, or that would become another."""
    parser = get_args_parser()
    parser.add_argument("--resume", metavar="SWEEP")
    known = parser.parse_args(list(arguments))
    overrides = tuple(known.overrides)
    if known.resume is not None:
        folder = Path(known.resume).absolute()
        merged = _merge(read_record(folder).overrides, overrides)
        return Command(("-m",), merged, multirun=True, resume=folder)
    flags = [a for a in arguments if a not in overrides]
    # Hydra only shows something: no sweep begins.
    shows = known.cfg or known.info or known.help or known.hydra_help
    multirun = not shows and (known.multirun or "hydra.mode=MULTIRUN" in overrides)
    return Command(tuple(flags), overrides, multirun, None, known.shell_completion)


def _merge(stored: Sequence[str], extra: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a sweep with other options of Hydra's own (launcher, workers)."""
    keys = {_key(override) for override in _parse(extra)}
    others = sorted(key for key in keys if not key.startswith("hydra"))
    if others:
        raise LowRankError(
            f"--resume repeats a sweep: {others[0]} can't be changed; start another with -m"
        )
    return (*(line for line in stored if _key(_parse([line])[0]) not in keys), *extra)


def describe_sweep(conf: Path, command: Command) -> SweepDescription:
    """The sweep that a command asks for.

    Raises LowRankError for options of Hydra's that can't work.
    """
    parsed = parse_overrides(conf, command.overrides)
    fixed = [line for o in parsed if (line := o.input_line) and not o.is_sweep_override()]
    try:
        with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
            config = compose("config", overrides=fixed, return_hydra_config=True)
            folder = command.resume or Path(config.hydra.sweep.dir).absolute()
            task = made_task(config)
            objectives = chosen_objectives(config.objectives, task)
            track = OmegaConf.to_container(config.track, resolve=True)
            assert isinstance(track, dict)
            sweeper = config.hydra.sweeper
            optuna = str(sweeper._target_).startswith(_OPTUNA)
            total = int(sweeper.n_trials) if optuna else _grid_size(parsed, sweeper.get("params"))
            if optuna:
                _check_optuna(sweeper, objectives, task)
    except (HydraException, OmegaConfBaseException) as error:
        raise LowRankError(explain(error)) from error
    _check_free(folder, command.overrides)
    return SweepDescription(
        folder=folder,
        overrides=tuple(command.overrides),
        objectives=tuple(objectives),
        directions=tuple(directions_of(task)[name] for name in objectives),
        track=options_from(TrackOptions, {str(k): v for k, v in track.items()}, "track"),
        total=total,
    )


def _check_free(folder: Path, overrides: Sequence[str]) -> None:
    """Raises LowRankError where the folder holds the jobs of another sweep."""
    if not (folder / RECORD).is_file():
        return
    asked, there = (_of_the_chain(lines) for lines in (overrides, read_record(folder).overrides))
    if asked != there:
        raise LowRankError(
            f"hydra.sweep.dir={folder}: another sweep is there ({' '.join(there)}); choose another "
            f"folder, or go on with that one by python -m pipeline --resume {folder}"
        )


def _of_the_chain(overrides: Sequence[str]) -> list[str]:
    """Those that are not Hydra's own (launcher, workers, folders)."""
    return [line for line in overrides if not _key(_parse([line])[0]).startswith("hydra")]


def hydra_arguments(command: Command, folder: Path) -> list[str]:
    """The arguments with which Hydra runs the sweep in `folder`."""
    given = without_bases(command.overrides)
    kept = [o for o in given if _key(_parse([o])[0]) != "hydra.sweep.dir"]
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [*command.flags, *kept, f"hydra.sweep.dir='{quoted}'"]


def made_task(config: DictConfig) -> Task:
    """The task that the section `task` names."""
    section = OmegaConf.to_container(config.task, resolve=True)
    assert isinstance(section, dict)
    return options_from(TaskOptions, {str(k): v for k, v in section.items()}, "task").made()


def _grid_size(overrides: Sequence[Override], params: DictConfig | None) -> int | None:
    """The product of the numbers of values, those in hydra.sweeper.params included."""
    more = _parse([f"{key!s}={value}" for key, value in (params or {}).items()])
    swept = [o for o in [*more, *overrides] if o.is_sweep_override()]
    if not all(o.is_discrete_sweep() for o in swept):
        return None
    return math.prod(len(list(o.sweep_string_iterator())) for o in swept)


def _check_optuna(sweeper: DictConfig, objectives: Sequence[str], task: Task) -> None:
    given = sweeper.direction
    directions = [given] if isinstance(given, str) or not hasattr(given, "__iter__") else given
    check_directions(objectives, [getattr(d, "name", str(d)) for d in directions], task)
    if sweeper.storage is not None:
        import sqlalchemy

        if int(sqlalchemy.__version__.split(".")[0]) >= 2:
            raise LowRankError(
                "hydra.sweeper.storage: this Optuna keeps studies with sqlalchemy<2 only (here is "
                f"{sqlalchemy.__version__}): pip install -r requirements-optuna.lock, or leave "
                "it out: the same command with the same sampler seed repeats a study from the cache"
            )


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        parsed: list[Override] = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise LowRankError(explain(error)) from error
    return parsed


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")
