"""Hydra → params.yaml: composed, typed, checked; errors for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from pydantic import TypeAdapter

from pipeline.config.configuration import Configuration
from pipeline.config.from_model import fill_from_model
from pipeline.config.renamed import renamed
from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.typed import knob_names, options_from
from pipeline.reporting.objectives import chosen_objectives

SECTIONS = tuple(knob_names(Configuration))
# What stands in conf/config.yaml for Hydra and its sweepers, and changes no result.
NOT_OF_THE_CHAIN = ("hydra", "objectives")


def compose_params(conf: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved and checked sections of the configuration in `conf`, as plain values.

    Raises LowRankError for a wrong configuration and for wrong overrides.
    """
    return to_params(compose_config(conf, "config", overrides))


def compose_config(conf: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration that Hydra composes from conf/NAME.yaml; its errors become
    LowRankErrors."""
    _refuse(conf, overrides)
    try:
        with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
            return compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise LowRankError(explain(error)) from error


def to_params(config: DictConfig) -> dict[str, Any]:
    """Plain, checked sections of a composed configuration."""
    values = plain(config, NOT_OF_THE_CHAIN)
    fill_from_model(values)
    typed = options_from(Configuration, values, "")
    chosen_objectives(config.objectives, typed.task.made())
    params: dict[str, Any] = TypeAdapter(Configuration).dump_python(typed, mode="json")
    return params


def plain(config: DictConfig, without: Sequence[str] = ()) -> dict[str, Any]:
    """Plain values of a composed configuration, interpolations resolved."""
    kept = [str(key) for key in config if key not in without]
    try:
        present = OmegaConf.masked_copy(config, kept)
        values = OmegaConf.to_container(present, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise LowRankError(explain(error)) from error
    assert isinstance(values, dict)
    for key in _dotted(values):
        # A model may have an argument of any name.
        if (name := renamed(key)) and not key.startswith("model."):
            raise LowRankError(_now_called(key, name))
    return {str(key): value for key, value in values.items()}


def _dotted(values: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")


def write_params(path: Path, params: dict[str, Any]) -> None:
    text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
    path.write_text(f"# Written by configure from conf/: edit that, not this file.\n{text}")


def parse_overrides(conf: Path, overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra understands them; glob(*) means the options in `conf`."""
    try:
        with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            parser = OverridesParser.create(config_loader=loader)
            return parser.parse_overrides(without_bases(overrides))
    except HydraException as error:
        raise LowRankError(explain(error)) from error


def without_bases(overrides: Sequence[str]) -> list[str]:
    """The overrides with each glob(…) told to leave out what the options of a group share, the
    files whose names begin with "_"."""
    return [_without_bases(line) for line in overrides]


def _without_bases(line: str) -> str:
    (override,) = OverridesParser.create().parse_overrides([line])
    value = override.value()
    if not isinstance(value, Glob):
        return line
    include, exclude = ",".join(value.include), ",".join([*value.exclude, "_*"])
    return f"{override.get_key_element()}=glob([{include}],exclude=[{exclude}])"


def check_overrides(conf: Path, overrides: Sequence[str]) -> None:
    """Composes and checks what the command line asks for before any job starts.

    Each value of a sweep is tried on its own (not the product); continuous intervals and everything
    of Hydra's own are left to Hydra.
    """
    parsed = parse_overrides(conf, overrides)
    fixed: list[str] = []
    sweeps: list[list[str]] = []
    for override in parsed:
        line = override.input_line
        if override.get_key_element().startswith("hydra") or line is None:
            continue
        if not override.is_sweep_override():
            fixed.append(line)
        elif override.is_discrete_sweep():
            values = [str(v) for v in override.sweep_string_iterator()]
            sweeps.append([f"{override.get_key_element()}={value}" for value in values])
    firsts = [values[0] for values in sweeps]
    for index, values in enumerate(sweeps):
        for value in values:
            compose_params(conf, [*fixed, *firsts[:index], value, *firsts[index + 1 :]])
    if not sweeps:
        compose_params(conf, fixed)


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's errors as one or two lines with the near match."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return _unknown_option(group, option, error.options)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    first = str(cause).splitlines()[0]
    if isinstance(cause, InterpolationKeyError):
        return f"{key}: is taken from a key that is not there ({first}); set it"
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} is not set: give it on the command line or in conf/"
    if key and (name := renamed(key)):
        return _now_called(key, name)
    if key and "not in struct" in first:
        return f"{key}: unknown key; {suggest(key, _keys_beside(key, cause))}"
    return f"{key}: {first}" if key else first


def _refuse(conf: Path, overrides: Sequence[str]) -> None:
    """Raises LowRankError for overrides that Hydra would take by mistake, or refuse with a worse
    message."""
    for line in overrides:
        key, _, value = line.lstrip("+~").partition("=")
        name = renamed(key)
        if name and renamed(key.partition(".")[0]):
            raise LowRankError(_now_called(key, name))
        if value.startswith("_") and (conf / key).is_dir():
            names = [path.stem for path in sorted((conf / key).glob("*.yaml"))]
            raise LowRankError(_unknown_option(key, value, names))


def _unknown_option(group: str, option: str, names: Sequence[str]) -> str:
    known = [name for name in names if not name.startswith("_")]  # no shared bases
    message = f"{group}={option}: unknown option; {suggest(option, known)}"
    # Hydra's launchers and sweepers are packages of their own.
    extra = " (more come with pip install -e '.[sweeps]' or '.[ray]')"
    return message + extra if group.startswith("hydra/") else message


def _now_called(key: str, name: str) -> str:
    return f"{key}: renamed; it is {name} now (CHANGELOG.md lists all renames)"


def _keys_beside(key: str, error: Exception) -> list[str]:
    """The keys in the place where `key` was looked for."""
    holder = getattr(error, "parent_node", None)
    prefix = f"{key.rpartition('.')[0]}." if "." in key else ""
    return [f"{prefix}{name!s}" for name in holder] if isinstance(holder, DictConfig) else []
