"""torch.export's own file: the graph, which needs no code of the network."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.lowrank.exports.base import Format, Job, Written
from pipeline.lowrank.exports.graph import traced
from pipeline.lowrank.exports.quiet import quiet

FILE = "model.pt2"


class ToPt2(Format):
    name = "pt2"
    is_graph = True
    form = "plain"  # as in ONNX
    packages = ("torch",)
    loses = "Training, and all but tensors: what a network keeps between calls (a cache) stays out."

    def write(self, job: Job, folder: Path) -> Written:
        program = traced(job)[1]
        for (
            node
        ) in program.graph.nodes:  # where in the network's code it is: a path of this machine
            node.meta.pop("stack_trace", None)
        with quiet():
            torch.export.save(program, str(folder / FILE))
        return Written(f"import torch\nmodel = torch.export.load(folder + '/{FILE}').module()\n")
