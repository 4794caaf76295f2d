"""Ranges and names of the configuration, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pipeline.lowrank.analysis.metrics import METRICS
from pipeline.lowrank.errors import LowRankError, suggest
from pipeline.lowrank.methods import get_method, make_method
from pipeline.lowrank.planning.overrides import make_overrides
from pipeline.lowrank.planning.policies import POLICIES, make_policy

CHOICES: dict[str, tuple[str, ...]] = {
    "data.name": ("digits", "fashion_mnist", "tensors", "text"),
    "baseline.source": ("train", "checkpoint", "pretrained"),
    "baseline.augment": ("none", "flip", "crop", "crop_flip"),
    "analyze.metric": METRICS,
    "fine_tune.parameters": ("all", "factors", "adapters", "none"),
    "baseline.optimizer": ("sgd", "adamw", "muon"),
    "fine_tune.optimizer": ("sgd", "adamw", "muon"),
    "fine_tune.objective": ("labels", "distill"),
    "fine_tune.adapter_init": ("zeros", "svd"),
    "fine_tune.augment": ("none", "flip", "crop", "crop_flip"),
}

_POSITIVE = (lambda v: v > 0, "choose a number above 0")
_COUNT = (lambda v: v >= 1, "choose at least 1")
_NOT_NEGATIVE = (lambda v: v >= 0, "choose a number of at least 0")
_FRACTION = (lambda v: 0 <= v < 1, "choose a number in [0, 1)")
_TRAINING = {
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": _POSITIVE,
    "momentum": _FRACTION,
    "weight_decay": _NOT_NEGATIVE,
    "label_smoothing": _FRACTION,
    "minutes": _POSITIVE,
}
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fabric.devices": _COUNT,
    "fabric.num_nodes": _COUNT,
    "fabric.threads": _COUNT,
    "data.train": _COUNT,
    "data.calibration": _COUNT,
    "data.validation": _COUNT,
    "data.test": _COUNT,
    "data.text.sequence_length": _COUNT,
    "data.text.generated": _NOT_NEGATIVE,
    "data.text.ood": _COUNT,
    **{f"baseline.{key}": rule for key, rule in _TRAINING.items()},
    "baseline.snapshots": _NOT_NEGATIVE,
    **{f"fine_tune.{key}": rule for key, rule in _TRAINING.items()},
    "analyze.damping": _POSITIVE,
    "analyze.holdout": _FRACTION,
    "analyze.batch_size": _COUNT,
    "analyze.gradient_share": (lambda v: 0 < v <= 1, "choose a number in (0, 1]"),
    "analyze.memory_gib": _POSITIVE,
    "rank_select.contest_examples": _NOT_NEGATIVE,
    "fine_tune.temperature": _POSITIVE,
    "fine_tune.distill_weight": (lambda v: 0 <= v <= 1, "choose a number in [0, 1]"),
    "fine_tune.states_weight": _NOT_NEGATIVE,
    "fine_tune.adapter_rank": _COUNT,
    "fine_tune.adapter_alpha": _POSITIVE,
    "fine_tune.adapter_targets": (lambda v: len(v) > 0, '["*"] means all factorized layers'),
    "fine_tune.adapter_others": (
        lambda v: {*v} <= {"vectors", "dense"},
        "choose among vectors, dense",
    ),
    "fine_tune.descent_points": (lambda v: v == 0 or v >= 2, "choose 0 (off) or at least 2"),
    "decompose.hooi_iterations": _NOT_NEGATIVE,
    "decompose.hooi_tolerance": _NOT_NEGATIVE,
    "decompose.cp_iterations": _COUNT,
    "decompose.cp_tolerance": _NOT_NEGATIVE,
    "decompose.cp_penalty": _NOT_NEGATIVE,
    "decompose.cp_slack": _NOT_NEGATIVE,
    "decompose.cp_restarts": _NOT_NEGATIVE,
    "decompose.cp_rank_grid": _COUNT,
    "refit.share": (lambda v: 0 <= v <= 1, "choose a number in [0, 1]; 0 is off"),
    "refit.examples": _COUNT,
    "refit.batch_size": _COUNT,
    "refit.held_out": _COUNT,
    "certify.examples": _COUNT,
    "certify.batch_size": _COUNT,
    "evaluate.batch_size": _COUNT,
    "evaluate.latency_batch_size": _COUNT,
    "evaluate.latency_repetitions": _COUNT,
    "evaluate.latency_warmup": _NOT_NEGATIVE,
}


def validate(params: Mapping[str, Any]) -> None:
    """Raises LowRankError naming key, value and remedy; `params` has the schema's sections."""
    for key, known in CHOICES.items():
        value = value_at(params, key)
        if value not in known:
            raise LowRankError(f"{key}={value}: unknown; {suggest(value, known)}")
    for key, (holds, remedy) in RANGES.items():
        value = value_at(params, key)
        if value is not None and not holds(value):
            raise LowRankError(f"{key}={value}: {remedy}")
    rank_select = params["rank_select"]
    for policy in dict.fromkeys([rank_select["policy"], *POLICIES]):
        # Also the options of policies that are not chosen: a typo in one is never meant.
        if policy != "file":
            _in_section("rank_select", partial(make_policy, policy, rank_select))
    method_of = partial(make_method, options={})
    _in_section("rank_select", lambda: make_overrides(rank_select["overrides"], method_of))
    names = params["decompose"]["methods"]
    _in_section("decompose.methods", lambda: [get_method(name) for name in names])
    if not params["analyze"]["include"]:
        raise LowRankError('analyze.include=[]: nothing would be factorized; ["*"] means all')


def _in_section(section: str, check: Callable[[], object]) -> None:
    try:
        check()
    except LowRankError as error:
        raise LowRankError(f"{section}: {error}") from error


def value_at(params: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where a section on the way is null."""
    value: Any = params
    for name in key.split("."):
        value = None if value is None else value[name]
    return value
