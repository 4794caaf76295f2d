"""Exports of a run: configuration in, folders out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console

from pipeline.config.compose import compose_config, plain
from pipeline.config.configuration import ExportNetwork
from pipeline.config.exported import quality_line
from pipeline.data.preprocessing import PREPROCESSING_JSON
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports import get_format
from pipeline.lowrank.exports.export import export
from pipeline.lowrank.exports.transformer import is_transformer
from pipeline.lowrank.forms.files import NETWORK, load
from pipeline.lowrank.typed import options_from
from pipeline.reporting.run.leaving import batches, constants, data_of, example, notes, tokenizer


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
    network = load(folder, allow=_named(workspace, chosen), mapped=True)
    data = data_of(workspace)
    saved = (folder / PREPROCESSING_JSON).is_file()
    show = partial((console or Console(highlight=False)).print, soft_wrap=True)
    for to in chosen.to:
        inside = chosen.normalise and get_format(to).is_graph
        normalise = constants(folder) if inside else None
        made = export(
            network,
            _folder_of(chosen, to),
            to,
            example=None if data is None else example(data, stored=inside),
            form=chosen.form,
            dtype=chosen.dtype,
            dynamic=chosen.dynamic,
            int8=chosen.int8,
            aoti=chosen.aoti,
            calibration=batches(data, stored=inside) if data and chosen.int8 else [],
            tolerance=chosen.tolerance,
            shard=chosen.shard,
            tokenizer=tokenizer(workspace) if is_transformer(network) else None,
            normalise=normalise,
            beside=[folder / PREPROCESSING_JSON] if saved else [],
            notes=notes(workspace),
        )
        show(str(made))
        if chosen.int8 and data is None:
            show(f"{to}, int8: quality not measured, as {chosen.workspace} has no out/data")
        elif chosen.int8 and data is not None:
            show(quality_line(network, made, _folder_of(chosen, to), data, normalise))


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
