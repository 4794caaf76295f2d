"""All networks of the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from benchmarks.zoo import (
    huggingface_experts,
    huggingface_images,
    huggingface_other,
    huggingface_text,
    timm_networks,
    torch_networks,
)
from benchmarks.zoo.entry import Entry

NETWORKS: dict[str, Entry] = {
    entry.name: entry
    for room in (
        torch_networks,
        huggingface_text,
        huggingface_experts,
        huggingface_images,
        huggingface_other,
        timm_networks,
    )
    for entry in room.entries()
}


def chosen(patterns: Sequence[str]) -> list[Entry]:
    """The networks that one of the shell-style patterns names; all of them without patterns.

    Raises ValueError for a pattern that names none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in NETWORKS):
            raise ValueError(
                f"{pattern}: names no network of the zoo, such as {next(iter(NETWORKS))}"
            )
    return [
        entry
        for name, entry in NETWORKS.items()
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
