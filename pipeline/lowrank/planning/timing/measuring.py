"""The shortest time of a call, also on a machine that has other things to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

_TURNS, _STEADY = 10, 0.998
_SECONDS, _SECONDS_OF_A_NETWORK = 0.3, 8.0  # of each run at most, on a busy machine
_LEAST_SHARE = 0.9  # of its wall time, a thread that never waits for a processor has nearly all


class Quickest(NamedTuple):
    """nanoseconds: the shortest time of each run. busy: whether the thread waited for a processor
    even then, so that a time may be too long."""

    nanoseconds: tuple[int, ...]
    busy: bool


@torch.inference_mode()
def quickest(runs: Sequence[Callable[[], object]]) -> Quickest:
    """The shortest times of the runs, which take turns: other work of the machine makes some calls
    longer, never shorter. With one thread the time is that thread's own; with several, or on a
    GPU, that of the clock on the wall."""
    for run in runs:
        run()  # the first calls set things up
    least = [_timed(run) for run in runs]

    def turn() -> int:
        for place, run in enumerate(runs):
            least[place] = min(least[place], _timed(run), key=lambda t: _of(*t))
        return sum(_of(*t) for t in least)

    _until_steady(turn, _SECONDS * len(runs))
    waited = any(own < _LEAST_SHARE * wall for wall, own in least)
    return Quickest(tuple(_of(*t) for t in least), waited and not _own_time())


class Stopwatch:
    """Times a network piece by piece: from one beginning or end of a module to the next. Other work
    of the machine makes some pieces of some runs longer, and seldom the same piece of all.

    run: one call of the network.
    layers: {name: module} at which runs are cut.
    """

    def __init__(self, run: Callable[[], object], layers: Mapping[str, nn.Module]) -> None:
        self._run, self._layers = run, layers
        self._marks: list[tuple[str, bool]] = []  # (layer, whether it ended)
        self._times: list[int] = []
        self._least: list[int] = []

    def once(self) -> None:
        """One more run."""
        hooks = []
        before, self._marks = self._marks, []
        for name, layer in self._layers.items():
            begun, ended = partial(self._mark, name, False), partial(self._mark, name, True)
            hooks += [layer.register_forward_pre_hook(begun), layer.register_forward_hook(ended)]
        self._times = [_now()]
        try:
            self._run()
            self._times.append(_now())
        finally:
            for hook in hooks:
                hook.remove()
        pieces = [end - start for start, end in pairwise(self._times)]
        same = self._marks == before and len(pieces) == len(self._least)
        self._least = list(map(min, pieces, self._least)) if same else pieces

    @property
    def whole(self) -> int:
        """Nanoseconds of a run."""
        return sum(self._least)

    def layers(self) -> dict[str, int]:
        """{layer: nanoseconds of its calls in a run}."""
        at = [0, *accumulate(self._least)]
        found = dict.fromkeys(self._layers, 0)
        for place, (name, ended) in enumerate(self._marks, 1):
            found[name] += at[place] if ended else -at[place]
        return found

    def _mark(self, name: str, ended: bool, *_: Any) -> None:
        self._marks.append((name, ended))
        self._times.append(_now())


@torch.inference_mode()
def take_turns(watches: Sequence[Stopwatch]) -> None:
    """Runs all of them in turns, until their times get no shorter."""
    for watch in watches:
        watch.once()

    def turn() -> int:
        for watch in watches:
            watch.once()
        return sum(watch.whole for watch in watches)

    _until_steady(turn, _SECONDS_OF_A_NETWORK * len(watches))


def _until_steady(turn: Callable[[], int], seconds: float) -> None:
    """Takes turns until ten of them make the sum of the shortest times shorter by less than a
    fiftieth of a percent each, or for so many seconds."""
    end = time.perf_counter() + seconds
    before, now = turn(), 0
    while time.perf_counter() < end:
        for _ in range(_TURNS):
            now = turn()
        if now > _STEADY * before:
            return
        before = now


def _now() -> int:
    if _on_gpu():
        torch.cuda.synchronize()
    return _of(time.perf_counter_ns(), time.thread_time_ns())


def _of(wall: int, own: int) -> int:
    """The one of the two clocks that counts."""
    return own if _own_time() else wall


def _own_time() -> bool:
    """Whether all of the work is done by the thread that asks for it."""
    return torch.get_num_threads() == 1 and not _on_gpu()


def _timed(run: Callable[[], object]) -> tuple[int, int]:
    """Nanoseconds on the wall and of this thread."""
    wall, own = time.perf_counter_ns(), time.thread_time_ns()
    run()
    if _on_gpu():
        torch.cuda.synchronize()
    own = time.thread_time_ns() - own
    return time.perf_counter_ns() - wall, own


def _on_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
