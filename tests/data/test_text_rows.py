"""Rows of text with labels of every kind become the tensors that their task reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.files import example_input, load_facts, load_split
from pipeline.data.labels import IGNORED
from pipeline.data.options import DataOptions, TextOptions
from pipeline.data.preparation import prepare_data
from pipeline.lowrank import LowRankError
from pipeline.lowrank.network.calling import PADDING
from pipeline.lowrank.tasks import get_task
from tests.models.transformers_case import write_tokenizer

pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"calibration": 8, "held_out": 0.0, "validation": 4, "test": 8}
ROW = {"text": "the river carried a boat", "label": "pos"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return path


def prepare(
    path: Path, tokenizer: Path, task: str, *, class_names: Any = None, **text: Any
) -> Path:
    options = DataOptions(
        name="text",
        path=str(path),
        class_names=class_names,
        text=TextOptions(tokenizer=str(tokenizer), **({"sequence_length": 16} | text)),
        **SIZES,
    )
    folder = path.parent / "data"
    prepare_data(folder, options, get_task(task), seed=0)
    return folder


def decoded(tokenizer: Path, ids: torch.Tensor) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(tokenizer).decode(ids[ids >= 0]))


@pytest.mark.parametrize("how", ["the network's own", "the user's", "sorted"])
def test_classes_are_numbered_as_the_network_has_them(
    tmp_path: Path, tokenizer: Path, how: str
) -> None:
    """label2id {pos: 0, neg: 1}, whatever the alphabet says."""
    rows = [
        {"text": f"row {n} is {label}", "label": label}
        for n, label in enumerate(("neg", "pos") * 20)
    ]
    own = tmp_path / "net"
    shutil.copytree(tokenizer, own)
    if how == "the network's own":
        config = {"model_type": "bert", "id2label": {"0": "pos", "1": "neg"}}
        (own / "config.json").write_text(json.dumps(config))
    given = ("pos", "neg") if how == "the user's" else None
    data = prepare(
        write(tmp_path / "rows.jsonl", rows),
        own,
        "sequence_classification",
        class_names=given,
        label_column="label",
    )
    names = load_facts(data).class_names
    assert names == (("neg", "pos") if how == "sorted" else ("pos", "neg"))
    split = load_split(data, "train")
    for ids, label in zip(split.stored, split.labels, strict=True):
        assert decoded(own, ids).endswith(names[int(label)])


def test_whole_numbers_are_the_numbers_of_the_networks_classes(
    tmp_path: Path, tokenizer: Path
) -> None:
    rows = [ROW | {"label": n % 2} for n in range(40)]
    data = prepare(
        write(tmp_path / "rows.jsonl", rows),
        tokenizer,
        "sequence_classification",
        class_names=("pos", "neg", "none of both"),
        label_column="label",
    )
    assert load_facts(data).classes == 3, "a class need not occur"
    assert load_split(data, "train").labels.bincount().tolist() == [10, 10]


def test_tags_stand_at_the_first_token_of_their_word(tmp_path: Path, tokenizer: Path) -> None:
    words, tags = ["Old", "stonehouses", "stood"], ["adjective", "noun", "verb"]
    rows = [{"words": words, "tags": tags} for _ in range(40)]
    data = prepare(
        write(tmp_path / "rows.jsonl", rows),
        tokenizer,
        "token_classification",
        text_column="words",
        label_column="tags",
    )
    split, facts = load_split(data, "train"), load_facts(data)
    assert facts.class_names == ("adjective", "noun", "verb")
    ids, labels = split.stored[0], split.labels[0]
    assert labels[labels != IGNORED].tolist() == [0, 1, 2]
    starts = (labels != IGNORED).nonzero().flatten().tolist()
    for word, start, stop in zip(words, starts, [*starts[1:], int((ids >= 0).sum())], strict=True):
        assert decoded(tokenizer, ids[start:stop]).strip() == word


def test_the_second_text_is_predicted_from_its_own_beginning(
    tmp_path: Path, tokenizer: Path
) -> None:
    own = tmp_path / "net"
    shutil.copytree(tokenizer, own)
    config = {"model_type": "t5", "decoder_start_token_id": 7}
    (own / "config.json").write_text(json.dumps(config))
    rows = [{"text": f"row {n}", "answer": "a boat " * (1 + n % 9)} for n in range(40)]
    data = prepare(
        write(tmp_path / "rows.jsonl", rows),
        own,
        "seq2seq",
        target_column="answer",
        target_length=12,
    )
    split, facts = load_split(data, "train"), load_facts(data)
    inputs, labels = split.batch(slice(None))
    fed = inputs["decoder_input_ids"]
    assert facts.input_shape == {"input_ids": (16,), "decoder_input_ids": (12,)}
    assert facts.label_shape == (12,)
    assert (fed[:, 0] == 7).all()
    known = labels >= 0
    assert torch.equal(fed[:, 1:] >= 0, known[:, 1:])
    assert torch.equal(fed[:, 1:][known[:, 1:]], labels[:, :-1][known[:, 1:]])
    assert decoded(own, labels[0]).startswith("a boat")
    example = example_input(facts.examples, get_task("seq2seq"))
    assert {k: (tuple(v.shape), v.dtype) for k, v in example.items()} == {
        "input_ids": ((1, 16), torch.int64),
        "decoder_input_ids": ((1, 12), torch.int64),
    }


def test_texts_have_numbers_or_several_classes(tmp_path: Path, tokenizer: Path) -> None:
    rows = [{"text": f"row {n}", "stars": n / 2, "about": ["a", "b"][: n % 3]} for n in range(40)]
    path = write(tmp_path / "rows.jsonl", rows)
    data = prepare(path, tokenizer, "regression", label_column="stars")
    split = load_split(data, "train")
    for ids, label in zip(split.stored, split.labels, strict=True):
        assert decoded(tokenizer, ids) == f"row {int(label * 2)}"
    data = prepare(path, tokenizer, "multilabel", label_column="about")
    split = load_split(data, "train")
    assert load_facts(data).class_names == ("a", "b")
    for ids, label in zip(split.stored, split.labels, strict=True):
        assert label.sum() == int(decoded(tokenizer, ids).split()[1]) % 3


def test_a_folder_that_the_datasets_library_saved_is_text(tmp_path: Path, tokenizer: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [ROW | {"label": ("neg", "pos")[n % 2]} for n in range(40)]
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})
    saved.save_to_disk(str(tmp_path / "saved"))
    data = prepare(tmp_path / "saved", tokenizer, "sequence_classification", label_column="label")
    assert load_facts(data).class_names == ("neg", "pos")


@pytest.mark.parametrize("line", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, tokenizer: Path, line: str) -> None:
    rows = [{"text": f"one{line}two", "label": n % 2} for n in range(40)]
    data = prepare(
        write(tmp_path / "rows.jsonl", rows),
        tokenizer,
        "sequence_classification",
        label_column="label",
    )
    assert sum(load_facts(data).sizes.values()) == 40


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None}, r"row 3: 'text' is null; give a text"),
        ({"text": 7}, r"row 3: 'text' is int, no text"),
        ({"label": None}, r"the label of row 3 is None: give every row a text or a whole number"),
        ({"label": float("nan")}, r"the label of row 3 is nan"),
        ({"label": 0.5}, r"the label of row 3 is 0.5"),
        ({"label": {"a": 1}}, r"the label of row 3 is {'a': 1}"),
    ],
)
def test_a_row_that_cannot_be_meant_is_named(
    tmp_path: Path, tokenizer: Path, row: dict[str, Any], message: str
) -> None:
    rows = [ROW | {"label": n % 2} for n in range(40)]
    rows[3] |= row
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(LowRankError, match=message) as caught:
        prepare(path, tokenizer, "sequence_classification", label_column="label")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", r"line 41 is a list, not an object"),
        ("nonsense", r"line 41 is no JSON"),
        ('{"text": "cut', r"line 41 is no JSON"),
        ("[" * 200_000, r"line 41 is no JSON"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", r"line 41 is no JSON"),
    ],
)
def test_a_line_that_is_no_row_is_named(
    tmp_path: Path, tokenizer: Path, line: str, message: str
) -> None:
    path = write(tmp_path / "rows.jsonl", [ROW | {"label": n % 2} for n in range(40)])
    path.write_text(path.read_text() + line)
    with pytest.raises(LowRankError, match=message) as caught:
        prepare(path, tokenizer, "sequence_classification", label_column="label")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("label", [2**31 - 1, 2**62, 10**30])
def test_a_huge_number_is_a_class_like_others(tmp_path: Path, tokenizer: Path, label: int) -> None:
    rows = [ROW | {"label": (0, label)[n % 2]} for n in range(40)]
    data = prepare(
        write(tmp_path / "rows.jsonl", rows),
        tokenizer,
        "sequence_classification",
        label_column="label",
    )
    assert load_facts(data).class_names == ("0", str(label))


def test_a_very_long_line_is_read_only_as_far_as_it_counts(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ROW | {"label": n % 2} for n in range(40)]
    rows[7]["text"] = "boat " * 2**21  # 10 MB
    path = write(tmp_path / "rows.jsonl", rows)
    longest = []

    def watched(loader: Any) -> Any:
        def load(*arguments: Any) -> Any:
            made = loader(*arguments)

            class Watching:
                def __call__(self, texts: Any, **options: Any) -> Any:
                    given = texts if isinstance(texts, list) else [texts]
                    longest.append(max(map(len, given)))
                    return made(texts, **options)

                def __len__(self) -> int:
                    return len(made)

            return Watching()

        return load

    from pipeline.data import text

    monkeypatch.setattr(text, "load_tokenizer", watched(text.load_tokenizer))
    data = prepare(path, tokenizer, "sequence_classification", label_column="label")
    assert max(longest) < 10**5
    stored = torch.cat(
        [load_split(data, name).stored for name in ("train", "calibration", "validation", "test")]
    )
    assert ((stored == PADDING).sum(1) == 0).sum() == 1, "the long text fills its row"
