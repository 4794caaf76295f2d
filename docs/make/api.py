"""docs/api.md: every name at the door of pipeline.lowrank, from its docstring (griffe2md)."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import griffe
from griffe2md import ConfigDict, render_object_docs

from docs.make.architecture import sentence_of
from pipeline import lowrank
from tests.imports import ROOT
from tests.test_architecture import LOWRANK

_CONFIG: ConfigDict = {
    "docstring_options": {"warnings": False, "warn_missing_types": False},
    "line_length": 100,
    "show_signature_annotations": True,
    "show_docstring_attributes": False,
    "show_object_full_path": False,
    "show_root_full_path": False,
    "show_root_members_full_path": False,
    "show_bases": False,
    "summary": False,
}
# Their members are the contract of methods and policies, which nobody calls from a notebook.
_WITHOUT_MEMBERS = ("methods", "planning.policies")
# What a notebook starts with comes first, then the other rooms in their order.
_FIRST = ("factorize", "planning", "methods", "forms")
_INTRODUCTION = """\
# API
What `from pipeline import lowrank as lr` offers, room by room. The page is made from the \
docstrings by `python -m docs.make`.
"""


def made() -> dict[str, str]:
    door = griffe.load("pipeline.lowrank", search_paths=[str(ROOT)], resolve_aliases=True)
    found: dict[str, list[str]] = {}
    for name in _all(lowrank):
        entry = _resolved(door[name])
        room = entry.canonical_path.split(".")[2]
        found.setdefault(room, []).append(_entry(name, entry, getattr(lowrank, name)))
    parts = [_INTRODUCTION]
    for room in [*_FIRST, *(room for room in LOWRANK if room not in _FIRST)]:
        if room in found:
            parts += [f"## {room}", f"{sentence_of('pipeline/lowrank', room)}.\n", *found[room]]
    return {"docs/api.md": re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"}


def _entry(name: str, entry: griffe.Object, thing: Any, level: int = 3) -> str:
    """One name: heading, signature, text, options, members; of a module all that it offers."""
    path = f"{entry.canonical_path}."
    hidden = any(f"lowrank.{room}." in path for room in _WITHOUT_MEMBERS) or entry.is_module
    options: ConfigDict = {
        "heading_level": level,
        "filters": ["!."] if hidden else ["!^_"],
        "show_if_no_docstring": not entry.docstring,  # of the name itself; its members need one
    }
    text = render_object_docs(entry, {**_CONFIG, **options})
    if entry.is_attribute and inspect.isfunction(thing):
        text = _made_function(name, thing, level)
    text = re.sub(r"^```python\n(.+)\n```$", _wrapped, text, flags=re.MULTILINE)
    text = _listed(text, thing, entry)
    if entry.is_module:
        parts = [_entry(n, _resolved(entry[n]), getattr(thing, n), level + 1) for n in _all(thing)]
        text = "\n".join([text, *parts])
    if dataclasses.is_dataclass(thing):
        text = re.sub(r"```python\n.*?```\n", "", text, count=1, flags=re.DOTALL)
        own, *members = re.split(r"^(?=#### )", text, flags=re.MULTILINE)
        text = "\n".join([own.rstrip(), "", _fields(thing), *members])
    return text


def _made_function(name: str, thing: Any, level: int) -> str:
    """A function that another one made: griffe, which reads files, takes it for a value."""
    signature = inspect.signature(thing)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    called = signature.replace(parameters=bare, return_annotation=signature.empty)
    return f"{'#' * level} `{name}`\n\n```python\n{name}{called}\n```\n\n{inspect.getdoc(thing)}\n"


def _resolved(entry: griffe.Object | griffe.Alias) -> griffe.Object:
    return entry.final_target if isinstance(entry, griffe.Alias) else entry


def _all(module: Any) -> list[str]:
    return sorted(module.__all__, key=str.lower)


def _listed(text: str, thing: Any, entry: griffe.Object) -> str:
    """The arguments that a docstring explains ("name: what it is. other: …") as list items."""
    called = isinstance(entry, griffe.Function | griffe.Class)
    names = {p.name for p in entry.parameters} if called else set()
    if dataclasses.is_dataclass(thing):
        names |= {field.name for field in dataclasses.fields(thing)}
    if not names:
        return text
    one = "|".join(sorted(names, key=len, reverse=True))
    start = re.compile(
        rf"(^|(?<=[.)}}:;] )|(?<=[.)}}]\n))((?:{one})(?:, (?:{one}))*): ", re.MULTILINE
    )
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [start.sub(_item, part) for part in parts[::2]]
    parts[::2] = [re.sub(r"(?<=[.;])\s(?=(?:Raises|Returns) )", "\n\n", p) for p in parts[::2]]
    return "".join(parts).replace(" \n", "\n")


def _item(found: re.Match[str]) -> str:
    begun = found.start() and found.string[found.start() - 1] != "\n"
    return f"{chr(10) if begun else ''}- `{found[2]}`: "


def _wrapped(block: re.Match[str]) -> str:
    """A signature, one argument a line where it is long."""
    line = block[1]
    if len(line) <= 88:
        return block[0]
    start, end = line.index("("), line.rindex(")")
    arguments, depth, current = [], 0, ""
    for letter in line[start + 1 : end]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            arguments.append(current.strip())
            current = ""
        else:
            current += letter
    arguments.append(current.strip())
    body = "".join(f"    {argument},\n" for argument in arguments if argument)
    return f"```python\n{line[: start + 1]}\n{body}{line[end:]}\n```"


def _fields(cls: Any) -> str:
    """A table of what an object is made with: name, type, default, meaning where one is given."""
    rows = []
    told = getattr(cls, "__pydantic_fields__", {})
    for field in dataclasses.fields(cls):
        if field.name.startswith("_") or not field.init:
            continue
        help_ = told[field.name].description if field.name in told else None
        rows.append((f"`{field.name}`", f"`{_type(field)}`", _default(field, told), help_ or ""))
    if not rows:
        return ""
    head = ["| name | type | default | |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _type(field: dataclasses.Field[Any]) -> str:
    given = field.type if isinstance(field.type, str) else str(field.type)
    return given.replace("|", "\\|")


def _default(field: dataclasses.Field[Any], told: Any) -> str:
    if field.name in told:
        value = told[field.name]
        if value.is_required():
            return "—"
        return f"`{value.get_default(call_default_factory=True)!r}`".replace("|", "\\|")
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    made_by = field.default_factory
    return f"`{made_by()!r}`" if made_by is not dataclasses.MISSING else "—"
