"""Options of MLflow."""

from __future__ import annotations

from pipeline.lowrank.typed import knob, options


@options
class TrackOptions:
    """Where runs are logged, and what of them."""

    experiment: str = knob(default="lowrank", min_length=1, help="MLflow's experiment")
    tracking_uri: str | None = knob(
        default=None, help="a server or a store; null: sqlite:///…/mlflow.db in the repository"
    )
    log_model: bool = knob(
        default=True,
        help="single runs log the model; a job of a sweep gets its model when it is run alone",
    )
    live: bool = knob(default=True, help="curves appear in MLflow while a network trains")
