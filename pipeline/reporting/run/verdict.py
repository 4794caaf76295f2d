"""What a run found, in one sentence."""

from __future__ import annotations

from pipeline.evaluation.timings import Timings
from pipeline.reporting.run.measures import measures
from pipeline.reporting.run.metrics import Metrics
from pipeline.reporting.words import percent


def verdict(metrics: Metrics, timings: Timings | None) -> str:
    """Quality, size and speed of the last network beside the dense one.

    timings: None where latency was not measured here, of which nothing is said then.
    """
    dense, last = metrics.dense, metrics.fine_tuned
    measure = measures(dense.scores, metrics.measures)[0]
    before, after = (measure.show(one.scores[measure.name]) for one in (dense, last))
    change = measure.change(measure.name, dense.scores, last.scores)
    said = (
        f"{measure.label} {after} (dense {before}, {change}) "
        f"with {percent(last.size.params / dense.size.params)} of the parameters "
        f"and {percent(last.size.macs / dense.size.macs)} of the MACs"
    )
    if timings is not None:
        speedup = timings.speedup
        faster = f"{speedup:.2f}× faster" if speedup >= 1 else f"{1 / speedup:.2f}× slower"
        said += f", {faster} on {timings.machine.cpu or 'this machine'}"
        said += " (which was busy with other things)" if timings.busy else ""
    return f"{said[0].upper()}{said[1:]}."
