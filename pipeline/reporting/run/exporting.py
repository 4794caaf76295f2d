"""Exports as outputs of the chain: the formats that evaluate.export names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from pipeline.data.preprocessing import PREPROCESSING_JSON
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.export import export
from pipeline.lowrank.exports.record import EXPORT_JSON, Export
from pipeline.lowrank.exports.transformer import is_transformer
from pipeline.lowrank.typed import save_record
from pipeline.reporting.run.leaving import example, notes, tokenizer

RECORD = "exports.json"


@dataclass(frozen=True)
class Exports:
    """The content of exports.json. made: {format: its export.json}; refused: {format: why the
    network can't leave in it}."""

    made: Mapping[str, Export]
    refused: Mapping[str, str]


def write_exports(root: Path, load: Callable[[Path], nn.Module], formats: Sequence[str]) -> Exports:
    """Writes the fine-tuned network of the run in `root` to out/exports, a folder for each format,
    with exports.json, also where there are none.

    load: opens a network's folder.

    A format that refuses the network is told and noted, and the run goes on. What is an output of
    the chain holds no times: export.json has none here.
    """
    folder, source = root / "out/exports", root / "out/fine_tuned"
    beside = [path for path in [source / PREPROCESSING_JSON] if path.is_file()]
    shutil.rmtree(folder, ignore_errors=True)
    made: dict[str, Export] = {}
    refused: dict[str, str] = {}
    for to in formats:
        try:
            network = load(source)
            found = export(
                network,
                folder / to,
                to,
                example=example(root / "out/data", stored=False),
                tokenizer=tokenizer(root) if is_transformer(network) else None,
                beside=beside,
                notes=notes(root),
            )
        except LowRankError as error:
            refused[to] = str(error)
            print(f"export {to}: refused: {error}")
        else:
            print(f"export {found}")
            made[to] = replace(found, load_s=None, latency_ms=None)
            save_record(folder / to / EXPORT_JSON, made[to])
    exports = Exports(made, refused)
    save_record(folder / RECORD, exports)
    return exports
