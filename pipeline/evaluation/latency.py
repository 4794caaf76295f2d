"""Latency on this machine, measured side by side and kept out of DVC's outputs.

Timings differ from run to run and from machine to machine, so they live in a scratch folder
under a key of the weights, the options and the machine: measured once for each.
"""

from __future__ import annotations

import copy
import hashlib
import json
import statistics
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from pipeline.data.files import load_split
from pipeline.data.splits import moved, tensors
from pipeline.evaluation.options import EvaluateOptions
from pipeline.evaluation.timings import FOLDER, Latency, Timings, load_timings
from pipeline.lowrank.forms.allowed import Allowed
from pipeline.lowrank.forms.files import load
from pipeline.lowrank.forms.running import has_pivots, lay_out, multiply_out_
from pipeline.lowrank.forms.shards import weights_sha256
from pipeline.lowrank.network.calling import call, device_of
from pipeline.lowrank.planning.timing.device import Device
from pipeline.lowrank.planning.timing.device import device_of as facts_of
from pipeline.lowrank.typed import save_record
from pipeline.machine.devices import FabricOptions, one_device
from pipeline.machine.scratch import scratch

_CPU = torch.device("cpu")
_MILLISECONDS = 1e-6  # of a nanosecond
_WAY = "each network in its fastest form"  # changes the key when the way of measuring does

_Name = TypeVar("_Name", bound=Hashable)


def measured_once(
    networks: Mapping[str, Path],
    data: Path,
    options: EvaluateOptions,
    fabric: FabricOptions,
    *,
    again_if_busy: bool = False,
    allow: Iterable[Allowed] = (),
) -> Timings:
    """Latencies of the network folders on a batch of test examples, measured or remembered.

    networks: those of `Timings`, by name. fabric: the device, and the threads; None: as many as
    torch uses. A timing is remembered by all of this, and by the machine.
    again_if_busy: measure again where what is remembered was measured on a busy machine.
    allow: that of `load`.

    Every network runs in each form that it has (see `forms`) and counts in its fastest one.
    """
    used, device = _used(options, fabric.threads), _device(fabric)
    machine = machine_facts(used["threads"], device)
    weights = {name: weights_sha256(path) for name, path in networks.items()}
    stored = scratch(FOLDER) / f"{_key(weights, used, asdict(machine), _WAY)}.json"
    if stored.is_file():
        remembered = load_timings(stored)
        if not (again_if_busy and remembered.busy):
            return remembered
    split = load_split(data, "test")
    inputs, _ = split.batch(torch.arange(used["latency_batch_size"]) % len(split))
    inputs = moved(inputs, device)
    runs = {
        (name, form): network.to(device)
        for name, path in networks.items()
        for form, network in forms(load(path, allow=allow)).items()
    }
    measured = interleaved_latencies(
        runs,
        inputs,
        repetitions=used["latency_repetitions"],
        warmup=used["latency_warmup"],
        threads=used["threads"],
    )
    best = {
        name: min((run for run in runs if run[0] == name), key=lambda r: measured[r].latency_ms)
        for name in networks
    }
    times = {name: measured[run] for name, run in best.items()}
    result = Timings(
        machine=machine,
        weights=weights,
        batch_size=used["latency_batch_size"],
        **times,
        speedup=times["dense"].latency_ms / times["fine_tuned"].latency_ms,
        tokens=_tokens(inputs),
        forms={name: form for name, (_, form) in best.items()},
    )
    save_record(stored, result)
    return result


def forms(network: nn.Module) -> dict[str, nn.Module]:
    """{form: the network in that form}, all of one function: as stored; with pivoted factors
    multiplied out; and with the kernels of its 2-D convolutions in channels last."""
    found = {"as stored": network}
    if has_pivots(network):
        found["multiplied out"] = multiply_out_(copy.deepcopy(network))
    if any(isinstance(module, nn.Conv2d) for module in network.modules()):
        for name, form in list(found.items()):
            turned = copy.deepcopy(form)
            lay_out(turned, torch.channels_last)
            found["channels last" if form is network else f"{name}, channels last"] = turned
    return found


def interleaved_latencies(
    models: Mapping[_Name, nn.Module],
    inputs: Any,
    *,
    repetitions: int,
    warmup: int,
    threads: int,
) -> dict[_Name, Latency]:
    """{name: its latency}.

    The models take turns within each repetition, so that other work of the machine hits
    all of them alike; how much of the time this thread had a processor tells of such work. The
    number of threads and the models' modes are restored.
    """
    nanoseconds: dict[_Name, list[tuple[int, int]]] = {name: [] for name in models}
    modes = {name: model.training for name, model in models.items()}
    threads_before = torch.get_num_threads()
    gpu = next((d for d in map(device_of, models.values()) if d.type == "cuda"), None)
    torch.set_num_threads(threads)
    try:
        for model in models.values():
            model.eval()
        with torch.inference_mode():
            for repetition in range(warmup + repetitions):
                for name, model in models.items():
                    start, own = time.perf_counter_ns(), time.thread_time_ns()
                    call(model, inputs)
                    if gpu is not None:
                        torch.cuda.synchronize(gpu)
                    spent = time.perf_counter_ns() - start, time.thread_time_ns() - own
                    if repetition >= warmup:
                        nanoseconds[name].append(spent)
    finally:
        torch.set_num_threads(threads_before)
        for name, model in models.items():
            model.train(modes[name])
    return {name: _summary(values) for name, values in nanoseconds.items()}


def machine_facts(threads: int, device: torch.device = _CPU) -> Device:
    """This machine, with so many threads, as it computes on the device."""
    return replace(facts_of(device), threads=threads)


def _device(fabric: FabricOptions) -> torch.device:
    return _CPU if fabric.accelerator == "cpu" else one_device(fabric)


def _tokens(inputs: Any) -> int | None:
    """How many token ids an example has, where it has some."""
    found = [one.shape[1] for one in tensors(inputs) if one.dim() == 2 and one.dtype == torch.int64]
    return found[0] if found else None


def _used(options: EvaluateOptions, threads: int | None) -> dict[str, int]:
    """The options and the number of threads that a timing depends on."""
    return {
        "latency_batch_size": options.latency_batch_size,
        "latency_repetitions": options.latency_repetitions,
        "latency_warmup": options.latency_warmup,
        "threads": torch.get_num_threads() if threads is None else threads,
    }


def _summary(nanoseconds: list[tuple[int, int]]) -> Latency:
    """nanoseconds: (wall time, processor time of the thread) of each repetition."""
    walls = [wall for wall, _ in nanoseconds]
    median = statistics.median(walls)
    share = statistics.median(min(1.0, own / wall) if wall else 1.0 for wall, own in nanoseconds)
    if len(walls) == 1:
        return Latency(median * _MILLISECONDS, 0.0, share)
    lower, _, upper = statistics.quantiles(walls, n=4, method="inclusive")
    return Latency(median * _MILLISECONDS, (upper - lower) * _MILLISECONDS, share)


def _key(*parts: Any) -> str:
    # A list of pairs keeps the order of the networks, which "speedup" depends on.
    weights, *rest = parts
    text = json.dumps([list(weights.items()), *rest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
