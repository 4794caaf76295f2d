"""What networks predict: losses, divergences and measures of quality, one file a task.

A new task is a class that keeps the contract of `base.Task`, in a file of its own, and a row of
TASKS; tests/lowrank/tasks/test_task_contract.py says what it has to fulfil.
"""

from __future__ import annotations

from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.tasks.base import Given, Task
from pipeline.lowrank.tasks.causal_lm import CausalLM
from pipeline.lowrank.tasks.classification import Classification
from pipeline.lowrank.tasks.custom import Custom
from pipeline.lowrank.tasks.encoder import Encoder
from pipeline.lowrank.tasks.multilabel import Multilabel
from pipeline.lowrank.tasks.reconstruction import Reconstruction
from pipeline.lowrank.tasks.regression import Regression
from pipeline.lowrank.tasks.segmentation import Segmentation
from pipeline.lowrank.tasks.sequence_classification import SequenceClassification
from pipeline.lowrank.tasks.tokens import MaskedLM, Seq2Seq, TokenClassification

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        Multilabel(),
        Segmentation(),
        Regression(),
        Reconstruction(),
        CausalLM(),
        MaskedLM(),
        Seq2Seq(),
        SequenceClassification(),
        TokenClassification(),
        Encoder(),
        Custom(),
    )
}

__all__ = [
    "TASKS",
    "CausalLM",
    "Classification",
    "Custom",
    "Encoder",
    "Given",
    "MaskedLM",
    "Multilabel",
    "Reconstruction",
    "Regression",
    "Segmentation",
    "Seq2Seq",
    "SequenceClassification",
    "Task",
    "TokenClassification",
    "get_task",
]


def get_task(name: str) -> Task:
    """The task of that name. Raises LowRankError with the near match where there is none."""
    if name not in TASKS:
        raise LowRankError(f"task {name!r}: unknown; {suggest(name, TASKS)}")
    return TASKS[name]
