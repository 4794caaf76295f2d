"""What a user decides for some layers, in place of the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import Method, make_method
from pipeline.lowrank.planning.policies.ranks import check_given
from pipeline.lowrank.typed import knob, options


@options
class Override:
    """What the user decides for some layers, in place of the policy; what is None is left open.

    keep: "dense", to leave them as they are. ranks: as in the policy `Fixed`. method: the only
    one that may be used; without `ranks` the policy still chooses them. A name stands for the
    method with its default options.
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
            object.__setattr__(self, "method", make_method(self.method, {}))
        if self.ranks is not None:
            check_given(self.ranks)
        if (self.keep is None) == (self.method is None and self.ranks is None):
            raise LowRankError("an override is either keep=dense, or a method, ranks or both")


def make_overrides(
    value: Mapping[str, Mapping[str, Any]] | None, method_of: Callable[[str], Method]
) -> dict[str, Override]:
    """Overrides by pattern, from a configuration, which names methods. Raises LowRankError naming
    the pattern.

    method_of: the method of a name, with the configuration's options.
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


def named_methods(overrides: Mapping[str, Override]) -> list[Method]:
    """The methods that overrides ask for."""
    return [override.method for override in overrides.values() if override.method]
