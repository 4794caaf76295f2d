"""What can be known to fail before any stage runs: devices that are not here, decisions that no
method can take, a network that is not built, weights that are none, names that no layer has, and a
budget below what any factorization of the network needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from pipeline.config.from_model import TRANSFORMER
from pipeline.evaluation.options import EvaluateOptions
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports import check_installed, get_format
from pipeline.lowrank.factorize.deciding import check_decidable
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.weights import read_state
from pipeline.lowrank.methods.options import MethodsOptions
from pipeline.lowrank.network.by_hand import stack_candidates
from pipeline.lowrank.network.finding import find_targets
from pipeline.lowrank.network.opening import opened
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.planning.options import RankSelectOptions
from pipeline.lowrank.planning.policies import Fixed
from pipeline.lowrank.planning.policies.fixed import check_patterns
from pipeline.lowrank.typed import options_from
from pipeline.machine.devices import FabricOptions, check_devices
from pipeline.machine.executors import ExecutorOptions, check_executor
from pipeline.machine.number_formats import check_bfloat16

# Methods that leave channels out, and with them numbers of layers beside their own.
_NARROWING = {"interpolative"}


def check_runnable(params: Mapping[str, Any]) -> None:
    """Raises LowRankError, one line, for a configuration that cannot run to its end here.

    params: the sections of the configuration as plain values.
    """
    check_devices(options_from(FabricOptions, params["fabric"], "fabric"))
    executor = options_from(ExecutorOptions, params["executor"], "executor")
    check_executor(executor, params["fabric"]["accelerator"])
    check_bfloat16({name: params[name] for name in ("fabric", "analyze", "refit")})
    check_decision(params["rank_select"], params["methods"], params["seed"])
    check_exports(params["evaluate"], params["model"])
    check_network(params)


def check_exports(evaluate: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raises LowRankError for a format that needs what is not installed, or another network."""
    for to in options_from(EvaluateOptions, evaluate, "evaluate").export:
        check_installed(get_format(to))
        if to == "huggingface" and model["_target_"] != TRANSFORMER:
            raise LowRankError(
                f"evaluate.export: huggingface is for models of transformers, and "
                f"model._target_={model['_target_']} is none; choose torch, onnx or pt2"
            )


def check_decision(
    rank_select: Mapping[str, Any], methods: Mapping[str, Any], seed: int = 0
) -> None:
    """Raises LowRankError for methods that the policy cannot decide between, and for a file that
    holds no plan."""
    chosen = options_from(RankSelectOptions, rank_select, "rank_select")
    if chosen.plan is not None:
        load_plan(chosen.plan)
        return
    competing = options_from(MethodsOptions, methods, "methods").competing(seed)
    check_decidable(chosen.to_policy(), competing)


def check_network(params: Mapping[str, Any]) -> None:
    """Raises LowRankError, one line, for a network that this configuration can't have.

    A network that brings its weights with it is not built twice: its stage says what is wrong.
    """
    spec, baseline = params["model"], params["baseline"]
    if baseline["weights"] is not None:
        read_state(Path(baseline["weights"]))
    if baseline["source"] == "pretrained" or spec["_target_"] == TRANSFORMER:
        return
    model = build_model(spec)
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        return  # shapes that the data decides
    check_names(model, params["analyze"], params["rank_select"])
    check_budget(model, params["rank_select"], params["methods"]["names"])


def check_names(
    model: nn.Module, analyze: Mapping[str, Any], rank_select: Mapping[str, Any]
) -> None:
    """Raises LowRankError for a pattern on names that matches no layer of the model, and where the
    patterns leave no layer to factorize."""
    chosen = options_from(RankSelectOptions, rank_select, "rank_select")
    with opened(model):
        stacks = stack_candidates(model)
        layers, _ = find_targets(model, analyze["include"], analyze["exclude"], stacks)
    check_patterns("rank_select.overrides", chosen.overrides or {}, layers)
    policy = None if chosen.plan is not None else chosen.to_policy()
    if isinstance(policy, Fixed) and isinstance(policy.ranks, Mapping):
        check_patterns("rank_select.ranks", policy.ranks, layers)


def check_budget(
    model: nn.Module, rank_select: Mapping[str, Any], methods: Sequence[str] = ()
) -> None:
    """Raises LowRankError for a budget of parameters, or of their bytes, that even rank 1 in every
    weight misses; where methods leave channels out, a single channel, too."""
    unit = rank_select.get("cost_unit")
    words = {"params": "parameters", "bytes": "bytes"}
    if (rank_select.get("policy"), rank_select.get("scope")) != ("budget", "network"):
        return
    if unit not in words:
        return
    narrowing = bool(_NARROWING & set(methods))
    total, least, budget = 0, 0, rank_select["budget"]
    for parameter in model.parameters():
        size = 1 if unit == "params" else parameter.element_size()
        total += size * parameter.numel()
        shape = tuple(parameter.shape)
        least += size * _least(_narrowest(shape) if narrowing else shape)
    if least > budget * total:
        share = math.ceil(1000 * least / total) / 1000
        rank = "one channel and rank 1" if narrowing else "rank 1"
        raise LowRankError(
            f"a budget of {budget:g} of the {unit} cannot be met: with {rank} in every weight "
            f"there are {least:,} of {total:,} {words[unit]} left at least; choose at least "
            f"{share:g}"
        )


def _narrowest(shape: tuple[int, ...]) -> tuple[int, ...]:
    """What is left of a shape of which any two sides may be channels, a single one each: the taps
    of a kernel; of three sides the smallest, since a stack of matrices has its groups first."""
    return shape[2:] if len(shape) > 3 else tuple(sorted(shape)[:-2])


def _least(shape: tuple[int, ...]) -> int:
    """The fewest numbers that any factorization of a weight of this shape has: those that a product
    of a vector a dimension is free to choose; of a vector itself, all."""
    sizes = [size for size in shape if size > 1]
    return sum(sizes) - len(sizes) + 1 if len(sizes) > 1 else math.prod(shape)
