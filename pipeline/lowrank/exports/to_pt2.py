"""torch.export's own file: the graph, which needs no code of the network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.base import Format, Job, Written
from pipeline.lowrank.exports.graph import traced
from pipeline.lowrank.exports.quiet import quiet

FILE = "model.pt2"


class ToPt2(Format):
    name = "pt2"
    is_graph = True
    form = "plain"  # as in ONNX
    packages = runtime = ("torch",)
    loses = "Training, and all but tensors: what a network keeps between calls (a cache) stays out."

    def write(self, job: Job, folder: Path) -> Written:
        program = traced(job)[1]
        for (
            node
        ) in program.graph.nodes:  # where in the network's code it is: a path of this machine
            node.meta.pop("stack_trace", None)
        if job.options.aoti:
            return _compiled(program, folder)
        with quiet():
            torch.export.save(program, str(folder / FILE))
        return Written(f"import torch\nmodel = torch.export.load(folder + '/{FILE}').module()\n")


def _compiled(program: Any, folder: Path) -> Written:
    """The graph as machine code of this processor, in the place of the graph."""
    try:
        with quiet():
            inductor: Any = importlib.import_module("torch._inductor")
            inductor.aoti_compile_and_package(program, package_path=str(folder / FILE))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise LowRankError(
            f"to=pt2: AOTInductor does not compile the network: {reason}; leave aoti out"
        ) from error
    load = f"model = aoti_load_package(folder + '/{FILE}')"
    usage = f"from torch._inductor import aoti_load_package\n{load}\n"
    return Written(usage, notes=["Compiled for one kind of processor: it may not run on another."])
