"""Networks compared with the dense one, in the measures of their task."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from pipeline.data.splits import Split
from pipeline.evaluation.quality import split_scores
from pipeline.lowrank.tasks import Task

Scores = dict[str, dict[str, float]]


def compare_networks(
    networks: Mapping[str, nn.Module], splits: Mapping[str, Split], task: Task, batch_size: int
) -> Scores:
    """{network: {measure: value}}; the first network is the dense one.

    splits: "test", and for text perhaps "ood", whose measures are prefixed by "ood_".
    """
    found: Scores = {name: {} for name in networks}
    first = next(iter(networks.values()))
    for split_name, split in splits.items():
        prefix = "" if split_name == "test" else f"{split_name}_"
        dense = None
        for name, network in networks.items():
            scores = split_scores(network, split, task, batch_size, first)
            dense = scores if dense is None else dense
            values = task.quality(scores, dense)
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
