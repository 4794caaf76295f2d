"""python -m pipeline.export WORKSPACE to=FORMAT[,FORMAT…] out=DIR [KEY=VALUE …]

Writes a network of a run (or of a folder of lr.save) to DIR so that it loads and runs without this
project, opens it there in a process of its own, and compares what it computes. FORMAT is torch,
huggingface, onnx, openvino, executorch, pt2 or dense; keys: form, dtype, network, aoti, dynamic,
normalise, tolerance, shard.
"""

from __future__ import annotations

from pipeline.config.commands import run_command
from pipeline.config.exporting import run_export

if __name__ == "__main__":
    run_command(__doc__, run_export)
