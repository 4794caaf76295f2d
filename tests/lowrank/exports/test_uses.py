"""An export for transformers in use: what its users do is a script, run without this project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import lowrank as lr
from tests.lowrank.exports import uses_of_transformers
from tests.lowrank.exports.export_case import transformer_case
from tests.models.transformers_case import write_tokenizer


@pytest.mark.exports
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("form", ["pivoted", "plain"])
def test_what_users_of_transformers_do(kind: str, form: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model, _ = transformer_case(kind)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    out, place = tmp_path / "out", tmp_path / "place"
    place.mkdir()
    lr.export(model, out, "huggingface", form=form, tokenizer=tokenizer)  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, "-I", "-B", uses_of_transformers.__file__, str(out), str(place)],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout.split()
    assert done.returncode == 0, f"after {told[-1:]}: {done.stderr[-2000:]}"
    assert [use.__name__ for use in uses_of_transformers.USES if use.__name__ not in told] == []


@pytest.mark.exports
def test_generation_is_that_of_the_network_in_memory(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = transformer_case("llama")
    lr.export(model, tmp_path / "out", "huggingface")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    ids = torch.arange(2, 9)[None]
    expected = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(again.generate(ids, max_new_tokens=5, do_sample=False), expected)


@pytest.mark.exports
def test_machine_code_takes_any_batch(tmp_path: Path) -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    from torch._inductor import aoti_load_package

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
    lr.compress_(net, lr.Budget(params=0.6), torch.randn(4, 32))
    record = lr.export(net, tmp_path / "out", "pt2", example=torch.randn(4, 32), aoti=True)
    assert record.checked == "network"
    loaded = aoti_load_package(str(tmp_path / "out/model.pt2"))
    x = torch.randn(7, 32)
    assert torch.allclose(loaded(x), net(x), atol=1e-5)
