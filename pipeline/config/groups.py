"""The option groups of conf/ as a person reads them: each option with its sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.lowrank.errors import LowRankError

# Groups that are no section: presets of several sections, and Hydra's own.
PRESETS, HYDRA = "experiment", "hydra"
LAUNCHERS, SWEEPERS = "hydra/launcher", "hydra/sweeper"


@dataclass(frozen=True)
class Option:
    """A file of conf/GROUP.

    command: what its first line says to type.
    sentence: what the option is.
    """

    name: str
    command: str
    sentence: str


def group_names(conf: Path) -> list[str]:
    """The groups that are sections of the configuration."""
    found = [path.name for path in sorted(conf.iterdir()) if path.is_dir()]
    return [name for name in found if name not in (PRESETS, HYDRA)]


def group_options(conf: Path, group: str) -> list[Option]:
    """The options of a group; files whose names begin with "_" are what they share."""
    return [_read(path) for path in sorted((conf / group).glob("[!_]*.yaml"))]


def _read(path: Path) -> Option:
    """Raises LowRankError for a file that doesn't open with its command and its sentence."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    lines = [line for line in lines if not line.startswith("@package")]
    command: list[str] = []
    while lines and (not command or command[-1].endswith("\\")):
        command.append(lines.pop(0))
    if not lines or not command[0].startswith("python -m pipeline"):
        raise LowRankError(
            f"{path}: open it with the comment '# python -m pipeline GROUP=OPTION', and a line "
            "that says what the option is"
        )
    words = " ".join(line.removesuffix("\\").strip() for line in command)
    return Option(path.stem, words, " ".join(lines))
