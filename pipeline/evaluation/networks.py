"""Networks compared with the dense one, in the measures of their task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

from torch import nn

from pipeline.data.splits import Split
from pipeline.evaluation.quality import side_by_side
from pipeline.lowrank.tasks import Task

Scores = dict[str, dict[str, float]]


def compare_networks(
    networks: Mapping[str, nn.Module], splits: Mapping[str, Split], task: Task, batch_size: int
) -> Scores:
    """{network: {measure: value}}; the first network is the dense one. Beside the measures of the
    task stands the `divergence` from the dense network, and for categories the `agreement` with its
    answers, both as means over the units.

    splits: "test", and for text perhaps "ood", whose measures are prefixed by "ood_".
    """
    found: Scores = {name: {} for name in networks}
    for split_name, split in splits.items():
        prefix = "" if split_name == "test" else f"{split_name}_"
        compared = side_by_side([*networks.values()], split, task, batch_size)
        for name, (scores, distance) in zip(networks, compared, strict=True):
            apart = {k: v for k, v in asdict(distance).items() if v is not None}
            values = apart | task.quality(scores, compared[0][0])
            found[name] |= {f"{prefix}{key}": value for key, value in values.items()}
    return found


def defined(scores: Scores) -> Scores:
    """The scores without the measures that the examples leave undefined (R² of labels that are all
    the same, for example), which the dense network has none of; a line says which."""
    dense = next(iter(scores.values()))
    undefined = [key for key, value in dense.items() if math.isnan(value)]
    if undefined:
        print(f"evaluate: {', '.join(undefined)}: undefined on these examples, left out")
    return {
        name: {key: value for key, value in found.items() if key not in undefined}
        for name, found in scores.items()
    }
