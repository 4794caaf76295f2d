"""All layers multiplied out: the plain architecture, for tools that know no factors."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.base import Format, Job, Written
from pipeline.lowrank.exports.building import building, weights_check
from pipeline.lowrank.exports.config_fields import narrower_config
from pipeline.lowrank.exports.to_huggingface import CONFIG, auto_classes, save_transformer
from pipeline.lowrank.exports.to_torch import narrowed_of
from pipeline.lowrank.exports.transformer import is_transformer
from pipeline.lowrank.forms.shards import WEIGHTS
from pipeline.lowrank.forms.weights import save_weights

_LOAD = "from safetensors.torch import load_model\n"


class ToDense(Format):
    name = "dense"
    form = "dense"
    loses = (
        "All that factors saved: they are multiplied out, with their errors. A network that was "
        "narrowed stays so where its configuration can say it."
    )

    def write(self, job: Job, folder: Path) -> Written:
        transformer = is_transformer(job.network)
        fields: dict[str, int] | None = {}
        if narrowed := narrowed_of(job.network):
            fields = narrower_config(job.network) if transformer else None
        if fields is None:
            raise LowRankError(
                f"to=dense: {next(iter(narrowed))} has fewer channels than the plain architecture, "
                "and no configuration of it says so for all layers that are alike; choose "
                "to=torch, huggingface, onnx or pt2, or plan by the policy compute, which gives "
                "them the same width"
            )
        if transformer:
            save_transformer(job, folder)
            _write_fields(folder / CONFIG, fields)
            auto = auto_classes(job.network)[-1]
            return Written(
                f"from transformers import {auto}\nmodel = {auto}.from_pretrained(folder).eval()\n"
            )
        save_weights(job.network, folder / WEIGHTS)
        filled = f"load_model(network, folder + '/{WEIGHTS}')\nmodel = network.eval()\n"
        made = building(job.builder)
        if made is not None:
            return Written(f"{_LOAD}{made}{_cast(job)}{filled}")
        usage = f"{_LOAD}network = MyNet()  # your own class\n{_cast(job)}{filled}"
        return Written(usage, check=weights_check(job.network, folder))


def _write_fields(path: Path, fields: dict[str, int]) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | fields, indent=2) + "\n")


def _cast(job: Job) -> str:
    """The module is made in float32; safetensors fills it in its own format."""
    formats = {p.dtype for p in job.network.parameters() if p.is_floating_point()}
    if len(formats) != 1 or formats == {torch.float32}:
        return ""
    return f"import torch\nnetwork.to({formats.pop()})\n"
