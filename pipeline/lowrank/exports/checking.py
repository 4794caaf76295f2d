"""An export is opened again in a fresh process, and compared with the network in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports import fresh
from pipeline.lowrank.exports.calls import Call

# Relative to the largest output. The same sums in another order (a graph's, or of whole factors)
# differ by some units of the last place, and depth multiplies them.
_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 3e-2,
    torch.float16: 1e-2,  # ten units of the last place; ONNX Runtime rounds elsewhere than torch
}


@dataclass(frozen=True)
class Opened:
    """What the fresh process found: outputs call by call, seconds to load, milliseconds a run."""

    outputs: Sequence[Mapping[str, Tensor]]
    load_s: float
    latency_ms: float


@dataclass(frozen=True)
class Difference:
    """Between outputs: the largest one, and the same over the largest output."""

    absolute: float
    relative: float


def tolerance_of(dtype: torch.dtype) -> float:
    """The largest relative difference that a network's number format explains."""
    return _TOLERANCE.get(dtype, _TOLERANCE[torch.float32])


def opened(folder: Path, code: str, packages: Sequence[str], calls: Sequence[Call]) -> Opened:
    """Runs `code`, which makes `model` of `folder`, and the calls, in a process of its own without
    this project. Raises LowRankError with the last line of what it said where it fails."""
    with TemporaryDirectory() as name:
        place = Path(name)
        _write_job(place, folder, code, packages, calls)
        # What transformers copies from a folder is not to be found by the next export.
        quiet = {"HF_MODULES_CACHE": f"{name}/modules", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        done = subprocess.run(
            [sys.executable, "-I", "-B", fresh.__file__, name],
            cwd=name,
            env={**os.environ, **quiet},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise LowRankError(f"the export does not run in a process of its own: {said[-1]}")
        result = json.loads((place / "result.json").read_text())
        found = torch.load(place / "outputs.pt", weights_only=True)
    outputs: list[dict[str, Tensor]] = [{} for _ in calls]
    for key, value in found.items():
        number, _, name = key.partition(".")
        outputs[int(number)][name] = value
    return Opened(outputs, result["load_s"], result["latency_ms"])


def difference(
    expected: Sequence[Mapping[str, Tensor]], found: Sequence[Mapping[str, Tensor]]
) -> Difference:
    """The largest difference between outputs. Raises LowRankError where one is missing, has another
    shape, or holds NaN or Inf in another place."""
    absolute = relative = 0.0
    for wanted, given in zip(expected, found, strict=True):
        for key, value in wanted.items():
            if key not in given or given[key].shape != value.shape:
                shape = tuple(given[key].shape) if key in given else "not there"
                raise LowRankError(
                    f"the output {key} is {shape} in the export, and {tuple(value.shape)} in memory"
                )
            apart, size = _apart(value, given[key])
            absolute = max(absolute, apart)
            relative = max(relative, apart / size if size else apart)
    if not absolute < float("inf"):
        raise LowRankError("the export's outputs have NaN or Inf where the network's have none")
    return Difference(absolute, relative)


def _apart(one: Tensor, other: Tensor) -> tuple[float, float]:
    """(the largest difference, the largest finite entry of the first one)."""
    if not one.numel():
        return 0.0, 0.0
    first, second = one.double(), other.double()
    same = (first == second) | (first.isnan() & second.isnan())
    apart = (first - second).abs().masked_fill(same, 0.0).nan_to_num(nan=float("inf"))
    size = first.abs().nan_to_num(nan=0.0, posinf=0.0)
    return float(apart.max()), float(size.max())


def _write_job(
    place: Path, folder: Path, code: str, packages: Sequence[str], calls: Sequence[Call]
) -> None:
    inputs: dict[str, Tensor] = {}
    for number, one in enumerate(calls):
        inputs |= {f"{number}.given.{i}": x.contiguous() for i, x in enumerate(one.given)}
        inputs |= {f"{number}.named.{k}": x.contiguous() for k, x in one.named.items()}
    save_file({key: value.clone() for key, value in inputs.items()}, place / "inputs.safetensors")
    job = {
        "folder": str(folder.absolute()),
        "code": code,
        "packages": list(packages),
        # Of the environment that the network's own code comes from; not the project's.
        "paths": [path for path in sys.path if path],
        "threads": torch.get_num_threads(),
        "calls": [{"given": len(one.given), "named": list(one.named)} for one in calls],
    }
    (place / "job.json").write_text(json.dumps(job))
