"""ONNX, checked in ONNX Runtime; in 8 bits on request."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.base import Check, Format, Job, Written
from pipeline.lowrank.exports.calls import Call
from pipeline.lowrank.exports.fresh import run
from pipeline.lowrank.exports.graph import Graphable, traced
from pipeline.lowrank.exports.quiet import quiet

FILE = "model.onnx"
_LARGE = 1_500_000_000  # bytes of weights beside the graph: a file of ONNX holds two gigabytes


class ToOnnx(Format):
    name = "onnx"
    extra = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    runtime = ("onnxruntime",)
    is_graph = True
    int8 = "static"
    form = "plain"  # graphs fold and fuse whole factors; pivots gather, which is slower and larger
    loses = "Training, and all but tensors: what a network keeps between calls (a cache) stays out."

    def write(self, job: Job, folder: Path) -> Written:
        names = write_onnx(job, folder / FILE).names
        usage = f"import onnxruntime\nmodel = onnxruntime.InferenceSession(folder + '/{FILE}')\n"
        if not job.options.int8:
            return Written(usage)
        with quiet():
            _quantize(folder / FILE, names, job.calibration)
        session = importlib.import_module("onnxruntime").InferenceSession(folder / FILE)
        expected = [run(session, one.given, one.named) for one in job.calls]
        return Written(usage, check=Check("network", usage, job.calls, expected))


def write_onnx(job: Job, file: Path) -> Graphable:
    """Writes the network as a graph of ONNX; returns it as it was traced, whose outputs and names
    of inputs the graph has."""
    if job.options.dtype == "bfloat16":
        raise LowRankError("to=onnx: dtype=bfloat16 runs in few runtimes; choose float16")
    network, program = traced(job)
    with quiet():
        graph: Any = torch.onnx.export(
            program,
            (),
            input_names=list(network.names),
            output_names=list(job.calls[0].of(network)),
            dynamo=True,
            verbose=False,
        )
        _strip(graph.model)
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        graph.save(str(file), external_data=size > _LARGE)
    return network


def _strip(model: Any) -> None:
    """Takes out where in the network's code each node comes from: of a small network that is most
    of the file, and it holds paths of this machine."""
    for node in model.graph.all_nodes():
        for thing in (node, *node.outputs):
            thing.metadata_props.clear()
    model.graph.metadata_props.clear()


def _quantize(file: Path, names: Sequence[str], calibration: Sequence[Call]) -> None:
    """Writes the graph in 8 bits: weights by channel, activations by the ranges that they have in
    the calibration calls."""
    tools: Any = importlib.import_module("onnxruntime.quantization")
    shapes: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    feeds = (
        {k: x.numpy() for k, x in zip(names, c.tensors.values(), strict=True)} for c in calibration
    )

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    ready = file.with_name("ready.onnx")
    shapes.quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)
    tools.quantize_static(
        str(ready),
        str(file),
        Reader(),
        quant_format=tools.QuantFormat.QDQ,
        per_channel=True,
    )
    ready.unlink()
