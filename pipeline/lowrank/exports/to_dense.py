"""All layers multiplied out: the plain architecture, for tools that know no factors."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.base import Format, Job, Written
from pipeline.lowrank.exports.building import building, weights_check
from pipeline.lowrank.exports.to_huggingface import auto_classes, save_transformer
from pipeline.lowrank.exports.to_torch import narrowed_of
from pipeline.lowrank.exports.transformer import is_transformer
from pipeline.lowrank.forms.shards import WEIGHTS
from pipeline.lowrank.forms.weights import save_weights

_LOAD = "from safetensors.torch import load_model\n"


class ToDense(Format):
    name = "dense"
    form = "dense"
    loses = "All that was saved: it is as large and as slow as before, with the factors' errors."

    def write(self, job: Job, folder: Path) -> Written:
        if narrowed := narrowed_of(job.network):
            raise LowRankError(
                f"to=dense: {next(iter(narrowed))} has fewer channels than the plain architecture; "
                "choose to=torch, huggingface, onnx or pt2"
            )
        if is_transformer(job.network):
            save_transformer(job, folder)
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


def _cast(job: Job) -> str:
    """The module is made in float32; safetensors fills it in its own format."""
    formats = {p.dtype for p in job.network.parameters() if p.is_floating_point()}
    if len(formats) != 1 or formats == {torch.float32}:
        return ""
    return f"import torch\nnetwork.to({formats.pop()})\n"
