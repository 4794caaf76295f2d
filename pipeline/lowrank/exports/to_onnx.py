"""ONNX, checked in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.base import Format, Job, Written
from pipeline.lowrank.exports.graph import traced
from pipeline.lowrank.exports.quiet import quiet

FILE = "model.onnx"


class ToOnnx(Format):
    name = "onnx"
    extra = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    is_graph = True
    form = "plain"  # graphs fold and fuse whole factors; pivots gather, which is slower and larger
    loses = "Training, and all but tensors: what a network keeps between calls (a cache) stays out."

    def write(self, job: Job, folder: Path) -> Written:
        if job.options.dtype == "bfloat16":
            raise LowRankError("to=onnx: dtype=bfloat16 runs in few runtimes; choose float16")
        call = job.calls[0]
        network, program = traced(job)
        with quiet():
            torch.onnx.export(
                program,
                (),
                str(folder / FILE),
                input_names=list(network.names),
                output_names=list(call.of(network)),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        return Written(
            f"import onnxruntime\nmodel = onnxruntime.InferenceSession(folder + '/{FILE}')\n"
        )
