"""Extraction of adapters: configuration in, an adapter folder and a table out."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from pipeline.config.compose import compose_config, plain
from pipeline.config.configuration import ExtractLora
from pipeline.lowrank.adapters.extract import Weights, extract_adapter, save_adapter
from pipeline.lowrank.errors import LowRankError, reason_of
from pipeline.lowrank.forms.files import load
from pipeline.lowrank.forms.weights import read_state
from pipeline.lowrank.typed import options_from
from pipeline.reporting.run.summary import print_adapter

# Endings of transformers' classes whose adapters peft should give `generate`.
_GENERATIVE = ("ForCausalLM", "LMHeadModel")


def run_extraction(conf: Path, overrides: Sequence[str], console: Console | None = None) -> None:
    """Composes conf/extract_lora.yaml with the overrides, extracts the adapter, writes it and
    prints a table.

    Raises LowRankError for anything that is wrong; nothing is written then.
    """
    options = _compose(conf, overrides)
    if options.rank_select.overrides:
        raise LowRankError("rank_select.overrides: not used here; choose by include and exclude")
    base, tuned = (
        _load(key, Path(getattr(options, key)), options.allow) for key in ("base", "tuned")
    )
    extraction = extract_adapter(
        base,
        tuned,
        options.rank_select.to_policy(),
        include=options.include,
        exclude=options.exclude,
    )
    task = "CAUSAL_LM" if type(base).__name__.endswith(_GENERATIVE) else None
    save_adapter(Path(options.out), extraction, base=options.base, task_type=task)
    print_adapter(extraction, options.out, console or Console(highlight=False))


def _compose(conf: Path, overrides: Sequence[str]) -> ExtractLora:
    return options_from(ExtractLora, plain(compose_config(conf, "extract_lora", overrides)), "")


def _load(key: str, path: Path, allow: Sequence[str]) -> Weights:
    """The network at `path`: a module where its architecture is known, else a state dict."""
    if not path.exists():
        raise LowRankError(f"{key}={path}: no such file or folder; correct the path")
    if path.is_file():
        return read_state(path)
    if (path / "network.json").is_file():
        return load(path, allow=allow)
    if (path / "config.json").is_file():
        return _load_transformers(key, path)
    raise LowRankError(
        f"{key}={path}: holds neither config.json (of transformers) nor network.json (of this "
        "project); give such a folder, or a .safetensors file"
    )


def _load_transformers(key: str, path: Path) -> nn.Module:
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise LowRankError(
            f"{key}={path}: needs transformers; pip install 'lowrank-pipeline[transformers]'"
        ) from error
    try:
        name = json.loads((path / "config.json").read_text())["architectures"][0]
        transformers.utils.logging.disable_progress_bar()
        model = getattr(transformers, name).from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise LowRankError(
            f"{key}={path}: transformers cannot load it ({reason_of(error)})"
        ) from error
    assert isinstance(model, nn.Module)
    return model.eval()
