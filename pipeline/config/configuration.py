"""The whole configuration, typed: its sections are those of params.yaml."""

from __future__ import annotations

from typing import Any, Literal

from pipeline.config.together import check_together
from pipeline.data.options import DataOptions
from pipeline.evaluation.options import EvaluateOptions
from pipeline.lowrank.analysis.options import AnalysisOptions
from pipeline.lowrank.bounds.options import CertifyOptions
from pipeline.lowrank.exports.base import ExportOptions
from pipeline.lowrank.factorize.options import RefitOptions
from pipeline.lowrank.methods.options import MethodsOptions
from pipeline.lowrank.planning.options import RankSelectOptions
from pipeline.lowrank.tasks.options import TaskOptions
from pipeline.lowrank.typed import knob, options
from pipeline.machine.devices import FabricOptions
from pipeline.machine.executors import ExecutorOptions
from pipeline.tracking.options import TrackOptions
from pipeline.training.options import BaselineOptions, FineTuneOptions


@options
class Configuration:
    """All sections of params.yaml, in the order of the chain. `model` is free: `_target_` and
    the keyword arguments of the user's class."""

    seed: int = knob(0, ge=0, le=2**32 - 1, help="the seed of everything that is drawn at random")
    fabric: FabricOptions = knob(help="devices, threads and the number format")
    executor: ExecutorOptions = knob(help="who computes spectra and factors; changes no result")
    task: TaskOptions = knob(help="what the network predicts")
    data: DataOptions = knob(help="which examples there are, and how they are split")
    model: dict[str, Any] = knob(help="the network: the import path of its class, and arguments")
    baseline: BaselineOptions = knob(help="the dense network: trained here, or yours")
    analyze: AnalysisOptions = knob(help="the norm of errors, and the layers to factorize")
    rank_select: RankSelectOptions = knob(help="the rule that chooses ranks, and its budget")
    methods: MethodsOptions = knob(help="the factorizations that compete")
    refit: RefitOptions = knob(
        help="layers take up earlier errors, in closed form, before fine-tuning"
    )
    certify: CertifyOptions = knob(help="the certificate of the network's error")
    fine_tune: FineTuneOptions = knob(help="training of the compressed network")
    evaluate: EvaluateOptions = knob(help="quality and latency")
    track: TrackOptions = knob(help="MLflow")

    def __post_init__(self) -> None:
        check_together(self)


@options
class ExtractLora:
    """The configuration of `python -m pipeline.extract_lora`."""

    base: str = knob(help="the network that the adapter is for")
    tuned: str = knob(help="the network that it becomes with the adapter")
    out: str = knob(help="the folder to write")
    allow: tuple[str, ...] = knob(
        (), help="whose code a network folder may name as its class: packages, modules, or paths"
    )
    include: tuple[str, ...] = knob(("*",), help="patterns: layers that may be adapted")
    exclude: tuple[str, ...] = knob((), help="patterns too; exclude wins over include")
    rank_select: RankSelectOptions = knob(help="the rule that chooses ranks")


@options
class ExportNetwork(ExportOptions):
    """The configuration of `python -m pipeline.export`."""

    workspace: str = knob(help="the folder of a run, or of one saved network", kw_only=True)
    to: tuple[str, ...] = knob(help="the formats", kw_only=True, min_length=1)
    out: str = knob(
        help="the folder to write; with several formats, one folder in it for each", kw_only=True
    )
    network: Literal["baseline", "compressed", "fine_tuned"] = knob(
        "fine_tuned", help="which of the run's networks", kw_only=True
    )
    allow: tuple[str, ...] = knob(
        (),
        help="whose code a network's folder alone may name as its class: packages, modules, paths",
        kw_only=True,
    )
    normalise: bool = knob(
        False, help="normalisation becomes a part of graphs (onnx, openvino, pt2)", kw_only=True
    )
