"""The methods that compete, and the options of all of them."""

from __future__ import annotations

from pipeline.config.sections.gathered import with_options_of
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import METHODS, Method, get_method, make_method
from pipeline.lowrank.typed import knob, options


@options
@with_options_of(METHODS.values(), without=("seed",))
class MethodsOptions:
    """Which methods may factorize a layer, and how each works."""

    names: tuple[str, ...] = knob(help="the methods that compete, layer by layer")

    def __post_init__(self) -> None:
        if not self.names:
            raise LowRankError(f"no method chosen: name at least one of {', '.join(METHODS)}")
        for name in self.names:
            get_method(name)

    def made(self, name: str, seed: int) -> Method:
        """The method of a name with those of the options that it has."""
        return make_method(name, vars(self), seed)
