"""A folder that transformers loads: weights, configuration, and the code of factorized layers."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports import standalone
from pipeline.lowrank.exports.base import Check, Format, Job, Written
from pipeline.lowrank.exports.quiet import quiet
from pipeline.lowrank.exports.rounding import rounded_weights
from pipeline.lowrank.exports.to_torch import Layers, layers_of, narrowed_of
from pipeline.lowrank.exports.torchao_int8 import in_8_bits
from pipeline.lowrank.exports.transformer import is_transformer
from pipeline.lowrank.network.inner.narrowing import NarrowedLayer

CODE, CONFIG = "modeling_lowrank.py", "config.json"
_PARTS = (
    "LowRank",
    "OnDemand",
    "PivotedOutput",
    "PivotedInput",
    "Same",
    "take",
    "build",
    "put_in",
    "narrow",
    "put_all",
)
_TEMPLATE = '''\
"""{model} with factorized layers: plain torch and transformers, no other package needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only
from transformers import {imports}


{parts}


class LowRankConfig({config}):
    model_type = "lowrank_{type}"
    base_model_tp_plan = None  # a plan for tensor parallelism would name dense layers

    def __init__(
        self,
        low_rank_layers: dict[str, Any] | None = None,
        narrowed_layers: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.low_rank_layers = low_rank_layers or {{}}
        self.narrowed_layers = narrowed_layers or {{}}


class WithFactors:
    """Puts the factorized and narrowed layers of the configuration into a model of transformers."""

    config_class = LowRankConfig
    _tp_plan: dict[str, str] = {{}}

    def __init__(self, config: LowRankConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        put_all(self, self._own(config.low_rank_layers), self._own(config.narrowed_layers))

    def _own(self, layers: dict[str, Any]) -> dict[str, Any]:
        """Those of this model: a base model has no head, and its layers stand without its name."""
        if hasattr(self, self.base_model_prefix):
            return layers
        found = {{k.removeprefix(f"{{self.base_model_prefix}}."): v for k, v in layers.items()}}
        known = dict(self.named_children())
        return {{k: v for k, v in found.items() if k.partition(".")[0] in known}}
'''
_CLASS = """

class LowRank{name}(WithFactors, {name}):
    pass
"""
_WORDS = """\
Its tokenizer: `AutoTokenizer.from_pretrained(folder, trust_remote_code=True)`. Without the argument
transformers asks first whether the code of the folder may run, and takes no answer for a no."""
_REPAIR = """\
## Train it further
The factors are plain Linear layers, so that `peft` adapts them, and `Trainer` trains them:

```python
from peft import LoraConfig, get_peft_model
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
```"""


class ToHuggingFace(Format):
    name = "huggingface"
    extra = "transformers"
    packages = runtime = ("transformers",)
    int8 = "weights"
    loses = (
        "Nothing; the code of its layers is in the folder, so transformers asks for "
        "`trust_remote_code=True`."
    )

    def write(self, job: Job, folder: Path) -> Written:
        if not is_transformer(job.network):
            raise LowRankError(
                f"to=huggingface: {type(job.network).__name__} is no model of transformers; "
                "choose to=torch, onnx or pt2"
            )
        layers, autos = layers_of(job.network), auto_classes(job.network)
        base = type(_base(job.network))
        save_transformer(job, folder, original=False)
        (folder / CODE).write_text(_code(job.network, base))
        _complete(folder / CONFIG, job.network, base, autos, layers)
        auto = autos[-1]
        usage = (
            f"from transformers import {auto}\n"
            f"model = {auto}.from_pretrained(folder, trust_remote_code=True).eval()\n"
        )
        words = [_WORDS] if _reads_words(job.tokenizer) else []
        if not job.options.int8:
            return Written(usage, notes=[*words, _REPAIR])
        small = in_8_bits(auto, folder, rounded_weights(job.network, job.calibration))
        expected = [call.of(small) for call in job.calls]
        return Written(usage, words, Check("network", usage, job.calls, expected))


def _reads_words(tokenizer: Any) -> bool:
    """Whether it is a tokenizer, and no processor of images or sound."""
    return hasattr(tokenizer, "get_vocab")


def save_transformer(job: Job, folder: Path, *, original: bool = True) -> None:
    """Writes a model of transformers, its configuration and its tokenizer or processor.

    original: weights under the names that its kind of model has on the hub, not in memory.
    """
    network: Any = job.network
    with quiet():
        network.save_pretrained(
            folder, max_shard_size=job.options.shard, save_original_format=original
        )
    if job.tokenizer is not None:
        job.tokenizer.save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text())
    # What it was read from is no part of it: a machine's path, and numbers that are floats now.
    for key in ("_name_or_path", "_model_name_or_path", "quantization_config"):
        config.pop(key, None)
    if network.can_generate() and "use_cache" in config:
        config["use_cache"] = True  # this project, which generates nothing, turned it off
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def auto_classes(model: nn.Module) -> list[str]:
    """The names of transformers' Auto classes that give this class for this kind of model, the
    most telling one last. Raises LowRankError where there is none."""
    module = importlib.import_module("transformers.models.auto.modeling_auto")
    kind, name = model.config.model_type, type(model).__name__  # type: ignore[union-attr]
    found = []
    for auto, cls in vars(module).items():
        mapping = getattr(cls, "_model_mapping", None)
        if auto.startswith("AutoModel") and mapping is not None:
            known = mapping._model_mapping.get(kind)
            if name == known or (isinstance(known, tuple | list) and name in known):
                found.append(auto)
    own = [auto for auto in found if auto not in ("AutoModelForPreTraining",)]
    if not own:
        raise LowRankError(
            f"no Auto class of transformers gives a {name} for the model_type {kind!r}; choose "
            "to=torch"
        )
    return sorted(own, key=lambda auto: auto != "AutoModel")


def _base(model: Any) -> nn.Module:
    base: nn.Module = model.base_model
    return base


def _code(model: Any, base: type) -> str:
    transformers: Any = importlib.import_module("transformers")
    config, cls = type(model.config), type(model)
    names = list(dict.fromkeys([config.__name__, cls.__name__, base.__name__]))
    for known, one in zip((config.__name__, cls.__name__), (config, cls), strict=True):
        if getattr(transformers, known, None) is not one:
            raise LowRankError(
                f"to=huggingface: {known} is no class at transformers' door; choose to=torch"
            )
    parts = "\n\n".join(inspect.getsource(getattr(standalone, part)) for part in _PARTS)
    text = _TEMPLATE.format(
        model=cls.__name__,
        config=config.__name__,
        type=model.config.model_type,
        imports=", ".join(names),
        parts=parts.strip(),
    )
    return text + "".join(_CLASS.format(name=name) for name in names[1:])


def _complete(
    path: Path, model: nn.Module, base: type, autos: list[str], layers: dict[str, Layers]
) -> None:
    """Says in config.json which layers are factorized or narrowed, and where the code of the
    classes is."""
    config = json.loads(path.read_text())
    home = CODE.removesuffix(".py")
    name = f"LowRank{type(model).__name__}"
    classes = dict.fromkeys(autos, f"{home}.{name}")
    narrowed = TypeAdapter(dict[str, NarrowedLayer])
    config |= {
        "model_type": f"lowrank_{config['model_type']}",
        "architectures": [name],
        "auto_map": {
            "AutoConfig": f"{home}.LowRankConfig",
            "AutoModel": f"{home}.LowRank{base.__name__}",
            **classes,
        },
        "low_rank_layers": TypeAdapter(dict[str, Layers]).dump_python(layers, mode="json"),
        "narrowed_layers": narrowed.dump_python(narrowed_of(model), mode="json"),
    }
    path.write_text(json.dumps(config, indent=2) + "\n")
