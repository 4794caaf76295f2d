"""Descriptions of an option for people: default, range or choices, meaning."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Knob:
    """An option of a section. required: it has no default of its own (`???` in conf/)."""

    name: str
    required: bool
    default: object
    accepts: str
    help: str

    @property
    def written(self) -> str:
        """The default as YAML on one line."""
        return "???" if self.required else as_yaml(self.default)


def knobs(cls: Any) -> list[Knob]:
    """The options that a class declares (`@options`), in its order."""
    found: dict[str, FieldInfo] = cls.__pydantic_fields__
    return [
        Knob(
            name,
            field.is_required(),
            None if field.is_required() else field.get_default(call_default_factory=True),
            _accepted(field.annotation, field.metadata),
            field.description or "",
        )
        for name, field in found.items()
    ]


def inner_options(cls: Any) -> dict[str, type]:
    """{name: class} of the options of a class that are objects with options themselves, or null."""
    found = {}
    for name, field in cls.__pydantic_fields__.items():
        for part in [field.annotation, *get_args(field.annotation)]:
            if is_dataclass(part):
                found[name] = part
    return found  # type: ignore[return-value]


def as_yaml(value: object) -> str:
    """A plain value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _accepted(annotation: Any, limits: list[Any]) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _any_of([str(value) for value in inner])
    if origin in (Union, types.UnionType):
        kinds = [_accepted(part, limits) for part in inner if part is not type(None)]
        return _any_of([*kinds, "null"] if type(None) in inner else kinds)
    if origin in (tuple, list, Sequence):
        return f"list of {_accepted(inner[0], [])}"
    if origin is dict or is_dataclass(annotation):
        return "{name: value, …}"
    return (_WORDS.get(annotation, "") + _range(limits)).strip()


def _any_of(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _range(limits: list[Any]) -> str:
    """ "in (0, 1]" where both ends are given, else "> 0", "≥ 1", …"""
    ends = {k: getattr(m, k) for m in limits for k in ("gt", "ge", "lt", "le") if hasattr(m, k)}
    if len(ends) > 1:
        low = f"({ends['gt']:.10g}" if "gt" in ends else f"[{ends['ge']:.10g}"
        high = f"{ends['lt']:.10g})" if "lt" in ends else f"{ends['le']:.10g}]"
        return f" in {low}, {high}"
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return "".join(f" {signs[key]} {value:.10g}" for key, value in ends.items())
