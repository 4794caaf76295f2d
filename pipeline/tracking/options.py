"""Options of MLflow."""

from __future__ import annotations

from importlib.metadata import entry_points
from urllib.parse import urlsplit

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.typed import knob, options

# The schemes of MLflow's own stores; plugins add theirs.
_KINDS = ("file", "sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks", "uc")
_PLUGINS = "mlflow.tracking_store"


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
    register: str | None = knob(
        default=None,
        min_length=1,
        help="the name of MLflow's registry under which the model is a new version; null: it is "
        "not registered",
    )
    alias: str | None = knob(
        default="newest", help="the alias that the registered version gets; null: none"
    )
    live: bool = knob(default=True, help="curves appear in MLflow while a network trains")

    def __post_init__(self) -> None:
        if self.register is not None and not self.log_model:
            raise LowRankError(
                f"track.register={self.register}: there is no model to register with "
                "track.log_model=false; leave one of them out"
            )
        if self.tracking_uri is None:
            return
        kind = urlsplit(self.tracking_uri).scheme.partition("+")[0]
        known = {*_KINDS, *(plugin.name for plugin in entry_points(group=_PLUGINS))}
        if len(kind) > 1 and kind not in known:  # one letter is a drive of Windows
            raise LowRankError(
                f"tracking_uri={self.tracking_uri}: MLflow has no store of this kind; "
                f"{suggest(kind, sorted(known))}"
            )
        if urlsplit(self.tracking_uri).password:
            raise LowRankError(
                "track.tracking_uri holds a password, which would stand in params.yaml and in "
                "every run; set it to null and the environment variable MLFLOW_TRACKING_URI, "
                "or for a server MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
