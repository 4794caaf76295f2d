"""What makes raw examples the network's inputs; it travels with the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.data.splits import Channels

PREPROCESSING_JSON = "preprocessing.json"


@dataclass(frozen=True)
class Preprocessing:
    """The content of preprocessing.json.

    channels: {"inputs" or "inputs.NAME": its channels' mean and standard deviation}; what has none
        is read as it is, bytes as x/255.
    """

    channels: Mapping[str, Channels] = field(default_factory=dict)
