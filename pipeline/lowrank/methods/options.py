"""The methods that compete, and the options of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods import METHODS, Interpolative, Method, make_method
from pipeline.lowrank.typed import knob, options

T = TypeVar("T")

_NAMES = (*METHODS, Interpolative.name)
_WIDTHS = tuple(Interpolative.__pydantic_fields__)  # type: ignore[attr-defined]


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


@options
@with_options_of([*METHODS.values(), Interpolative], without=("seed",))
class MethodsOptions:
    """Which methods may factorize a layer, and how each works."""

    names: tuple[str, ...] = knob(
        help="the methods that compete, layer by layer; interpolative narrows several together"
    )

    def __post_init__(self) -> None:
        if not self.names:
            raise LowRankError(f"no method chosen: name at least one of {', '.join(_NAMES)}")
        for name in self.names:
            if name not in _NAMES:
                raise LowRankError(f"unknown method {name!r}: {suggest(name, _NAMES)}")

    def competing(self, seed: int) -> list[Method | Interpolative]:
        """The methods `names`, with those of the options that are their own."""
        narrower = Interpolative(**{key: vars(self)[key] for key in _WIDTHS})
        return [narrower if n == narrower.name else self.made(n, seed) for n in self.names]

    def made(self, name: str, seed: int) -> Method:
        """The method `name` with those of the options that are its own."""
        return make_method(name, vars(self), seed)
