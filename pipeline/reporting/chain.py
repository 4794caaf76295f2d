"""The stages of the chain in their order, and the line that each begins with."""

from __future__ import annotations

from pathlib import Path

STAGES = (
    "configure",
    "prepare",
    "baseline",
    "analyze",
    "rank-select",
    "decompose",
    "fine-tune",
    "evaluate",
    "track",
)


def headline(stage: str) -> str:
    """The stage and where in the chain it is: stage 4 of 9: analyze."""
    return f"stage {STAGES.index(stage) + 1} of {len(STAGES)}: {stage}"


def say_which(program: str) -> str:
    """The stage whose file `program` is. Prints its line; nothing for another program."""
    stage = Path(program).stem.replace("_", "-")
    if stage in STAGES:
        print(headline(stage), flush=True)
    return stage
