"""Conditions that the examples of every source must fulfil before they are split."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.data.sources.raw import RawData
from pipeline.lowrank.errors import LowRankError


def check_examples(raw: RawData) -> None:
    """Raises LowRankError for data that would train to nonsense: NaN or Inf, labels out of range or
    with gaps, unequal lengths or shapes, no examples at all."""
    _check_part(raw, "inputs", raw.inputs, "labels", raw.labels)
    if raw.test_inputs is not None and raw.test_labels is not None:
        _check_part(raw, "test_inputs", raw.test_inputs, "test_labels", raw.test_labels)
    present = torch.bincount(raw.labels, minlength=raw.classes)
    if bool((present == 0).any()):
        missing = int((present == 0).nonzero()[0])
        raise LowRankError(
            f"{raw.source}: no example has label {missing} of 0…{raw.classes - 1}; number the "
            "classes from 0 without gaps"
        )
    if raw.classes < 2:
        raise LowRankError(f"{raw.source}: all labels are 0; a classifier needs two classes")


def _check_part(
    raw: RawData, inputs_name: str, inputs: Tensor, labels_name: str, labels: Tensor
) -> None:
    if len(inputs) != len(labels):
        raise LowRankError(
            f"{raw.source}: {len(inputs)} {inputs_name} but {len(labels)} {labels_name}; give one "
            "label an example"
        )
    if not len(labels):
        raise LowRankError(f"{raw.source}: {labels_name} is empty; give examples")
    if inputs.shape[1:] != raw.inputs.shape[1:]:
        raise LowRankError(
            f"{raw.source}: {inputs_name} have shape {tuple(inputs.shape[1:])}, inputs "
            f"{tuple(raw.inputs.shape[1:])}; both must be of one shape"
        )
    if inputs.is_floating_point():
        finite = torch.isfinite(inputs).flatten(1).all(1)
        if not bool(finite.all()):
            raise LowRankError(
                f"{raw.source}: {inputs_name}[{int((~finite).nonzero()[0])}] holds NaN or Inf; "
                "clean the data or leave the example out"
            )
    outside = (labels < 0) | (labels >= raw.classes)
    if bool(outside.any()):
        index = int(outside.nonzero()[0])
        raise LowRankError(
            f"{raw.source}: {labels_name}[{index}] is {int(labels[index])}, out of range "
            f"0…{max(raw.classes, 1) - 1}; number the classes from 0 without gaps"
        )
