"""Options of MLflow."""

from __future__ import annotations

from urllib.parse import urlsplit

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import knob, options


@options
class TrackOptions:
    """Where runs are logged, and what of them."""

    experiment: str = knob(default="lowrank", min_length=1, help="MLflow's experiment")
    tracking_uri: str | None = knob(
        default=None,
        help="a server or a store, without a password; null: that of the environment variable "
        "MLFLOW_TRACKING_URI, else sqlite:///…/mlflow.db in the repository",
    )
    log_model: bool = knob(
        default=True,
        help="single runs log the model; a job of a sweep gets its model when it is run alone",
    )
    live: bool = knob(default=True, help="curves appear in MLflow while a network trains")

    def __post_init__(self) -> None:
        if self.tracking_uri is not None and urlsplit(self.tracking_uri).password:
            raise LowRankError(
                "track.tracking_uri holds a password, which would stand in params.yaml and in "
                "every run; set it to null and the environment variable MLFLOW_TRACKING_URI, "
                "or for a server MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
