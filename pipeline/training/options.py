"""Options of everything that trains: the baseline and fine-tuning."""

from __future__ import annotations

from typing import Literal

from pipeline.lowrank.adapters.attach import AdapterOptions
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.typed import knob, options


@options
class TrainingOptions:
    """A training under a one-cycle schedule: what baseline and fine-tuning share."""

    epochs: int = knob(ge=1, help="passes over the training split")
    batch_size: int = knob(64, ge=1, help="training examples a step, of all devices together")
    learning_rate: float = knob(0.1, gt=0, help="the peak of the one-cycle schedule")
    momentum: float = knob(0.9, ge=0, lt=1, help="sgd: Nesterov; adamw: beta 1")
    weight_decay: float = knob(
        5e-4, ge=0, help="decay of matrices and kernels; vectors are not decayed"
    )
    label_smoothing: float = knob(
        0.0, ge=0, lt=1, help="smoothing of the labels in the cross-entropy"
    )
    augment: Literal["none", "flip", "crop", "crop_flip"] = knob(
        "none", help="how training images vary"
    )
    optimizer: Literal["sgd", "adamw", "muon"] = knob(
        "sgd", help="sgd (Nesterov), adamw, or muon (biases and norms: adamw)"
    )
    minutes: float | None = knob(
        None, gt=0, help="at most so many, the schedule then ends with the time; null: no limit"
    )

    def steps_per_epoch(self, examples: int) -> int:
        """The remainder of an epoch is dropped (shuffling gives it to others the next time), so
        that all batches, and all devices' shares of them, are of one size."""
        return examples // min(self.batch_size, examples)


@options
class BaselineOptions(TrainingOptions):
    """The dense network that everything is compared with."""

    source: Literal["train", "checkpoint", "pretrained"] = knob(help="where its weights are from")
    weights: str | None = knob(None, help="checkpoint: a .safetensors file, or a state dict in .pt")
    sha256: str | None = knob(
        None, help="checksum of the weights; filled in by python -m pipeline; dvc repro needs it"
    )
    model_sha256: str | None = knob(
        None, help="checksum of the network's class, when it is your own; filled in"
    )
    snapshots: int = knob(
        0,
        ge=0,
        help="weight matrices kept at so many moments of training, for their spectra",
    )

    expected: float | None = knob(
        None,
        help="what its owner measured (accuracy 0.92, say): a network of yours that is far from it "
        "on the validation split stops the run",
    )
    tolerance: float = knob(
        0.05, gt=0, help="how far; above an expected 1 it is a fraction of the expected"
    )

    def __post_init__(self) -> None:
        if self.expected is not None and self.source == "train":
            raise LowRankError(
                f"expected={self.expected:g}: not used with source=train; set it to null"
            )
        for key in ("weights", "sha256"):
            if self.source != "checkpoint" and getattr(self, key) is not None:
                raise LowRankError(
                    f"{key}={getattr(self, key)}: not used with source={self.source}; set it to "
                    "null, or choose baseline=checkpoint"
                )


@options
class FineTuneOptions(TrainingOptions):
    """Fine-tuning of the compressed network."""

    epochs: int = knob(8, ge=1, help="passes over the training split")
    learning_rate: float = knob(0.01, gt=0, help="the peak of the one-cycle schedule")
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
        ("*",), min_length=1, help="adapters: names of compressed layers; [*] means all"
    )
    adapter_others: tuple[Literal["vectors", "dense"], ...] = knob(
        ("vectors",),
        help="factors, adapters: what else is trained: vectors (biases, norms), dense layers",
    )
    descent_points: int = knob(
        5, ge=0, help="measurements of the descent theorem in a run: 0 is off, else at least 2"
    )

    def __post_init__(self) -> None:
        if self.descent_points == 1:
            raise LowRankError("descent_points=1: choose 0 (off) or at least 2")

    @property
    def adapters(self) -> AdapterOptions:
        """The adapters' options among these."""
        return AdapterOptions(
            rank=self.adapter_rank,
            alpha=self.adapter_alpha,
            init=self.adapter_init,
            targets=self.adapter_targets,
            others=self.adapter_others,
        )
