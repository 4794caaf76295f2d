"""Options as typed objects: each knob once, with its default, its range and what it means.

>>> @options
... class Sweeps:
...     '''How long to iterate.'''
...     most: int = knob(10, ge=0, help="sweeps after the start; 0 keeps the start as it is")
>>> Sweeps(mots=3)
Traceback (most recent call last):
pipeline.lowrank.errors.LowRankError: Sweeps has no option 'mots': did you mean 'most'? …
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec, TypeVar, dataclass_transform, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from pipeline.lowrank.errors import LowRankError, suggest

T = TypeVar("T")
P = ParamSpec("P")

_CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="forbid")


def knob(default: Any = ..., *, help: str, **limits: Any) -> Any:
    """One option: its default (none given: it must be named), what it means, and its range.

    limits: `gt`, `ge`, `lt`, `le`, `min_length`, … of pydantic's Field, which checks them. A list
    or dict as default is copied for each object.
    """
    if isinstance(default, list | dict):
        return Field(default_factory=lambda: type(default)(default), description=help, **limits)
    return Field(default, description=help, **limits)


@dataclass_transform(frozen_default=True, field_specifiers=(knob,))
def options(cls: type[T]) -> type[T]:
    """A frozen dataclass whose values are checked where they are given.

    An unknown keyword, a wrong type and a value out of its range are a LowRankError that names the
    option, the value and the remedy. Checks of several options together stand in `__post_init__`.
    """
    made = dataclass(frozen=True, config=_CONFIG)(cls)
    construct = made.__init__

    @functools.wraps(construct)
    def checked(self: T, *values: Any, **named: Any) -> None:
        try:
            construct(self, *map(plain, values), **{k: plain(v) for k, v in named.items()})
        except ValidationError as error:
            raise explained(cls.__name__, knob_names(made), error) from None
        except TypeError as error:  # too many values
            raise LowRankError(f"{cls.__name__}: {error}") from error

    made.__init__ = checked  # type: ignore[assignment,method-assign]
    return made  # type: ignore[return-value]


def plain(value: Any) -> Any:
    """The value with numbers and arrays of numpy, also inside lists, tuples and dicts, as Python's
    own, so that an option may be given as either."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {key: plain(one) for key, one in value.items()}
    return value


def knob_names(cls: type) -> list[str]:
    """The options that a class declares, in its order."""
    return [field.name for field in fields(cls)]


def explained(owner: str, known: list[str], error: ValidationError) -> LowRankError:
    """The first thing that is wrong with the options of `owner`, in one line.

    owner: a class, or a section of the configuration; known: the names of its options.
    """
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, LowRankError):
        return cause
    at, *inside = first["loc"]
    place = known[at] if isinstance(at, int) and at < len(known) else at  # given by position
    name = ".".join(str(part) for part in (place, *inside))
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return LowRankError(f"{owner} has no option {name!r}: {suggest(name, known)}")
    if first["type"] in ("missing", "missing_argument"):
        return LowRankError(f"{owner}: {name} is not set: give it")
    return LowRankError(f"{owner}: {name}={first['input']!r}: {_remedy(first)}")


def options_from(cls: type[T], plain: Mapping[str, Any], section: str) -> T:
    """The options that a section of the configuration gives as plain values (lists for tuples).

    section: its name; "" for an object that holds all sections. Raises LowRankError, one line
    that names `section.key=value` and the remedy.
    """
    try:
        return TypeAdapter(cls).validate_json(json.dumps(plain))
    except ValidationError as error:
        raise _explained_in(section, cls, error) from None


def _explained_in(section: str, cls: type, error: ValidationError) -> LowRankError:
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    parts = [str(part) for part in first["loc"]]
    key = ".".join(filter(None, [section, *parts]))
    if isinstance(cause, LowRankError):
        return LowRankError(f"{key}: {cause}" if key else str(cause))
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        holder = "".join(f"{part}." for part in key.split(".")[:-1])
        known = [f"{holder}{name}" for name in knob_names(_class_at(cls, parts[:-1]))]
        return LowRankError(f"{key}: unknown key; {suggest(key, known)}")
    if first["type"] in ("missing", "missing_argument"):
        return LowRankError(f"{key} is not set: give it on the command line or in conf/")
    return LowRankError(f"{key}={_as_typed(first['input'])}: {_remedy(first)}")


def _class_at(cls: Any, parts: list[str]) -> type:
    """The options inside options that a path of names leads to."""
    for name in parts:
        # A name that is no field is a key of a mapping of options: its class is reached already.
        if name in cls.__pydantic_fields__:
            inner = _types_in(cls.__pydantic_fields__[name].annotation)
            cls = next((t for t in inner if is_dataclass(t)), cls)
    return cls  # type: ignore[no-any-return]


def _types_in(annotation: Any) -> list[Any]:
    return [annotation, *(t for inner in get_args(annotation) for t in _types_in(inner))]


def _as_typed(value: Any) -> str:
    """A value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _remedy(problem: ErrorDetails) -> str:
    context = problem.get("ctx", {})
    if problem["type"] == "literal_error":
        known = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"unknown; {suggest(problem['input'], known)}"
    for kind, words in (
        ("greater_than_equal", "choose a number of at least {ge:g}"),
        ("greater_than", "choose a number above {gt:g}"),
        ("less_than_equal", "choose a number of at most {le:g}"),
        ("less_than", "choose a number below {lt:g}"),
        ("too_short", "give at least {min_length}"),
        ("int_type", "choose a whole number"),
        ("float_type", "choose a number"),
        ("bool_type", "choose true or false"),
        ("string_type", "give a text"),
        ("dataclass_type", "give {{option: value, …}}"),
        ("dict_type", "give {{name: value, …}}"),
        ("tuple_type", "give a list: [a, b]"),
        ("list_type", "give a list: [a, b]"),
    ):
        if problem["type"] == kind:
            return words.format(**context)
    return problem["msg"].removeprefix("Value error, ").lower()


def keywords_checked(function: Callable[P, T]) -> Callable[P, T]:
    """The function, refusing an unknown keyword with the near match among its arguments."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*values: P.args, **named: P.kwargs) -> T:
        for name in named:
            if name not in known:
                raise LowRankError(
                    f"{function.__name__} has no argument {name!r}: {suggest(name, known)}"
                )
        return function(*values, **named)

    return checked
