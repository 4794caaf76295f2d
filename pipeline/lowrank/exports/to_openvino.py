"""OpenVINO's own files, made of the graph of ONNX."""

from __future__ import annotations

import importlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.lowrank.exports.base import Format, Job, Written
from pipeline.lowrank.exports.quiet import quiet
from pipeline.lowrank.exports.to_onnx import write_onnx

FILE = "model.xml"  # the weights lie in model.bin
# OpenVINO computes in bfloat16 where a processor has it, whatever the weights are.
_EXACT = "{'INFERENCE_PRECISION_HINT': 'f32'}"


class ToOpenvino(Format):
    name = "openvino"
    extra = "openvino"
    packages = ("onnx", "onnxscript", "openvino")
    runtime = ("openvino",)
    is_graph = True
    form = "plain"  # as in ONNX
    loses = "Training, and all but tensors: what a network keeps between calls (a cache) stays out."

    def write(self, job: Job, folder: Path) -> Written:
        openvino: Any = importlib.import_module("openvino")
        with TemporaryDirectory() as place:
            graph = Path(place, "model.onnx")
            write_onnx(job, graph)
            with quiet():
                model = openvino.convert_model(graph)
                openvino.save_model(model, folder / FILE, compress_to_fp16=False)
        compile_ = f"model = openvino.compile_model(folder + '/{FILE}', 'CPU', {_EXACT})"
        note = "Without INFERENCE_PRECISION_HINT a processor that has bfloat16 computes in it."
        return Written(f"import openvino\n{compile_}\n", notes=[note])
