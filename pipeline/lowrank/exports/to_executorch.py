"""ExecuTorch's file, for devices without Python, its layers run by XNNPACK."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.base import Check, Format, Job, Written
from pipeline.lowrank.exports.graph import traced
from pipeline.lowrank.exports.quiet import quiet

FILE = "model.pte"
_XNNPACK = "executorch.backends.xnnpack.partition.xnnpack_partitioner"


class ToExecutorch(Format):
    name = "executorch"
    extra = "executorch"
    packages = runtime = ("executorch",)
    is_graph = fixed = True
    form = "plain"  # as in ONNX
    loses = (
        "Training, a cache, names of inputs and outputs, and every size but those of the example, "
        "for which ExecuTorch plans its memory."
    )

    def write(self, job: Job, folder: Path) -> Written:
        exir: Any = importlib.import_module("executorch.exir")
        parts: Any = importlib.import_module(_XNNPACK)
        network, graph = traced(replace(job, options=replace(job.options, dynamic=False)))
        try:
            with quiet():
                lowered = exir.to_edge_transform_and_lower(
                    graph, partitioner=[parts.XnnpackPartitioner()]
                ).to_executorch()
        except Exception as error:  # whatever its passes meet
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise LowRankError(
                f"to=executorch: ExecuTorch does not lower {type(job.network).__name__}: {reason}; "
                "choose to=onnx or pt2"
            ) from error
        (folder / FILE).write_bytes(lowered.buffer)
        usage = (
            "from executorch.runtime import Runtime\n"
            f"program = Runtime.get().load_program(folder + '/{FILE}')\n"
            "model = program.load_method('forward')\n"
        )
        expected = [
            {str(i): value for i, value in enumerate(call.of(network).values())}
            for call in job.calls
        ]
        return Written(usage, check=Check("network", usage, job.calls, expected))
