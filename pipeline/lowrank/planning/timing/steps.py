"""The steps in which a device's time goes up with the number of channels."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pipeline.lowrank.network.inner.dimension import Member
from pipeline.lowrank.network.targets import dense_weight, groups_of
from pipeline.lowrank.planning.timing.calls import Calls
from pipeline.lowrank.planning.timing.device import Device
from pipeline.lowrank.planning.timing.table import Sizes, measured_table

_WIDE = 64  # channels of the layer on which steps are looked for
_STEPS = (32, 16, 8)
_LEAST = 0.05  # of the time, a step saves
_PART = 0.3  # of what a whole step saves, at most this much is saved before its end


def step_of(name: str, calls: Calls, device: Device) -> int:
    """The largest step in which a layer's time goes up with its outputs; 1 where it goes up evenly.
    Processors compute 8 or 16 channels at once: ranks between two steps take as long as the next
    step, with a larger error."""
    if groups_of(calls.layer) > 1:
        return 1
    width = dense_weight(calls.layer).shape[0]
    top = min(_WIDE, width - width % _STEPS[0])
    if top < _WIDE:
        return _STEPS[1] if isinstance(calls.layer, nn.modules.conv._ConvNd) else _STEPS[2]
    sizes = sorted({top, *(top - s for s in _STEPS), *(top - s + 1 for s in _STEPS)})
    member = Member(name, "makes")

    def build(at: Sizes) -> Callable[[], object]:
        return calls.narrowed(member, sizes[at[0]], width).as_it_is()

    # Named by their places, so that all of the sizes are measured.
    places = (tuple(range(len(sizes))),)
    what = f"{calls.what}: outputs {sizes}"
    table = measured_table(what, device, places, build, calls.as_it_is())
    times = {size: table.at((place,)) for place, size in enumerate(sizes)}
    for step in _STEPS:
        whole = times[top] - times[top - step]
        inside = [times[top] - times[size] for size in sizes if top - step < size < top]
        if whole > _LEAST * times[top] and max(inside) <= _PART * whole:
            return step
    return 1
