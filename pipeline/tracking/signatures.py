"""What models of MLflow take and answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from pipeline.lowrank.exports.calls import Call, is_sequence
from pipeline.lowrank.exports.graph import Graphable

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_NEW_TOKENS = 64  # that a served language model answers, where the request does not say


def text_signature(pipeline: str) -> ModelSignature:
    """Strings in; what the pipeline answers for each."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    answers = Schema([ColSpec("string")])
    if pipeline == "text-classification":
        answers = Schema([ColSpec("string", name="label"), ColSpec("double", name="score")])
    if pipeline == "feature-extraction":
        answers = Schema([TensorSpec(numpy.dtype("float64"), (-1,), "double")])
    takes = Schema([ColSpec("string")])
    if pipeline != "text-generation":
        return ModelSignature(takes, answers)
    length = ParamSpec("max_new_tokens", "integer", _NEW_TOKENS)
    return ModelSignature(takes, answers, ParamSchema([length]))


def tensor_signature(graph: Graphable, calls: Sequence[Call]) -> ModelSignature:
    """Tensors in and out, of which batch and length are free; inputs called by keyword have names,
    and so have several outputs."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = []
    outputs: list[ColSpec | TensorSpec] = []
    given = calls[0].tensors
    for name, value in zip(graph.names, given.values(), strict=True):
        shape = (-1, -1) if is_sequence(value) else (-1, *value.shape[1:])
        inputs.append(TensorSpec(value.numpy().dtype, shape, name if calls[0].named else None))
    answers = [call.of(graph) for call in calls]
    several = len(answers[0]) > 1
    for name, value in answers[0].items():
        sizes = zip(*(answer[name].shape for answer in answers), strict=True)
        shape = tuple(one[0] if len(set(one)) == 1 else -1 for one in sizes)
        outputs.append(TensorSpec(value.numpy().dtype, shape, name if several else None))
    return ModelSignature(Schema(inputs), Schema(outputs))
