"""Sections whose options move to the rooms that read them: data, fabric, training, evaluation."""

from __future__ import annotations

from typing import Literal

from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import knob, options

Augmentation = Literal["none", "flip", "crop", "crop_flip"]
Optimizer = Literal["sgd", "adamw", "muon"]


@options
class FabricOptions:
    """Devices, threads and the number format."""

    accelerator: str = knob("cpu", help="cpu, cuda, mps, …, or auto: the best of this machine")
    devices: int = knob(1, ge=1, help="how many of them")
    num_nodes: int = knob(1, ge=1, help="machines")
    strategy: str = knob("auto", help="how several devices share the work (ddp, …)")
    precision: Literal[
        "32-true",
        "64-true",
        "16-true",
        "bf16-true",
        "16-mixed",
        "bf16-mixed",
        "transformer-engine",
        "transformer-engine-float16",
    ] = knob("32-true", help="of training and repair")
    threads: int | None = knob(
        2,
        ge=1,
        le=1024,
        help="CPU threads a process; part of the configuration, because it changes the bits; null "
        "leaves it to torch",
    )


@options
class TextOptions:
    """Options of data=text."""

    task: Literal["causal_lm", "sequence_classification", "encoder"] = knob(help="the task")
    tokenizer: str = knob(help="the network whose tokenizer is used")
    tokenizer_sha256: str | None = knob(None, help="of the tokenizer's files; filled in")
    sequence_length: int = knob(512, ge=1, help="tokens an example has, or is cut off after")
    text_column: str = knob("text", help="of .jsonl, .parquet and datasets")
    label_column: str | None = knob(None, help="sequence_classification: the column of the classes")
    generated: int = knob(
        0,
        ge=0,
        help="causal_lm: sequences that the network itself writes, added to calibration's",
    )
    ood_path: str | None = knob(
        None,
        help="a second text, from another domain: evaluated beside the first, never seen before",
    )
    ood_sha256: str | None = knob(None, help="of the second text; filled in")
    ood: int = knob(16, ge=1, help="sequences of the second text")


@options
class DataOptions:
    """Which examples there are, and how they are split."""

    name: Literal["digits", "fashion_mnist", "tensors", "text"] = knob(help="the source")
    path: str | None = knob(None, help="where the examples lie, for sources that are files")
    sha256: str | None = knob(
        None, help="of what lies there; filled in by python -m pipeline; required for dvc repro"
    )
    train: int | None = knob(
        None, ge=1, help="cap on training examples; null: all that the other splits leave"
    )
    calibration: int = knob(180, ge=1, help="examples held out for statistics")
    validation: int = knob(180, ge=1, help="examples held out for choosing the best state")
    test: int = knob(
        360, ge=1, help="examples to evaluate on; a source's own test split is used whole"
    )
    text: TextOptions | None = knob(None, help="options of data=text")


@options
class TrainingOptions:
    """What baseline and fine-tune share."""

    epochs: int = knob(ge=1, help="passes over the training split")
    batch_size: int = knob(64, ge=1, help="training examples a step")
    learning_rate: float = knob(0.1, gt=0, help="the largest of the one-cycle schedule")
    momentum: float = knob(0.9, ge=0, lt=1, help="sgd: Nesterov; adamw: beta 1")
    weight_decay: float = knob(5e-4, ge=0, help="of all parameters")
    label_smoothing: float = knob(0.0, ge=0, lt=1, help="of the labels' cross-entropy")
    augment: Augmentation = knob("none", help="how training images vary")
    optimizer: Optimizer = knob(
        "sgd", help="sgd (Nesterov), adamw, or muon (biases and norms: adamw)"
    )
    minutes: float | None = knob(None, gt=0, help="at most so many; null: no limit")


@options
class BaselineOptions(TrainingOptions):
    """The dense network that everything is compared with."""

    source: Literal["train", "checkpoint", "pretrained"] = knob(help="where its weights are from")
    weights: str | None = knob(None, help="checkpoint: a .safetensors file, or a state dict in .pt")
    sha256: str | None = knob(
        None, help="of the weights; filled in by python -m pipeline; required for dvc repro"
    )
    model_sha256: str | None = knob(
        None, help="of the source of model._target_, when it is your own; filled in"
    )
    snapshots: int = knob(
        0,
        ge=0,
        help="weight matrices kept at so many moments of training, for their spectra",
    )


@options
class FineTuneOptions(TrainingOptions):
    """The repair of the compressed network."""

    epochs: int = knob(8, ge=1, help="passes over the training split")
    learning_rate: float = knob(0.01, gt=0, help="the largest of the one-cycle schedule")
    parameters: Literal["all", "factors", "adapters", "none"] = knob(help="what is trained")
    objective: Literal["labels", "distill"] = knob(
        "labels", help="learn the labels, or the dense network's answers too"
    )
    temperature: float = knob(2.0, gt=0, help="distill: softens both networks' answers")
    distill_weight: float = knob(
        0.5, ge=0, le=1, help="distill: weight of the dense network against the labels"
    )
    states_weight: float = knob(
        0.0,
        ge=0,
        help="distill: weight of the states after each block, their squared error relative to the "
        "dense network's; 0 is off",
    )
    adapter_rank: int = knob(4, ge=1, help="adapters: rank of each")
    adapter_alpha: float = knob(4.0, gt=0, help="adapters: alpha / rank scales them")
    adapter_init: Literal["zeros", "svd"] = knob(
        "svd", help="adapters: start from zeros, or from the leading singular directions"
    )
    adapter_targets: tuple[str, ...] = knob(
        ("*",), min_length=1, help="adapters: names of factorized layers"
    )
    adapter_others: tuple[Literal["vectors", "dense"], ...] = knob(
        ("vectors",),
        help="factors, adapters: what else is trained, of vectors (biases, norms) and dense layers",
    )
    descent_points: int = knob(
        5, ge=0, help="measurements of the descent theorem in a run: 0 is off, else at least 2"
    )

    def __post_init__(self) -> None:
        if self.descent_points == 1:
            raise LowRankError("descent_points=1: choose 0 (off) or at least 2")


@options
class EvaluateOptions:
    """Quality on the test split; latency as the median of interleaved repetitions."""

    batch_size: int = knob(1000, ge=1, help="test examples a batch")
    latency_batch_size: int = knob(32, ge=1, help="examples of the timed call")
    latency_repetitions: int = knob(50, ge=1, help="timed calls of each network")
    latency_warmup: int = knob(5, ge=0, help="calls before, untimed")


@options
class AnalyzeOptions(AnalysisOptions):
    """How errors are measured, on what data, and which layers may be factorized."""

    holdout: float = knob(
        default=0.25,
        ge=0,
        lt=1,
        help="fraction of the calibration data that only the contest of plans sees",
    )
