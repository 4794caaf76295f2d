"""What people do with a folder of transformers, in a process without this project.

python -I uses_of_transformers.py FOLDER PLACE

FOLDER: an export of a causal language model; PLACE: an empty folder. Each use is one function.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

IDS = torch.arange(2, 12)[None]


def loaded(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


def without_trust_it_is_refused(folder: Path, place: Path) -> None:
    message = "loaded without trust"
    try:
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        message = str(error)
    assert "trust_remote_code=True" in message


def generates(folder: Path, place: Path) -> None:
    model = loaded(folder)
    cached = model.generate(IDS, max_new_tokens=6, do_sample=False)
    slow = model.generate(IDS, max_new_tokens=6, do_sample=False, use_cache=False)
    assert cached.shape == (1, IDS.shape[1] + 6) and torch.equal(cached, slow)


def is_saved_and_loaded_again(folder: Path, place: Path) -> None:
    model = loaded(folder)
    model.save_pretrained(place / "again")
    assert torch.equal(logits(loaded(place / "again")), logits(model))


def the_base_model_loads_alone(folder: Path, place: Path) -> None:
    """As vLLM's backend for transformers asks: AutoModel, without the head."""
    base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    whole = loaded(folder)
    with torch.no_grad():
        states = base(input_ids=IDS).last_hidden_state
        assert torch.equal(whole.lm_head(states), whole(input_ids=IDS).logits)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert {"AutoConfig", "AutoModel"} <= config.auto_map.keys()
    assert config.base_model_tp_plan is None and base._supports_attention_backend


def has_a_device_map(folder: Path, place: Path) -> None:
    assert torch.equal(logits(loaded(folder, device_map="cpu")), logits(loaded(folder)))


def is_made_on_meta(folder: Path, place: Path) -> None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    real = loaded(folder)
    shapes = {name: value.shape for name, value in real.state_dict().items()}
    assert {name: value.shape for name, value in empty.state_dict().items()} == shapes


def runs_in_bfloat16(folder: Path, place: Path) -> None:
    model = loaded(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    whole = logits(loaded(folder))
    assert (logits(model).float() - whole).abs().max() < 0.1 * whole.abs().max()


def is_split_into_shards(folder: Path, place: Path) -> None:
    model = loaded(folder)
    model.save_pretrained(place / "shards", max_shard_size="20KB")
    assert len(list((place / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(logits(loaded(place / "shards")), logits(model))


def a_pipeline_writes_text(folder: Path, place: Path) -> None:
    pipe = transformers.pipeline("text-generation", model=str(folder), trust_remote_code=True)
    (answer,) = pipe("the river", max_new_tokens=4, do_sample=False)
    assert len(answer["generated_text"]) > len("the river")


def a_trainer_trains_it(folder: Path, place: Path) -> None:
    model = loaded(folder)
    before = {name: value.clone() for name, value in model.named_parameters()}
    examples = [{"input_ids": IDS[0], "labels": IDS[0]}] * 4
    options = transformers.TrainingArguments(
        output_dir=str(place / "trained"),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_checkpointing=True,
        report_to=[],
        use_cpu=True,
    )
    trainer = transformers.Trainer(model=model, args=options, train_dataset=examples)
    trainer.train()
    moved = [
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    ]
    assert any(".rest." in name or ".0.weight" in name for name in moved)
    trainer.save_model(str(place / "trained/last"))
    assert torch.equal(logits(loaded(place / "trained/last")), logits(model.eval()))


def peft_adapts_all_of_it(folder: Path, place: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = loaded(folder)
    before = logits(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    assert torch.equal(logits(adapted), before)  # B starts at zero
    adapted(input_ids=IDS, labels=IDS).loss.backward()
    touched = [n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("rest.lora_B" in name or ".0.lora_B" in name for name in touched)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    adapted.save_pretrained(place / "adapter")
    again = PeftModel.from_pretrained(loaded(folder), place / "adapter").eval()
    assert torch.equal(logits(again), logits(adapted.eval()))
    merged = again.merge_and_unload()
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-3, rtol=1e-3)


USES = (
    without_trust_it_is_refused,
    generates,
    is_saved_and_loaded_again,
    the_base_model_loads_alone,
    has_a_device_map,
    is_made_on_meta,
    runs_in_bfloat16,
    is_split_into_shards,
    a_pipeline_writes_text,
    a_trainer_trains_it,
    peft_adapts_all_of_it,
)


if __name__ == "__main__":
    transformers.set_seed(0)
    for use in USES:
        use(Path(sys.argv[1]), Path(sys.argv[2]))
        print(use.__name__, flush=True)
    assert not [name for name in sys.modules if name.partition(".")[0] == "pipeline"]
