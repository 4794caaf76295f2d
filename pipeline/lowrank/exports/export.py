"""Exporting a network: written in a format, opened again without this project, compared."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports import FORMATS, check_installed, get_format
from pipeline.lowrank.exports.base import Check, DTypeName, ExportOptions, Format, FormName, Job
from pipeline.lowrank.exports.calls import Call, calls_of, ready
from pipeline.lowrank.exports.checking import Difference, difference, opened, tolerance_of
from pipeline.lowrank.exports.converting import in_dtype, in_form
from pipeline.lowrank.exports.normalised import Constants, Normalised
from pipeline.lowrank.exports.readme import README, readme
from pipeline.lowrank.exports.record import EXPORT_JSON, Export
from pipeline.lowrank.exports.transformer import (
    as_transformers_calls,
    is_transformer,
    transformer_example,
)
from pipeline.lowrank.forms.building import known_builder
from pipeline.lowrank.network.calling import evaluating
from pipeline.lowrank.network.costs import count_params
from pipeline.lowrank.typed import keywords_checked, save_record


@dataclass(frozen=True)
class Source:
    """What is exported, as it was given: the model, examples for it, the model in the number format
    of the export, and the form that it gets."""

    model: nn.Module
    calls: Sequence[Call]
    rounded: nn.Module
    form: str


@keywords_checked
def export(
    model: nn.Module,
    folder: Path | str,
    to: str = "torch",
    *,
    example: Any = None,
    form: FormName = "auto",
    dtype: DTypeName | None = None,
    dynamic: bool = True,
    int8: bool = False,
    aoti: bool = False,
    calibration: Sequence[Any] = (),
    tolerance: float | None = None,
    shard: str = "5GB",
    builder: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    normalise: Mapping[str, Constants] | None = None,
    beside: Sequence[Path] = (),
    notes: Sequence[str] = (),
) -> Export:
    """Writes a network to a folder from which it is loaded without this project, opens it there in
    a process of its own, and compares what it computes with the network in memory.

    folder: made; an earlier export in it is replaced.
    to: the format: torch, huggingface, onnx, openvino, executorch, pt2 or dense.
    example: a batch as the network takes it; a transformer that reads tokens needs none.
    form: of the factorized layers: "pivoted", as they are, "plain" with the pivots multiplied out
        (and layers dense that are no smaller so), or "dense"; "auto": what suits the format.
    dtype: of the parameters: "float32", "bfloat16" or "float16"; None keeps the network's own.
    dynamic: batch and length stay free in graphs (but executorch, which takes the example's own);
        False takes those of the example.
    int8: 8 bits: of weights (huggingface, by torchao; their errors are weighed by what the layers
        read in the calibration batches, where there are some), or of activations too, by their
        ranges on those batches (onnx). `rounding` in export.json says what that changes.
    aoti: the graph (pt2) compiled by AOTInductor: faster, for this kind of processor alone.
    tolerance: the largest difference, over the largest output; None: what the number format
        explains.
    shard: the largest file of weights (huggingface).
    builder: how the dense network is built, `_target_` and arguments, so that the whole of it is
        run in the fresh process; None: what a network of `lr.load` knows.
    tokenizer: or processor, written beside a transformer.
    normalise: {"inputs", or "inputs.NAME" of several: mean and std of its channels} as a part of a
        graph, which then takes examples as they are stored, bytes as x/255; so does
        `example`.
    beside: files that are copied into the folder, such as preprocessing.json.
    notes: paragraphs for the README, in Markdown.

    Returns what export.json in the folder holds. Raises LowRankError for what can't be exported,
    and where the export does not compute what the network does; the folder is then as it was.
    """
    kind = get_format(to)
    options = ExportOptions(
        form=form,
        dtype=dtype,
        dynamic=dynamic,
        int8=int8,
        aoti=aoti,
        tolerance=tolerance,
        shard=shard,
    )
    folder = Path(folder)
    _check(kind, folder)
    if int8:
        _check_int8(kind, dtype, calibration)
    if aoti:
        _check_aoti(kind)
    transformer = is_transformer(model)
    if normalise is not None:
        if not kind.is_graph or transformer:
            raise LowRankError(
                f"to={to}: normalise is for graphs (such as onnx or pt2) of networks that are no "
                "transformers; the constants lie beside the weights, in preprocessing.json"
            )
        model = Normalised(model, normalise)
    with evaluating(model), as_transformers_calls(model) if transformer else nullcontext():
        given = transformer_example(model, example) if transformer else example
        if given is None:
            raise LowRankError(f"to={to}: give example=, a batch as the network takes it")
        number_format = getattr(torch, dtype) if dtype else None
        free = not kind.is_graph or (dynamic and not kind.fixed)
        calls = calls_of(given)[: None if free else 1]
        chosen = options.form_for(kind.form)
        source = Source(model, calls, in_dtype(model, number_format), chosen)
        network = in_form(source.rounded, source.form)
        cast = [call.cast(number_format) for call in calls]
        ranges = [ready(transformer_example(model, x) if transformer else x) for x in calibration]
        known = builder or known_builder(model)
        job = Job(network, cast, options, known, tokenizer, ranges)
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            record = _exported(kind, job, part, source, notes, beside)
            if folder.exists():
                shutil.rmtree(folder)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return record


def _check(kind: Format, folder: Path) -> None:
    check_installed(kind)
    used = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if used and not (folder / EXPORT_JSON).is_file():
        raise LowRankError(f"{folder}: is there already, and is no export; give a new folder")


def _check_int8(kind: Format, dtype: str | None, calibration: Sequence[Any]) -> None:
    if kind.int8 is None:
        known = ", ".join(name for name, one in FORMATS.items() if one.int8)
        raise LowRankError(f"to={kind.name}: int8 is for {known}")
    if dtype is not None:
        raise LowRankError(f"to={kind.name}: choose dtype={dtype} or int8, not both")
    if kind.int8 == "static" and not len(calibration):
        raise LowRankError(f"to={kind.name}: int8 needs calibration=, a list of batches")
    if kind.int8 == "weights" and importlib.util.find_spec("torchao") is None:
        raise LowRankError(
            f"to={kind.name}: int8 needs torchao: pip install 'lowrank-pipeline[int8]'"
        )


def _check_aoti(kind: Format) -> None:
    if kind.name != "pt2":
        raise LowRankError(f"to={kind.name}: aoti is for pt2")
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise LowRankError(
            f"to=pt2: aoti needs a C++ compiler, and there is no {compiler}: install one, name it "
            "in the environment variable CXX, or leave aoti out"
        )


def _exported(
    kind: Format,
    job: Job,
    part: Path,
    source: Source,
    notes: Sequence[str],
    beside: Sequence[Path],
) -> Export:
    """Writes everything to `part`, opens it, and returns what was found."""
    inside = outputs(source.rounded, job.calls)
    written = kind.write(job, part)
    for path in beside:
        shutil.copyfile(path, part / path.name)
    check = written.check or Check("network", written.usage, job.calls, inside)
    size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    found = opened(part, check.code, kind.runtime, check.calls)
    apart = difference(check.expected, found.outputs)
    if check.checked != "network":  # what stands for the network says nothing of its form
        apart = max(apart, difference(inside, outputs(job.network, job.calls)), key=_relative)
    dtype = dtype_of(job.network)
    allowed = job.options.tolerance or tolerance_of(dtype)
    if apart.relative > allowed:
        raise LowRankError(
            f"to={kind.name}: the export's outputs are {apart.relative:.2g} of the largest output "
            f"away from the network's, more than tolerance={allowed:g}; nothing was written"
        )
    rounding = None
    if job.options.dtype is not None or job.options.int8:
        exported = inside if job.options.dtype else check.expected
        rounding = difference(outputs(source.model, source.calls), exported).relative
    record = Export(
        format=1,
        to=kind.name,
        form=source.form,
        dtype="int8" if job.options.int8 else str(dtype).removeprefix("torch."),
        checked=check.checked,
        largest_difference=apart.absolute,
        relative_difference=apart.relative,
        tolerance=allowed,
        rounding=rounding,
        bytes=size,
        parameters=count_params(job.network),
        load_s=found.load_s,
        latency_ms=found.latency_ms,
        batch=job.calls[0].batch,
        torch=torch.__version__,
    )
    (part / README).write_text(readme(kind, written, record, notes), encoding="utf-8")
    save_record(part / EXPORT_JSON, record)
    return record


def outputs(model: nn.Module, calls: Sequence[Call]) -> list[Mapping[str, Tensor]]:
    """What the model answers to each call."""
    return [call.of(model) for call in calls]


def dtype_of(model: nn.Module) -> torch.dtype:
    """The number format of the first parameter of a floating type."""
    formats = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(formats, torch.float32)


def _relative(one: Difference) -> float:
    return one.relative
