"""What a plan is expected to take, for its file and its readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.planning.timing.clock import Clock
from pipeline.lowrank.planning.timing.device import Device
from pipeline.lowrank.planning.timing.table import middle_error

_MILLISECONDS = 1e-6  # of a nanosecond


@dataclass(frozen=True)
class ExpectedLatency:
    """Times of the network under a workload, in milliseconds.

    workload, layout: what is called, and the memory format of its convolutions with the plan.
    dense, planned: of the network without the plan, in its fastest memory format, and with it.
    other: of what is in no layer that was timed (norms, attention, activations): the time of the
        dense network in `layout` less that of its layers. No plan changes it, but by narrower
        norms.
    layers: {target: its time with the plan}.
    in_network: what changed layers take in the network, relative to what they take alone.
    measured: of a network built by this plan, beside the dense one; None where none was.
    table_error: the median relative error of interpolated times at `checks` points that were
        measured too; None where nothing was interpolated.
    busy: whether the machine was busy while times were measured, so that they may be too long.
    """

    workload: str
    layout: str
    device: Device
    dense: float
    planned: float
    other: float
    layers: Mapping[str, float]
    in_network: float
    measured: float | None
    table_error: float | None
    checks: int
    busy: bool

    @property
    def kept(self) -> float:
        """The fraction of the time that is left."""
        return self.planned / self.dense

    def __str__(self) -> str:
        told = (
            f"latency of {self.workload} ({self.device.threads} threads, {self.layout}): "
            f"{self.dense:.3g} → {self.planned:.3g} ms expected ({self.kept:.0%})"
        )
        if self.measured is not None:
            told += f", {self.measured:.3g} ms measured"
        told += f"; {self.other:.3g} ms of it in what is no target"
        if self.table_error is not None:
            told += f"; error of the table {self.table_error:.1%} at {self.checks} points"
        return f"{told}; the machine was busy" if self.busy else told


def expected_latency(
    clock: Clock, candidates: Mapping[str, Candidate], saved: int
) -> ExpectedLatency:
    """The latency of a plan; its candidates have their times. saved: nanoseconds that are saved in
    layers that are no targets."""
    layers = {name: candidates[name].latency for name in clock.dense}
    tables = list(clock.tables.values())
    return ExpectedLatency(
        workload=str(clock.workload),
        layout=clock.layout,
        device=clock.device,
        dense=clock.total * _MILLISECONDS,
        planned=(clock.other + sum(layers.values()) - saved) * _MILLISECONDS,
        other=clock.other * _MILLISECONDS,
        layers={name: time * _MILLISECONDS for name, time in layers.items()},
        in_network=clock.in_network,
        measured=None,
        table_error=middle_error(tables),
        checks=sum(len(table.checks) for table in tables),
        busy=any(table.busy for table in tables),
    )
