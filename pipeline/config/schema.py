"""The typed configuration: one dataclass a section. Ranges are checked in `validate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class Fabric:
    accelerator: str = MISSING
    devices: int = MISSING
    num_nodes: int = MISSING
    strategy: str = MISSING
    precision: str = MISSING
    threads: int | None = MISSING


@dataclass
class Text:
    task: str = MISSING
    tokenizer: str = MISSING
    tokenizer_sha256: str | None = MISSING
    sequence_length: int = MISSING
    text_column: str = MISSING
    label_column: str | None = MISSING
    generated: int = MISSING
    ood_path: str | None = MISSING
    ood_sha256: str | None = MISSING
    ood: int = MISSING


@dataclass
class Data:
    name: str = MISSING
    path: str | None = MISSING
    sha256: str | None = MISSING
    train: int | None = MISSING
    calibration: int = MISSING
    validation: int = MISSING
    test: int = MISSING
    text: Text | None = MISSING


@dataclass
class Training:
    """Options that baseline and fine-tune share."""

    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    label_smoothing: float = MISSING
    augment: str = MISSING
    optimizer: str = MISSING
    minutes: float | None = MISSING


@dataclass
class Baseline(Training):
    source: str = MISSING
    weights: str | None = MISSING
    sha256: str | None = MISSING
    model_sha256: str | None = MISSING
    snapshots: int = MISSING


@dataclass
class Analyze:
    metric: str = MISSING
    damping: float = MISSING
    holdout: float = MISSING
    batch_size: int = MISSING
    gradient_share: float = MISSING
    memory_gib: float = MISSING
    bf16: bool = MISSING
    include: list[str] = MISSING
    exclude: list[str] = MISSING


@dataclass
class Override:
    """Of some layers, by pattern; what is not given is left to the policy."""

    method: str | None = None
    ranks: Any = None
    keep: str | None = None


@dataclass
class RankSelect:
    policy: str = MISSING
    energy: float = MISSING
    relative_error: float = MISSING
    compression_ratio: float = MISSING
    nats: float = MISSING
    ranks: Any = MISSING
    budget: float = MISSING
    cost: str = MISSING
    scope: str = MISSING
    error_scale: str = MISSING
    contest_examples: int = MISSING
    allocation: str = MISSING
    max_relative_error: float | None = MISSING
    overrides: dict[str, Override] | None = MISSING


@dataclass
class Decompose:
    methods: list[str] = MISSING
    hooi_iterations: int = MISSING
    hooi_tolerance: float = MISSING
    cp_iterations: int = MISSING
    cp_tolerance: float = MISSING
    cp_penalty: float = MISSING
    cp_slack: float = MISSING
    cp_restarts: int = MISSING
    cp_rank_grid: int = MISSING


@dataclass
class Refit:
    share: float = MISSING
    examples: int = MISSING
    batch_size: int = MISSING
    held_out: int = MISSING
    bf16: bool = MISSING


@dataclass
class Certify:
    examples: int = MISSING
    batch_size: int = MISSING


@dataclass
class FineTune(Training):
    parameters: str = MISSING
    objective: str = MISSING
    temperature: float = MISSING
    distill_weight: float = MISSING
    states_weight: float = MISSING
    adapter_rank: int = MISSING
    adapter_alpha: float = MISSING
    adapter_init: str = MISSING
    adapter_targets: list[str] = MISSING
    adapter_others: list[str] = MISSING
    descent_points: int = MISSING


@dataclass
class Evaluate:
    batch_size: int = MISSING
    latency_batch_size: int = MISSING
    latency_repetitions: int = MISSING
    latency_warmup: int = MISSING


@dataclass
class Track:
    experiment: str = MISSING
    tracking_uri: str | None = MISSING
    log_model: bool = MISSING
    live: bool = MISSING


@dataclass
class Config:
    """All sections of params.yaml, in the order of the chain. `model` is free: `_target_` and
    the keyword arguments of the user's class."""

    seed: int = MISSING
    fabric: Fabric = field(default_factory=Fabric)
    data: Data = field(default_factory=Data)
    model: dict[str, Any] = MISSING
    baseline: Baseline = field(default_factory=Baseline)
    analyze: Analyze = field(default_factory=Analyze)
    rank_select: RankSelect = field(default_factory=RankSelect)
    decompose: Decompose = field(default_factory=Decompose)
    refit: Refit = field(default_factory=Refit)
    certify: Certify = field(default_factory=Certify)
    fine_tune: FineTune = field(default_factory=FineTune)
    evaluate: Evaluate = field(default_factory=Evaluate)
    track: Track = field(default_factory=Track)


@dataclass
class ExtractLora:
    """The configuration of `python -m pipeline.extract_lora`."""

    base: str = MISSING
    tuned: str = MISSING
    out: str = MISSING
    include: list[str] = MISSING
    exclude: list[str] = MISSING
    rank_select: RankSelect = field(default_factory=RankSelect)
