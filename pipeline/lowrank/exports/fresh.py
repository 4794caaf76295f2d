"""Opens an export and runs it in a process of its own, in which this project can't be imported.

python -I fresh.py FOLDER

FOLDER holds job.json and inputs.safetensors; outputs.pt and result.json are written to it.
The process needs torch and safetensors, and what the export itself asks for.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

PROJECT = ("pipeline", "stages")
_REPETITIONS, _LONG = 20, 1.0  # runs that are timed, and the seconds after which there are enough


class Absent:
    """A finder of modules for which this project does not exist."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in PROJECT:
            raise ModuleNotFoundError(f"an export must not need {name}", name=name)


def tensors_of(output: Any, name: str = "") -> dict[str, Tensor]:
    """{name: tensor} of what a network gave: "output" for a tensor, keys of a dict, places in a
    tuple, joined by dots where one is in another. What is no tensor (a cache) is left out."""
    if isinstance(output, Tensor):
        return {name or "output": output}
    if isinstance(output, Mapping):
        parts = list(output.items())
    else:
        parts = list(enumerate(output)) if isinstance(output, tuple | list) else []
    found: dict[str, Tensor] = {}
    for key, part in parts:
        found |= tensors_of(part, f"{name}.{key}" if name else str(key))
    return found


def run(model: Any, given: Sequence[Tensor], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a network of torch, a session of ONNX Runtime, a model of OpenVINO, or a
    method of ExecuTorch, whose outputs have no names."""
    if hasattr(model, "get_inputs"):
        names, outputs = (
            [x.name for x in found()] for found in (model.get_inputs, model.get_outputs)
        )
        answers = model.run(None, _arrays(names, given, named))
    elif hasattr(model, "create_infer_request"):
        names, outputs = ([x.any_name for x in found] for found in (model.inputs, model.outputs))
        answers = list(model(_arrays(names, given, named)).values())
    elif hasattr(model, "execute"):
        return tensors_of(model.execute([*given, *named.values()]))
    else:
        with torch.no_grad():
            return tensors_of(model(*given, **named))
    return {k: torch.from_numpy(v) for k, v in zip(outputs, answers, strict=True)}


def _arrays(
    names: Sequence[str], given: Sequence[Tensor], named: Mapping[str, Tensor]
) -> dict[str, Any]:
    """{name of an input: array}, where those by position have the first names."""
    tensors = {**dict(zip(names, given, strict=False)), **named}
    return {key: value.numpy() for key, value in tensors.items()}


def median_ms(once: Callable[[], object]) -> float:
    """The median time of a run, in milliseconds, after one that is not timed."""
    times: list[float] = []
    once()
    while len(times) < _REPETITIONS and sum(times) < _LONG:
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main(place: Path) -> None:
    job = json.loads((place / "job.json").read_text())
    sys.meta_path.insert(0, Absent())
    sys.path += job["paths"]
    torch.set_num_threads(job["threads"])
    for package in job["packages"]:
        importlib.import_module(package)
    # What the export's own README says; twice, as libraries import more where they are used first.
    for _ in range(2):
        names: dict[str, Any] = {"folder": job["folder"]}
        start = time.perf_counter()
        exec(job["code"], names)  # noqa: S102  # the README that this export just wrote
        load_s = time.perf_counter() - start
    inputs, outputs = load_file(place / "inputs.safetensors"), {}
    calls = []
    for number, call in enumerate(job["calls"]):
        given = [inputs[f"{number}.given.{i}"] for i in range(call["given"])]
        named = {key: inputs[f"{number}.named.{key}"] for key in call["named"]}
        calls.append((given, named))
        for key, value in run(names["model"], given, named).items():
            outputs[f"{number}.{key}"] = value.contiguous().clone()
    latency_ms = median_ms(lambda: run(names["model"], *calls[0]))
    assert not [name for name in sys.modules if name.partition(".")[0] in PROJECT]
    torch.save(outputs, place / "outputs.pt")  # safetensors needs NumPy to write
    result = {"load_s": load_s, "latency_ms": latency_ms}
    (place / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
