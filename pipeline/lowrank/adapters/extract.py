"""A fine-tuned network as a low-rank adapter on its base, in the format of `peft`.

Of all B·A of rank r the one nearest to ΔW = W' − W = UΣVᵀ is B = U_r√Σ_r, A = √Σ_rV_rᵀ: the
error is σ_{r+1} in the spectral norm and √Σ_{i>r}σᵢ² in the Frobenius norm (Eckart & Young
1936; Theorem 7 of the course module, docs/theorems.md, writes σ_{r+1} for the latter, which holds
only if one value is left).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.lowrank.analysis.spectra import Spectra, analyze_weight, truncated_svd
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods import SVD, with_matrices
from pipeline.lowrank.network.costs import Totals
from pipeline.lowrank.network.kinds import kind_of
from pipeline.lowrank.network.linalg import balance
from pipeline.lowrank.network.targets import Target, groups_of
from pipeline.lowrank.planning.offers import make_offer
from pipeline.lowrank.planning.policies import Choice, Offer, Policy

Weights = nn.Module | Mapping[str, Tensor]


@dataclass(frozen=True)
class AdaptedLayer:
    """left (out, rank) · right (rank, in, *kernel) ≈ ΔW, float64.

    change: ‖ΔW‖/‖W‖.
    relative_error: ‖ΔW − left·right‖/‖ΔW‖.
    dense_params: the number of entries of ΔW.
    why: the policy's reason for the rank.
    transposed: whether the weight is stored (in, out).
    """

    left: Tensor
    right: Tensor
    change: float
    relative_error: float
    dense_params: int
    why: str
    transposed: bool

    @property
    def rank(self) -> int:
        """The rank of the adapter."""
        return self.left.shape[1]

    @property
    def params(self) -> int:
        """The number of parameters of the two factors."""
        return self.left.numel() + self.right.numel()


@dataclass(frozen=True)
class Extraction:
    """An extracted adapter.

    layers: {name: its factors}.
    left_out: {any other tensor that fine-tuning changed: why it is not in the adapter}. Loaded on
        the base, the adapter leaves these tensors as they were.
    """

    layers: Mapping[str, AdaptedLayer]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class _Change:
    """ΔW (out, in, *kernel) of one layer, its spectrum as the matrix out × (in·taps), and
    ‖W‖²."""

    delta: Tensor
    spectra: Spectra
    base_squared_norm: float
    transposed: bool

    def option(self, name: str) -> Offer:
        rows, columns = self.delta.flatten(1).shape
        target = Target(name, "linear", (rows, columns), False, in_positions=1, out_positions=1)
        methods = with_matrices([SVD()])
        return make_offer(target, {}, self.spectra, list(methods), methods)

    def adapted(self, option: Offer, choice: Choice) -> AdaptedLayer:
        matrix = self.delta.flatten(1)
        # No rank below break-even was wanted: an adapter then has to be of full rank.
        (rank,) = choice.candidate.ranks or (min(matrix.shape),)
        right, left = balance(*truncated_svd(matrix, self.spectra, rank))
        return AdaptedLayer(
            left=left,
            right=right.reshape(rank, *self.delta.shape[1:]),
            change=math.sqrt(self.spectra.squared_norm / self.base_squared_norm)
            if self.base_squared_norm > 0
            else math.inf,
            relative_error=math.sqrt(option.relative_squared(choice.candidate)),
            dense_params=matrix.numel(),
            why=choice.why,
            transposed=self.transposed,
        )


def extract_adapter(
    base: Weights,
    tuned: Weights,
    policy: Policy,
    *,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> Extraction:
    """The low-rank adapter that turns `base` into `tuned`; changes nothing.

    base, tuned: modules of one architecture, or their state dicts. In a state dict every `….weight`
        of two to five dimensions is taken for a Linear's or a convolution's: `exclude` embeddings,
        and give the module where it has transformers' Conv1D, whose weight is stored (in, out).
    policy: chooses each layer's rank among all r that cost less than ΔW itself, r·(out + in·taps)
        parameters at the error of the truncated SVD, and full rank.
    include, exclude: shell-style patterns on layer names.

    Raises LowRankError when the two networks do not fit each other, hold NaN or Inf, or have no
    change that can be adapted.
    """
    before, after = _state(base), _state(tuned)
    _check_fit(before, after)
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    if not changed:
        raise LowRankError("base and tuned have the same weights: there is nothing to extract")
    layers = _layers(base)
    changes, left_out = {}, {}
    for key in changed:
        name = key.rpartition(".")[0]
        if reason := _obstacle(key, layers, include, exclude):
            left_out[key] = reason
        else:
            changes[name] = _change(before[key], after[key], transposed=layers[name])
    if not changes:
        why = "; ".join(f"{key}: {reason}" for key, reason in list(left_out.items())[:5])
        raise LowRankError(f"no changed layer can be adapted ({why})")
    options = {name: change.option(name) for name, change in changes.items()}
    total = sum(option.target.params for option in options.values())
    selection = policy.select(options, Totals(total, macs=total, bytes=4 * total))
    adapted = {
        name: change.adapted(options[name], selection.choices[name])
        for name, change in changes.items()
    }
    return Extraction(adapted, left_out)


def save_adapter(
    folder: Path, extraction: Extraction, base: str | None = None, task_type: str | None = None
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors (float32), which `peft` reads:
    peft.PeftModel.from_pretrained(network, folder).

    base: name or path of the base network.
    task_type: one of peft's, such as "CAUSAL_LM".

    Every layer has its own rank, and alpha = rank, which is a scaling of 1. Raises LowRankError for
    a network that is one single layer.
    """
    if "" in extraction.layers:
        raise LowRankError("the network is one single layer: peft adapts layers inside a module")
    tensors = {}
    for name, layer in extraction.layers.items():
        kernel = [1] * (layer.right.dim() - 2)
        left = layer.left.reshape(*layer.left.shape, *kernel)
        for letter, factor in (("A", layer.right), ("B", left)):
            tensors[f"base_model.model.{name}.lora_{letter}.weight"] = factor.float().contiguous()
    # Patterns of peft are regular expressions; anchored ones hit no other layer's tail.
    ranks = {f"^{re.escape(name)}": layer.rank for name, layer in extraction.layers.items()}
    largest = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": all(layer.transposed for layer in extraction.layers.values()),
        "target_modules": "|".join(re.escape(name) for name in extraction.layers),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _state(weights: Weights) -> Mapping[str, Tensor]:
    return weights.state_dict() if isinstance(weights, nn.Module) else weights


def _layers(weights: Weights) -> dict[str, bool]:
    """{layer that peft can adapt: whether its weight is stored (in, out)}."""
    if not isinstance(weights, nn.Module):
        return {k.rpartition(".")[0]: False for k, v in weights.items() if 2 <= v.dim() <= 5}
    return {
        # A linear layer that is no nn.Linear is transformers' Conv1D, stored (in, out).
        name: kind_of(module) == "linear" and not isinstance(module, nn.Linear)
        for name, module in weights.named_modules()
        if kind_of(module) in ("linear", "conv1d", "conv2d", "conv3d") and groups_of(module) == 1
    }


def _obstacle(
    key: str, layers: Mapping[str, bool], include: Sequence[str], exclude: Sequence[str]
) -> str | None:
    """Why the change of this tensor does not go into the adapter, or None."""
    name, _, last = key.rpartition(".")
    if last != "weight" or name not in layers:
        return "no weight of a Linear or an ungrouped convolution"
    if any(fnmatchcase(name, pattern) for pattern in exclude):
        return "excluded"
    if not any(fnmatchcase(name, pattern) for pattern in include):
        return "not included"
    return None


def _change(before: Tensor, after: Tensor, *, transposed: bool) -> _Change:
    exact = before.to(torch.float64)
    delta = after.to(torch.float64) - exact
    delta = delta.T if transposed else delta
    return _Change(delta, analyze_weight(delta.flatten(1)), float(exact.square().sum()), transposed)


def _check_fit(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    if different := sorted(before.keys() ^ after.keys()):
        raise LowRankError(
            f"base and tuned are not of one architecture: only one of them has "
            f"{', '.join(different[:5])}{' …' if len(different) > 5 else ''}"
        )
    for key, value in before.items():
        if value.shape != after[key].shape:
            raise LowRankError(
                f"{key} has shape {tuple(value.shape)} in base and {tuple(after[key].shape)} in "
                "tuned: an adapter needs two networks of one architecture"
            )
        for which, tensor in (("base", value), ("tuned", after[key])):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise LowRankError(f"{key} of {which} holds NaN or Inf; this checkpoint is damaged")
