"""Networks compared with the dense one, in the measures of their task."""

from __future__ import annotations

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
    for split_name, split in splits.items():
        prefix = "" if split_name == "test" else f"{split_name}_"
        dense = None
        for name, network in networks.items():
            scores = split_scores(network, split, task, batch_size)
            dense = scores if dense is None else dense
            values = task.quality(scores, dense)
            found[name] |= {f"{prefix}{key}": value for key, value in values.items()}
    return found
