"""Transformers are what transformers itself gives, and come back from their folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipeline.lowrank as lr
from pipeline.data.splits import moved
from pipeline.lowrank import LowRankError
from pipeline.lowrank.forms.building import build_model
from pipeline.lowrank.forms.files import load, save
from pipeline.lowrank.network.calling import PADDING, call, rows_of
from pipeline.lowrank.network.costs import layer_macs, trace_positions
from pipeline.lowrank.network.finding import find_targets
from pipeline.lowrank.tasks import get_task
from pipeline.lowrank.tasks.base import Examples
from pipeline.lowrank.tasks.outputs import leaves
from pipeline.machine.checksums import content_sha256
from pipeline.models import huggingface
from pipeline.models.heads import HEADS
from tests.models.transformers_case import VOCABULARY, write_gguf, write_model

pytest.importorskip("transformers")


def spec_of(folder: Path, task: str, /, **changed: Any) -> dict[str, Any]:
    arguments = {"name": str(folder), "sha256": None, "task": task, "dtype": "float32"} | changed
    return {"_target_": "pipeline.models.huggingface.load", **arguments}


def tokens(count: int = 3, length: int = 10) -> Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1))


def inputs_of(task: str) -> Any:
    """Three examples, as the chain gives them to the task's network."""
    if task in ("classification", "segmentation"):
        return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    if task == "seq2seq":
        return {"input_ids": tokens(), "decoder_input_ids": tokens(3, 7)}
    return tokens()


@pytest.mark.parametrize("task", HEADS)
def test_the_answers_are_those_of_transformers(tmp_path: Path, task: str) -> None:
    reference = write_model(tmp_path / "net", task)
    model = build_model(spec_of(tmp_path / "net", task))
    inputs = inputs_of(task)
    with torch.no_grad():
        theirs = call(reference, inputs)
        ours = call(model, inputs)
    if task in ("causal_lm", "masked_lm", "seq2seq", "token_classification"):
        assert ours.shape[::2] == (3, 7 if task == "seq2seq" else 10)
        torch.testing.assert_close(ours.transpose(1, 2), theirs.logits)
    elif task == "encoder":
        torch.testing.assert_close(ours, theirs.last_hidden_state.mean(1))
    elif task == "segmentation":
        assert ours.shape == (3, 3, 16, 16)
        means = (torch.nn.functional.adaptive_avg_pool2d(one, 1) for one in (ours, theirs.logits))
        torch.testing.assert_close(*means, rtol=0.05, atol=0.05)
    elif task == "custom":
        torch.testing.assert_close(ours.end_logits, theirs.end_logits)
    else:
        torch.testing.assert_close(ours, theirs.logits)
    assert set(model.state_dict()) == set(reference.state_dict())
    assert not model.training
    examples = Examples("planted", (10,), classes=3, vocabulary=VOCABULARY)
    first = rows_of(inputs, slice(0, 1))
    assert task == "seq2seq" or get_task(task).misfit(call(model, first), examples) is None


TEXT = ["causal_lm", "encoder", "masked_lm", "sequence_classification", "token_classification"]


@pytest.mark.parametrize("task", TEXT)
def test_padding_behind_the_text_changes_nothing(tmp_path: Path, task: str) -> None:
    write_model(tmp_path / "net", task)
    model = build_model(spec_of(tmp_path / "net", task))
    ids = tokens(2, 12)
    ids[1, 7:] = PADDING
    with torch.no_grad():
        padded, alone = model(ids)[1], model(ids[1:, :7])[0]
        other = model(ids.clamp(min=0))[1]
    # Kernels of another length round differently.
    close = {"rtol": 1e-4, "atol": 1e-5}
    if padded.dim() == 2:
        torch.testing.assert_close(padded[:, :7], alone, **close)
    else:
        torch.testing.assert_close(padded, alone, **close)
    if task != "causal_lm":
        assert (padded - other).abs().max() > 1e-3, "token 0 is no padding"


def test_padding_of_two_texts_changes_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "net", "seq2seq")
    model = build_model(spec_of(tmp_path / "net", "seq2seq"))
    ids, written = tokens(1, 12), tokens(1, 7)
    ids[0, 9:], written[0, 5:] = PADDING, PADDING
    with torch.no_grad():
        padded = model(input_ids=ids, decoder_input_ids=written)[0, :, :5]
        alone = model(input_ids=ids[:, :9], decoder_input_ids=written[:, :5])[0]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_a_kind_of_model_without_the_tasks_head_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "net", "causal_lm")
    with pytest.raises(LowRankError, match=r"transformers has no llama for the task segmentation"):
        build_model(spec_of(tmp_path / "net", "segmentation"))


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_folder_needs_nothing_else(tmp_path: Path, task: str, dtype: str) -> None:
    write_model(tmp_path / "net", task)
    spec = spec_of(tmp_path / "net", task, dtype=dtype)
    model = build_model(spec)
    stored = huggingface.self_contained(spec, model)
    save(model, tmp_path / "saved", stored)
    shutil.rmtree(tmp_path / "net")
    assert str(tmp_path) not in (tmp_path / "saved/network.json").read_text()
    again = load(tmp_path / "saved")
    inputs = moved(inputs_of(task), torch.device("cpu"), getattr(torch, dtype))
    with torch.no_grad():
        first, second = (list(leaves(call(one, inputs))) for one in (model, again))
    assert first and all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert next(again.parameters()).dtype is getattr(torch, dtype)
    if task == "causal_lm":
        head, embedding = again.get_submodule("lm_head"), again.get_submodule("model.embed_tokens")
        assert head.weight is embedding.weight, "tied they were, tied they are"


def test_the_spec_of_any_other_network_stays(tmp_path: Path) -> None:
    spec = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    assert huggingface.self_contained(spec, nn.Linear(3, 2)) == spec


def test_projections_are_targets_and_tied_embeddings_are_not(tmp_path: Path) -> None:
    write_model(tmp_path / "net", "causal_lm")
    model = build_model(spec_of(tmp_path / "net", "causal_lm"))
    targets, skipped = find_targets(model)
    assert len(targets) == 2 * 7
    assert all(name.startswith("model.layers.") for name in targets)
    assert "tied" in skipped["lm_head"]
    positions = trace_positions(model, tokens(1, 10))
    assert {positions[name] for name in targets} == {(10, 10)}
    layers = layer_macs(model, trace_positions(model, tokens(1, 10)))
    assert layers["model.layers.0.self_attn.k_proj"] == 10 * 32 * 16  # two of four heads
    assert layers["lm_head"] == 10 * 32 * VOCABULARY


def test_a_checksum_guards_folder_and_tokenizer(tmp_path: Path) -> None:
    write_model(tmp_path / "net", "encoder")
    right = content_sha256(tmp_path / "net")
    build_model(spec_of(tmp_path / "net", "encoder", sha256=right))
    assert len(huggingface.load_tokenizer(str(tmp_path / "net"), right)) == VOCABULARY
    config = json.loads((tmp_path / "net/config.json").read_text())
    (tmp_path / "net/config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(LowRankError, match=r"the checksum is sha256 .* correct model\.sha256"):
        build_model(spec_of(tmp_path / "net", "encoder", sha256=right))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "translation"}, r"task=translation: unknown; choose one of causal_lm"),
        ({"dtype": "int8"}, r"model\.dtype=int8: unknown; choose one of float32"),
        ({"name": "./nowhere"}, r"model\.name=\./nowhere: no such file or folder"),
        ({"name": "model.gguf"}, r"model\.name=model\.gguf: no such file or folder"),
        ({"name": "{}/config.json"}, r"config\.json: give a folder or a \.gguf file"),
        ({"name": "org/net", "sha256": "0" * 64}, r"org/net is a name on a hub; set it to null"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    write_model(tmp_path / "net", "encoder")
    if "name" in changed:
        changed = changed | {"name": changed["name"].format(tmp_path / "net")}
    with pytest.raises(LowRankError, match=message):
        build_model(spec_of(tmp_path / "net", "encoder", **changed))


def test_weights_that_are_not_there_are_never_made_up(tmp_path: Path) -> None:
    write_model(tmp_path / "net", "encoder")
    message = r"no weights for classifier\.bias, classifier\.weight; give a checkpoint .*classif"
    with pytest.raises(LowRankError, match=message):
        build_model(spec_of(tmp_path / "net", "sequence_classification"))


def test_a_folder_without_weights_says_what_else_would_do(tmp_path: Path) -> None:
    write_model(tmp_path / "net", "encoder")
    (tmp_path / "net/model.safetensors").unlink()
    with pytest.raises(LowRankError, match=r"cannot be loaded \(.*give a local folder"):
        build_model(spec_of(tmp_path / "net", "encoder"))


def test_a_gguf_file_is_dequantised_once(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    reference = write_model(tmp_path / "net", "causal_lm")
    tokenizer = huggingface.load_tokenizer(str(tmp_path / "net"), None)
    path = tmp_path / "net.gguf"
    write_gguf(path, reference, tokenizer)
    spec = spec_of(path, "causal_lm", sha256=content_sha256(path))
    model = build_model(spec)
    ids = huggingface.load_tokenizer(str(path), None)("The river carried a small boat.")
    assert ids["input_ids"] == tokenizer("The river carried a small boat.")["input_ids"]
    expected = reference.state_dict()
    for name, weight in model.state_dict().items():
        largest = expected[name].abs().max()
        # Eight bits with a scale for 32 values: half a step of 1/127 of the largest.
        assert (weight - expected[name]).abs().max() <= largest / 250, name
        if "q_proj" in name:
            assert not torch.equal(weight, expected[name])
    save(model, tmp_path / "saved", huggingface.self_contained(spec, model))
    path.unlink()
    again = load(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(model(tokens()), again(tokens()))


def test_a_detector_is_planned_by_the_parts_of_its_output(tmp_path: Path) -> None:
    """A DETR with random weights: logits and boxes count, each by its own variance."""
    import transformers

    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone,
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=5,
        num_labels=3,
    )  # fmt: skip
    transformers.DetrForObjectDetection(config).save_pretrained(tmp_path / "net")
    net = build_model(spec_of(tmp_path / "net", "custom"))
    images = [torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    task = lr.tasks.Custom(output=["logits", "pred_boxes"])
    assert task.rows(call(net, images[0]), None).shape == (4, 5 * (4 + 4))
    plan = lr.plan(net, lr.Budget(params=0.8), calibration=images, task=task)
    assert len(plan.factorized) > 5
    small = lr.apply_(net, plan).network
    assert call(small, images[0]).pred_boxes.shape == (4, 5, 4)
