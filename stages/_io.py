"""Parts that every stage needs: its section of params.yaml, JSON written, and errors for people."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.lowrank.typed import options_from
from pipeline.machine.durations import timed
from pipeline.machine.faults import one_line
from pipeline.machine.progress import shown_progress
from pipeline.reporting.chain import say_which

T = TypeVar("T")

_PARAMS = Path("params.yaml")


def section_options(name: str, cls: type[T]) -> T:
    """A section of params.yaml as an object with its options."""
    return options_from(cls, section(name), name)


def section(name: str) -> Any:
    """A section of params.yaml: a dictionary, or a plain value such as the seed."""
    try:
        written = _PARAMS.stat().st_mtime_ns
    except FileNotFoundError as error:
        raise LowRankError("params.yaml is missing; run dvc repro, which makes it") from error
    params = _params(_PARAMS.absolute(), written)
    if name not in params:
        raise LowRankError(f"params.yaml has no section {name!r}; run python -m stages.configure")
    return copy.deepcopy(params[name])


@cache
def _params(path: Path, written: int) -> dict[str, Any]:
    """The content of params.yaml, which is parsed once a stage, and again only where it was
    `written` again."""
    try:
        params = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LowRankError(f"{path}: no YAML ({reason_of(error)}); dvc repro makes it") from error
    return params if isinstance(params, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Writes sorted, indented JSON. NaN and Inf, which JSON doesn't have, are refused."""
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise LowRankError(f"{path}: a result is NaN or Inf ({error}); nothing written") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def main(run: Callable[[], None]) -> None:
    """Runs a stage, says which and how far it is, and notes how long it took; any error is one
    line on stderr and exit code 1."""
    name = say_which(sys.argv[0])
    with one_line(sys.argv[0]), timed(name), shown_progress(name):
        run()
