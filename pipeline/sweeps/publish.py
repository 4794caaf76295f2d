"""The comparison of a sweep: written, and logged to the sweep's MLflow run."""

from __future__ import annotations

from pathlib import Path

from pipeline.reporting.sweep.write import write_comparison
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.sweep import log_to_sweep


def publish_comparison(folder: Path, track: TrackOptions, parent: str) -> str:
    """Writes the comparison and logs it to the sweep's MLflow run; returns one line for the end
    of the sweep. The results exist already, so a failure here is told and not raised."""
    try:
        page = write_comparison(folder)
        log_to_sweep(track, parent, [page])
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        return f"comparison not written: {type(error).__name__}: {first}"
    return f"comparison {page}"
