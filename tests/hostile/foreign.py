"""Readers of what other libraries parse: texts, transformers, tokenizers, gguf, kept trainings."""

from __future__ import annotations

import hashlib
from contextlib import chdir, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline import lowrank as lr
from pipeline.data.text import read_texts
from pipeline.lowrank.forms.building import build_model
from pipeline.models import huggingface
from pipeline.training.resumption import Resumption
from tests.hostile.trial import Reader
from tests.models.transformers_case import chapters, write_gguf, write_model


def write_texts(folder: Path) -> None:
    (folder / "a.txt").write_text("\n\f\n".join(chapters(3, 2)))
    (folder / "a.html").write_text("<html><body><p>One <b>two</b>.</p><pre>x</pre></body></html>")
    rows = "".join(f'{{"text": "line {n}", "label": "{n % 2}"}}\n' for n in range(6))
    (folder / "a.jsonl").write_text(rows)


def read_all_texts(folder: Path) -> None:
    for name, label in (("a.txt", None), ("a.html", None), ("a.jsonl", "label")):
        read_texts(str(folder / name), None, text_column="text", label_column=label)


def write_transformer(folder: Path) -> None:
    write_model(folder, "causal_lm")
    (folder / "generation_config.json").unlink(missing_ok=True)


def read_transformer(folder: Path) -> None:
    net = huggingface.load(name=str(folder), sha256=None, task="causal_lm", dtype="float32")
    net(torch.tensor([[1, 2, 3]]))


def small(*names: str):  # type: ignore[no-untyped-def]
    return lambda folder: [folder / name for name in names]


def write_skeleton(folder: Path) -> None:
    write_model(folder / "net", "causal_lm")
    spec = {
        "_target_": "pipeline.models.huggingface.load", "name": str(folder / "net"),
        "sha256": None, "task": "causal_lm", "dtype": "float32",
    }  # fmt: skip
    model = build_model(spec)
    lr.save(model, folder / "saved", huggingface.self_contained(spec, model))


def read_tokenizer(folder: Path) -> None:
    huggingface.load_tokenizer(str(folder), None)("a small boat")


def write_gguf_file(folder: Path) -> None:
    model = write_model(folder / "net", "causal_lm")
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "net")
    write_gguf(folder / "net.gguf", model, tokenizer)


def read_gguf(folder: Path) -> None:
    name = str(folder / "net.gguf")
    huggingface.load(name=name, sha256=None, task="causal_lm", dtype="float32")


@cache
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def write_kept(folder: Path) -> None:
    with chdir(folder):
        kept = Resumption(["a"], fabric(), seconds=0.0)
        net = nn.Linear(3, 2)
        kept.folder = folder
        kept.offer(fabric(), net, torch.optim.SGD(net.parameters(), lr=0.1), lambda: {"done": 3})


def read_kept(folder: Path) -> None:
    """As it lies there, and as a forger would name it. A damaged one is told, and no error."""
    net, kept = nn.Linear(3, 2), Resumption(["a"], fabric())
    kept.folder = folder
    (file,) = [path for path in folder.iterdir() if path.suffix == ".ckpt"]
    content = file.read_bytes()
    forged = folder / f"{kept.name}.{hashlib.sha256(content).hexdigest()}.ckpt"
    file.rename(forged)
    with redirect_stderr(StringIO()) as told:
        try:
            kept.load(fabric(), net, torch.optim.SGD(net.parameters(), lr=0.1), 5)
        finally:
            forged.unlink(missing_ok=True)
            file.write_bytes(content)
    if told.getvalue():
        raise lr.LowRankError(told.getvalue().strip())


FOREIGN = [
    Reader("texts", write_texts, read_all_texts, share=0.5),
    Reader("transformer", write_transformer, read_transformer,
           small("config.json", "model.safetensors"), share=0.2),
    Reader("network of a transformer", write_skeleton, lambda folder: lr.load(folder / "saved"),
           small("saved/network.json"), share=0.2),
    Reader("tokenizer", write_transformer, read_tokenizer,
           small("tokenizer.json", "tokenizer_config.json"), share=0.1),
    Reader("gguf", write_gguf_file, read_gguf, small("net.gguf"), share=0.05),
    Reader("kept training", write_kept, read_kept, share=0.3),
]  # fmt: skip
