"""Exports of a run: configuration in, folders out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor

from pipeline.config.compose import compose_config, plain
from pipeline.config.configuration import ExportNetwork
from pipeline.config.exported import quality_line
from pipeline.data.files import DATA_JSON, load_split
from pipeline.data.preprocessing import PREPROCESSING_JSON, load_preprocessing
from pipeline.data.splits import Split, Values, taken
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports import get_format
from pipeline.lowrank.exports.export import export
from pipeline.lowrank.exports.normalised import Constants
from pipeline.lowrank.exports.transformer import is_transformer
from pipeline.lowrank.forms.files import NETWORK, load
from pipeline.lowrank.planning.files import load_plan
from pipeline.lowrank.typed import options_from
from pipeline.models.huggingface import load_tokenizer
from pipeline.reporting.run.metrics import FILE, read_metrics

_EXAMPLES, _TOKENS = 4, 64  # of a call: an export is compared, not measured
_CALIBRATION, _BATCH = 256, 16


def run_export(conf: Path, arguments: Sequence[str], console: Console | None = None) -> None:
    """Composes conf/export.yaml with the arguments, exports the network in each format, and prints
    a line for each.

    arguments: the workspace, and overrides. Raises LowRankError for anything that is wrong; a
    format that fails leaves nothing, and those before it stay.
    """
    chosen = _compose(conf, arguments)
    for to in chosen.to:
        get_format(to)
    workspace, folder = _folders(chosen)
    network = load(folder, allow=_named(workspace, chosen))
    data = _data(workspace)
    saved = (folder / PREPROCESSING_JSON).is_file()
    show = partial((console or Console(highlight=False)).print, soft_wrap=True)
    for to in chosen.to:
        inside = chosen.normalise and get_format(to).is_graph
        constants = _constants(folder) if inside else None
        made = export(
            network,
            _folder_of(chosen, to),
            to,
            example=None if data is None else _example(data, stored=inside),
            form=chosen.form,
            dtype=chosen.dtype,
            dynamic=chosen.dynamic,
            int8=chosen.int8,
            calibration=_batches(data, stored=inside) if data and chosen.int8 else [],
            tolerance=chosen.tolerance,
            shard=chosen.shard,
            tokenizer=_tokenizer(workspace) if is_transformer(network) else None,
            normalise=constants,
            beside=[folder / PREPROCESSING_JSON] if saved else [],
            notes=_notes(workspace),
        )
        show(str(made))
        if chosen.int8 and data is None:
            show(f"{to}, int8: quality not measured, as {chosen.workspace} has no out/data")
        elif chosen.int8 and data is not None:
            show(quality_line(network, made, _folder_of(chosen, to), data, constants))


def _compose(conf: Path, arguments: Sequence[str]) -> ExportNetwork:
    """The options; the workspace may stand alone, and several formats are joined by commas."""
    overrides = [_override(argument) for argument in arguments]
    return options_from(ExportNetwork, plain(compose_config(conf, "export", overrides)), "")


def _override(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals:
        quoted = argument.replace("'", "\\'")
        return f"workspace='{quoted}'"
    return f"to=[{value}]" if key == "to" and not value.startswith("[") else argument


def _folders(chosen: ExportNetwork) -> tuple[Path | None, Path]:
    """(the workspace, or None where a network alone is given; the network's folder)."""
    given = Path(chosen.workspace)
    if (given / NETWORK).is_file():
        return None, given
    folder = given / "out" / chosen.network
    if not (folder / NETWORK).is_file():
        raise LowRankError(
            f"workspace={given}: has no {Path('out', chosen.network, NETWORK)}; give the folder of "
            "a run (dvc repro makes it), or of a network that this project saved"
        )
    return given, folder


def _named(workspace: Path | None, chosen: ExportNetwork) -> list[str]:
    """Whose code may run: what the options allow, and in a run's workspace, which holds the code of
    the run too, what its params.yaml names."""
    params = None if workspace is None else workspace / "params.yaml"
    if params is None or not params.is_file():
        return list(chosen.allow)
    return [*chosen.allow, yaml.safe_load(params.read_text())["model"]["_target_"]]


def _folder_of(chosen: ExportNetwork, to: str) -> Path:
    return Path(chosen.out, to) if len(chosen.to) > 1 else Path(chosen.out)


def _data(workspace: Path | None) -> Path | None:
    """The prepared data of the run; None where there are none."""
    folder = None if workspace is None else workspace / "out/data"
    return folder if folder is not None and (folder / DATA_JSON).is_file() else None


def _example(data: Path, *, stored: bool) -> Any:
    """The first examples of the test split.

    stored: as they are stored, not normalised.
    """
    values = _rows(load_split(data, "test"), slice(0, _EXAMPLES), stored=stored)
    if isinstance(values, dict):
        return {key: _short(value) for key, value in values.items()}
    return _short(values)


def _batches(data: Path, *, stored: bool) -> list[Any]:
    """Batches of the calibration split, by which 8 bits choose their ranges."""
    split = load_split(data, "calibration")
    starts = range(0, min(len(split), _CALIBRATION), _BATCH)
    return [_rows(split, slice(s, s + _BATCH), stored=stored) for s in starts]


def _rows(split: Split, rows: slice, *, stored: bool) -> Values:
    return taken(split.stored, rows) if stored else split.batch(rows)[0]


def _short(value: Tensor) -> Tensor:
    is_tokens = value.dim() == 2 and value.dtype == torch.int64
    return value[:, :_TOKENS] if is_tokens else value


def _tokenizer(workspace: Path | None) -> Any:
    """The tokenizer of the run's network; None where the run does not say which that is."""
    params = {} if workspace is None else yaml.safe_load((workspace / "params.yaml").read_text())
    model = params.get("model", {})
    if not str(model.get("_target_", "")).endswith("huggingface.load"):
        return None
    return load_tokenizer(model["name"], model.get("sha256"))


def _constants(folder: Path) -> Mapping[str, Constants]:
    channels = load_preprocessing(folder).channels
    return {name: Constants(one.mean, one.std) for name, one in channels.items()}


def _notes(workspace: Path | None) -> list[str]:
    """Quality, sizes, certificate and plan of the run, in Markdown."""
    if workspace is None or not (workspace / "reports" / FILE).is_file():
        return []
    metrics = read_metrics(workspace / "reports" / FILE)
    networks = [one.figures() for one in metrics.networks.values()]
    head = f"| | {' | '.join(metrics.networks)} |"
    rows = [
        f"| {name} | {' | '.join(f'{figures[name]:.6g}' for figures in networks)} |"
        for name in networks[0]
    ]
    table = "\n".join(["## What it was measured to be", "", head, "|---|---|---|---|", *rows])
    error = metrics.output_error
    certified = (
        f"The output's error before fine-tuning is at most {error.measured:.3g} on the examples "
        "that were measured"
    )
    if error.certified:
        certified += f", and certified to be at most {error.certificate:.3g} on them"
    plan = f"## The plan\n```text\n{load_plan(workspace / 'out/plan.json')}\n```"
    return [table, certified + ".", plan]
