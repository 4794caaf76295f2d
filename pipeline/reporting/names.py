"""Names on a page, and which layers it shows where there are many."""

from __future__ import annotations

from collections.abc import Sequence

# A layer's views as plot_rows calls them, in words.
VIEWS = {
    "mode0": "output channels",
    "mode1": "input channels",
    "spatial": "height by width",
    "matrix": "matrix",
}
_LONGEST_NAME = 34


def largest(names: Sequence[str], weight: dict[str, float], most: int) -> list[str]:
    """The `most` names of greatest weight, still in their order."""
    chosen = sorted(names, key=lambda name: -weight[name])[:most]
    return [name for name in names if name in set(chosen)]


def left_out(shown: int, total: int, what: str, file: str) -> str:
    """A note on what is left out; empty where all is shown."""
    if shown == total:
        return ""
    return f"the {shown} of {total} layers with {what}; all in reports/{file}"


def short(name: str, longest: int = _LONGEST_NAME) -> str:
    """A long name with its middle cut: the ends tell layers apart."""
    if len(name) <= longest:
        return name or "(root)"
    head = (longest - 1) // 3
    return f"{name[:head]}…{name[len(name) - (longest - 1 - head) :]}"
