"""Ways out of this project: networks that load and run anywhere, one file a format."""

from __future__ import annotations

import importlib.util

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.exports.base import Format
from pipeline.lowrank.exports.to_dense import ToDense
from pipeline.lowrank.exports.to_executorch import ToExecutorch
from pipeline.lowrank.exports.to_huggingface import ToHuggingFace
from pipeline.lowrank.exports.to_onnx import ToOnnx
from pipeline.lowrank.exports.to_openvino import ToOpenvino
from pipeline.lowrank.exports.to_pt2 import ToPt2
from pipeline.lowrank.exports.to_torch import ToTorch

# Every format, by its name in `to=`.
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        ToTorch(),
        ToHuggingFace(),
        ToOnnx(),
        ToOpenvino(),
        ToExecutorch(),
        ToPt2(),
        ToDense(),
    )
}


def get_format(name: str) -> Format:
    """The format of this name; LowRankError with the nearest name if there is none."""
    if name in FORMATS:
        return FORMATS[name]
    raise LowRankError(f"to={name}: unknown; {suggest(name, FORMATS)}")


def check_installed(kind: Format) -> None:
    """Raises LowRankError where a package is missing that the format needs."""
    for package in kind.packages:
        if importlib.util.find_spec(package) is None:
            raise LowRankError(
                f"to={kind.name} needs {package}: pip install 'lowrank-pipeline[{kind.extra}]'"
            )


__all__ = ["FORMATS", "Format", "check_installed", "get_format"]
