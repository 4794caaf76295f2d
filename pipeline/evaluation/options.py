"""Options of the evaluation."""

from __future__ import annotations

from typing import Literal

from pipeline.lowrank.typed import knob, options

ExportName = Literal["torch", "huggingface", "onnx", "openvino", "executorch", "pt2", "dense"]


@options
class EvaluateOptions:
    """Quality on the test split; latency as the median of interleaved repetitions; exports."""

    batch_size: int = knob(1000, ge=1, help="test examples a batch")
    latency_batch_size: int = knob(32, ge=1, help="examples of the timed call")
    latency_repetitions: int = knob(50, ge=1, help="timed calls of each network")
    latency_warmup: int = knob(5, ge=0, help="calls before, untimed")
    export: tuple[ExportName, ...] = knob(
        (), help="formats in which the last network is exported too, to out/exports"
    )
