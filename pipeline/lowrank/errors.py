"""The one exception that is meant for users, and the hint that goes with a wrong name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LowRankError(ValueError):
    """What is wrong, with which value, and what to do about it, in one or two lines.

    Everything that a user can cause (configuration, data, checkpoints, plans) is reported by this
    class or a subclass of it; stages print it without a traceback.
    """


def reason_of(error: BaseException, most: int = 200) -> str:
    """The first line of what another library says, for a line of ours; the error's name where it
    says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:most]


def suggest(value: object, known: Iterable[str], shown: int = 20) -> str:
    """ "did you mean 'x'? choose one of x, y" for a name that is not among `known`.

    At most `shown` of the known names are written out.
    """
    names = list(known)
    near = get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = " …" if len(names) > shown else ""
    return f"{hint}choose one of {', '.join(names[:shown])}{more}"
