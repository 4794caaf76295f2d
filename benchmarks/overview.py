"""The README's picture: a dense network and what the chain made of it, measured side by side.

python -m benchmarks.overview WORKSPACE [WORKSPACE …]

Each workspace is a finished run of the chain on the same dense network, the mildest budget first.
Latencies of all networks, each in its fastest form, are taken in turns on one thread, in several
processes one after the other, of which the median counts: run it on a quiet machine. Writes
docs/overview.png and its numbers, docs/overview.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.style import DENSE, FINE_TUNED, headed, new_figure, save_png
from pipeline.data.files import load_split
from pipeline.evaluation.latency import forms, interleaved_latencies
from pipeline.lowrank.forms.files import load
from pipeline.machine.checksums import file_sha256
from pipeline.reporting.words import human_count

DOCS = Path(__file__).resolve().parent.parent / "docs"
BATCH = 32
SHADES = (DENSE, "#7FB8DA", FINE_TUNED, "#004B76")
PANELS = {
    "accuracy": "Test accuracy",
    "params": "Parameters",
    "macs": "Multiply-adds",
    "latency_ms": "Latency of 32 images",
}


def measure(workspaces: list[Path], processes: int, repetitions: int) -> list[dict[str, Any]]:
    """One entry a network, the dense one first: what it is, and what was measured."""
    networks = {"dense": workspaces[0] / "out/baseline"}
    entries: dict[str, dict[str, Any]] = {"dense": _facts(workspaces[0], "dense")}
    for workspace in workspaces:
        same = file_sha256(workspace / "out/baseline/model.safetensors")
        assert same == file_sha256(networks["dense"] / "model.safetensors"), "other dense weights"
        facts = _facts(workspace, "fine_tuned")
        name = f"{facts['macs'] / entries['dense']['macs']:.2f} of the multiply-adds"
        networks[name], entries[name] = workspace / "out/fine_tuned", facts
    found = [_in_a_new_process(networks, workspaces[0], repetitions) for _ in range(processes)]
    for name, entry in entries.items():
        times = {run: [t[run] for t in found] for run in found[0] if run[0] == name}
        best = min(times, key=lambda run: statistics.median(times[run]))
        entry |= {
            "network": name,
            "form": best[1],
            "latency_ms": statistics.median(times[best]),
            "latencies_ms": sorted(times[best]),
        }
    return list(entries.values())


def _in_a_new_process(
    networks: dict[str, Path], workspace: Path, repetitions: int
) -> dict[tuple[str, str], float]:
    """Memory falls differently in each process, and moves a latency by a tenth."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_latencies, networks, workspace, repetitions).result()


def _latencies(
    networks: dict[str, Path], workspace: Path, repetitions: int
) -> dict[tuple[str, str], float]:
    """{(network, form): median milliseconds}, all in turns, on one thread."""
    inputs, _ = load_split(workspace / "out/data", "test").batch(torch.arange(BATCH))
    runs = {
        (name, form): network
        for name, folder in networks.items()
        for form, network in forms(load(folder)).items()
    }
    times = interleaved_latencies(runs, inputs, repetitions=repetitions, warmup=10, threads=1)
    return {run: time.latency_ms for run, time in times.items()}


def _facts(workspace: Path, network: str) -> dict[str, Any]:
    metrics = json.loads((workspace / "reports/metrics.json").read_text())[network]
    return {key: metrics[key] for key in ("accuracy", "params", "macs", "file_bytes")}


def draw(entries: list[dict[str, Any]]) -> Figure:
    figure = new_figure(9.5, 3.4)
    for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _bars(axes, key, title, entries)
    handles = figure.axes[0].patches
    labels = ["dense", *(entry["network"] for entry in entries[1:])]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(entries))
    headed(figure, "A ResNet on Fashion-MNIST, before and after, repaired for three epochs")
    return figure


def _bars(axes: Axes, key: str, title: str, entries: list[dict[str, Any]]) -> None:
    values = [entry[key] for entry in entries]
    bars = axes.bar(range(len(values)), values, width=0.74, color=SHADES[: len(values)])
    for place, bar in enumerate(bars):
        axes.annotate(
            _label(key, values[place], values[0]),
            (place, bar.get_height()),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            linespacing=1.25,
        )
    axes.set_ylim(0, 1.22 * max(values))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.set_title(title, loc="center")


def _label(key: str, value: float, dense: float) -> str:
    """The value, and below it what changed."""
    if key == "accuracy":
        shown, change = f"{value:.1%}", f"{(value - dense) * 100:+.1f}".replace("-", "−")
    elif key == "latency_ms":
        shown, change = f"{value:.1f} ms", f"{dense / value:.1f}×"
    else:
        shown, change = human_count(value), f"{dense / value:.1f}×"
    return shown if value == dense else f"{shown}\n{change}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workspaces", nargs="+", type=Path)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=50)
    options = parser.parse_args()
    entries = measure(options.workspaces, options.processes, options.repetitions)
    (DOCS / "overview.json").write_text(json.dumps(entries, indent=2) + "\n")
    save_png(lambda: draw(entries), DOCS / "overview.png")
    for entry in entries:
        print(entry)


if __name__ == "__main__":
    main()
