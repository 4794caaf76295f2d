"""Hydra → params.yaml: composed, typed, validated; errors for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pipeline.config.schema import Config
from pipeline.config.validate import validate
from pipeline.lowrank.errors import LowRankError, suggest

SECTIONS = tuple(f.name for f in fields(Config))
# What stands in conf/config.yaml for Hydra and its sweepers, and changes no result.
NOT_OF_THE_CHAIN = ("hydra", "objectives")


def compose_params(conf: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved and validated sections of the configuration in `conf`.

    Raises LowRankError for whatever is wrong with the configuration or the overrides.
    """
    try:
        with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
            config = compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise LowRankError(explain(error)) from error
    return to_params(config)


def to_params(config: DictConfig) -> dict[str, Any]:
    """Plain, validated sections of a composed configuration."""
    try:
        kept = [str(key) for key in config if key not in NOT_OF_THE_CHAIN]
        present = OmegaConf.masked_copy(config, kept)
        typed = OmegaConf.merge(OmegaConf.structured(Config), present)
        params = OmegaConf.to_container(typed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise LowRankError(explain(error)) from error
    assert isinstance(params, dict)
    sections = {name: params[name] for name in SECTIONS}
    validate(sections)
    return sections


def write_params(path: Path, params: dict[str, Any]) -> None:
    text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
    path.write_text(f"# Written by configure from conf/: edit that, not this file.\n{text}")


def parse_overrides(conf: Path, overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra understands them; glob(*) means the options in `conf`."""
    try:
        with initialize_config_dir(str(conf.absolute()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except HydraException as error:
        raise LowRankError(explain(error)) from error


def check_overrides(conf: Path, overrides: Sequence[str]) -> None:
    """Composes and validates what the command line asks for before any job starts.

    Of a sweep each value is tried on its own (not the product); continuous intervals and
    everything of Hydra's own are left to Hydra.
    """
    parsed = parse_overrides(conf, overrides)
    plain: list[str] = []
    sweeps: list[list[str]] = []
    for override in parsed:
        line = override.input_line
        if override.get_key_element().startswith("hydra") or line is None:
            continue
        if not override.is_sweep_override():
            plain.append(line)
        elif override.is_discrete_sweep():
            values = [str(v) for v in override.sweep_string_iterator()]
            sweeps.append([f"{override.get_key_element()}={value}" for value in values])
    firsts = [values[0] for values in sweeps]
    for index, values in enumerate(sweeps):
        for value in values:
            compose_params(conf, [*plain, *firsts[:index], value, *firsts[index + 1 :]])
    if not sweeps:
        compose_params(conf, plain)


def explain(error: Exception, schema: type = Config) -> str:
    """Hydra's and OmegaConf's errors as one or two lines with the near match in `schema`."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = [name for name in error.options if not name.startswith("_")]  # no shared bases
        message = f"{group}={option}: unknown option; {suggest(option, known)}"
        # Hydra's launchers and sweepers are packages of their own.
        extra = " (more come with pip install -e '.[sweeps]' or '.[ray]')"
        return message + extra if group.startswith("hydra/") else message
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    first = str(cause).splitlines()[0]
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} is not set: give it on the command line or in the configuration"
    if key and ("not in struct" in first or "not in 'Config" in first or "not in '" in first):
        return f"{key}: unknown key; {suggest(key, _known_keys(key, cause, schema))}"
    return f"{key}: {first}" if key else first


def _known_keys(key: str, error: Exception, schema: type) -> list[str]:
    """Keys of the dataclass or the section that `key` names, or all sections."""
    holder, section = getattr(error, "object_type", None), key.partition(".")[0]
    if is_dataclass(holder) and holder is not schema:
        return [f"{key.rpartition('.')[0]}.{known.name}" for known in fields(holder)]
    sections = OmegaConf.structured(schema)
    if "." in key and section in sections and isinstance(sections[section], DictConfig):
        return [f"{section}.{name}" for name in sections[section]]
    return [str(name) for name in sections]
