"""Objects and functions of the user's that the configuration names by `_target_`."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from pipeline.lowrank.errors import LowRankError


def built(spec: Mapping[str, Any], key: str) -> Any:
    """What `_target_` gives for the other entries as keyword arguments; entries inside that have a
    `_target_` are built first.

    key: of the configuration, for messages. Raises LowRankError for a target that cannot be
    imported or called.
    """
    return _called(_target(spec, key), _arguments(spec, key), key, spec["_target_"])


def built_callable(spec: Mapping[str, Any], key: str) -> Any:
    """A callable of one value: an object of the class, or the function with the arguments filled
    in. Raises LowRankError as `built` does."""
    target, arguments = _target(spec, key), _arguments(spec, key)
    if inspect.isclass(target):
        made = _called(target, arguments, key, spec["_target_"])
        if not callable(made):
            raise LowRankError(
                f"{key}: an object of {spec['_target_']} cannot be called with an example; give a "
                "function, or a class with __call__"
            )
        return made
    return functools.partial(target, **arguments)


def _target(spec: Mapping[str, Any], key: str) -> Any:
    target = spec.get("_target_")
    try:
        return pkgutil.resolve_name(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        raise LowRankError(
            f"{key}._target_={target}: cannot be imported ({error}); the module must be on "
            "PYTHONPATH or in the directory of the command"
        ) from error


def _arguments(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {
        name: _inside(value, f"{key}.{name}") for name, value in spec.items() if name != "_target_"
    }


def _inside(value: Any, key: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return built(value, key)
    if isinstance(value, list | tuple):
        return [_inside(one, key) for one in value]
    return value


def _called(target: Any, arguments: Mapping[str, Any], key: str, name: str) -> Any:
    if not callable(target):
        raise LowRankError(f"{key}._target_={name}: cannot be called; give a class or a function")
    try:
        return target(**arguments)
    except (TypeError, OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LowRankError(f"{key}._target_={name}: {reason}; correct its arguments") from error
