"""What can be known to fail before any stage runs: a network that is not built, weights that are
none, and a budget below what any factorization of it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.config.from_model import TRANSFORMER
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.files import read_state

# Methods that leave channels out, and with them numbers of layers beside their own.
_NARROWING = {"interpolative"}


def check_network(params: Mapping[str, Any]) -> None:
    """Raises LowRankError, one line, for a network that this configuration can't have.

    A network that brings its weights with it is not built twice: its stage says what is wrong.
    """
    spec, baseline = params["model"], params["baseline"]
    if baseline["weights"] is not None:
        read_state(Path(baseline["weights"]))
    if baseline["source"] == "pretrained" or spec["_target_"] == TRANSFORMER:
        return
    check_budget(build_model(spec), params["rank_select"], params["methods"]["names"])


def check_budget(
    model: nn.Module, rank_select: Mapping[str, Any], methods: Sequence[str] = ()
) -> None:
    """Raises LowRankError for a budget of parameters that even rank 1 in every weight misses."""
    chosen = [rank_select.get(key) for key in ("policy", "cost_unit", "scope")]
    if chosen != ["budget", "params", "network"] or _NARROWING & set(methods):
        return
    counts = [(p.numel(), _least(tuple(p.shape))) for p in model.parameters()]
    total, least = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    budget = rank_select["budget"]
    if least > budget * total:
        share = math.ceil(1000 * least / total) / 1000
        raise LowRankError(
            f"a budget of {budget:g} of the params cannot be met: with rank 1 in every weight "
            f"there are {least:,} of {total:,} parameters left at least; choose at least {share:g}"
        )


def _least(shape: tuple[int, ...]) -> int:
    """The fewest numbers that any factorization of a weight of this shape has: those that a product
    of a vector a dimension is free to choose; of a vector itself, all."""
    sizes = [size for size in shape if size > 1]
    return sum(sizes) - len(sizes) + 1 if len(sizes) > 1 else math.prod(shape)
