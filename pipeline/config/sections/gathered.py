"""A section that holds the options of several classes, each declared where it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def with_options_of(
    classes: Iterable[Any], *, without: tuple[str, ...] = ()
) -> Callable[[type[T]], type[T]]:
    """A decorator below `@options`: adds the options of other classes (`@options` too), with their
    defaults, ranges and help. An option that several of them have is added once."""

    def add(cls: type[T]) -> type[T]:
        for other in classes:
            for name, field in other.__pydantic_fields__.items():
                if name not in without and name not in cls.__annotations__:
                    cls.__annotations__[name] = field.annotation
                    setattr(cls, name, field)
        return cls

    return add
