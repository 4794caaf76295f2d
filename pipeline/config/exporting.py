"""Exports of a run: configuration in, folders out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor

from pipeline.config.compose import compose_config, plain
from pipeline.config.configuration import ExportNetwork
from pipeline.data.files import DATA_JSON, load_split
from pipeline.data.preprocessing import PREPROCESSING_JSON, load_preprocessing
from pipeline.data.splits import Values, taken
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
    network = load(folder)
    saved = (folder / PREPROCESSING_JSON).is_file()
    several = len(chosen.to) > 1
    for to in chosen.to:
        inside = chosen.normalise and get_format(to).is_graph
        made = export(
            network,
            Path(chosen.out, to) if several else Path(chosen.out),
            to,
            example=_example(workspace, stored=inside),
            form=chosen.form,
            dtype=chosen.dtype,
            dynamic=chosen.dynamic,
            tolerance=chosen.tolerance,
            shard=chosen.shard,
            tokenizer=_tokenizer(workspace) if is_transformer(network) else None,
            normalise=_constants(folder) if inside else None,
            beside=[folder / PREPROCESSING_JSON] if saved else [],
            notes=_notes(workspace),
        )
        (console or Console(highlight=False)).print(str(made), soft_wrap=True)


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


def _example(workspace: Path | None, *, stored: bool) -> Any:
    """The first examples of the test split; None where there are none.

    stored: as they are stored, not normalised.
    """
    if workspace is None or not (workspace / "out/data" / DATA_JSON).is_file():
        return None
    split = load_split(workspace / "out/data", "test")
    rows = slice(0, _EXAMPLES)
    values: Values = taken(split.stored, rows) if stored else split.batch(rows)[0]
    if isinstance(values, dict):
        return {key: _short(value) for key, value in values.items()}
    return _short(values)


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
