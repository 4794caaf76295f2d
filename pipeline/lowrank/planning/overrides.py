"""Decisions of the user for some layers, in place of the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, get_method, make_method
from pipeline.lowrank.planning.policies.ranks import check_given
from pipeline.lowrank.typed import knob, options


@options
class Override:
    """A decision of the user for some layers, in place of the policy; an option that is None is
    left to the policy.

    method: the only method that may be used; a name stands for the competing method of that name,
        or, where none competes under it, for the method with its default options.
    ranks: as in the policy `Fixed`; None lets the policy choose them.
    keep: "dense" leaves the layers as they are.
    """

    method: Any = knob(default=None, help="the only method for these layers: an object, or a name")
    ranks: Any = knob(
        default=None, help="their ranks: a number, a fraction of the full rank, or a list"
    )
    keep: Literal["dense"] | None = knob(default=None, help="dense: these layers stay as they are")

    def __post_init__(self) -> None:
        if self.method is not None and not isinstance(self.method, str | Method):
            raise LowRankError(f"method is {self.method!r}: give a method, or its name")
        if isinstance(self.method, str):
            get_method(self.method)
        if self.ranks is not None:
            check_given(self.ranks)
        if (self.keep is None) == (self.method is None and self.ranks is None):
            raise LowRankError("an override is either keep=dense, or a method, ranks or both")

    @property
    def method_name(self) -> str | None:
        """The name of the method, None where the override names none."""
        return self.method.name if isinstance(self.method, Method) else self.method


def make_overrides(
    value: Mapping[str, Mapping[str, Any]] | None, method_of: Callable[[str], Method]
) -> dict[str, Override]:
    """Overrides by pattern, from a configuration, which names methods.

    value: {pattern: options of `Override`}.
    method_of: gives the method of a name, with the configuration's options.

    Raises LowRankError that names the pattern.
    """
    made = {}
    for pattern, given in (value or {}).items():
        named = {key: one for key, one in given.items() if one is not None}
        try:
            if "method" in named:
                named["method"] = method_of(named["method"])
            made[pattern] = Override(**named)
        except LowRankError as error:
            raise LowRankError(f"overrides, {pattern!r}: {error}") from error
    return made


def named_methods(overrides: Mapping[str, Override], competing: Sequence[Method]) -> list[Method]:
    """The methods that the overrides name and that do not compete."""
    found = [override.method for override in overrides.values() if override.method is not None]
    known = {method.name for method in [*competing, *found] if isinstance(method, Method)}
    objects = [method for method in found if isinstance(method, Method)]
    names = {name for name in found if isinstance(name, str)} - known
    return [*objects, *(make_method(name, {}) for name in sorted(names))]
