"""Text becomes token splits that share no document, each token predicted once."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from pipeline.data.files import DataFacts, load_facts, load_split
from pipeline.data.options import DataOptions, TextOptions
from pipeline.data.preparation import prepare_data
from pipeline.data.sources.texts import prose, read_texts
from pipeline.data.splits import TokenSplit, consecutive_ranges
from pipeline.lowrank import LowRankError
from pipeline.lowrank.network.calling import PADDING
from pipeline.lowrank.tasks import Classification, get_task
from pipeline.machine.checksums import content_sha256
from pipeline.models.huggingface import load_tokenizer
from tests.models.transformers_case import chapters, write_book, write_model, write_tokenizer

pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"calibration": 3, "validation": 2, "test": 4}
TEXT: dict[str, Any] = {
    "sequence_length": 32,
    "text_column": "text",
    "label_column": None,
    "generated": 0,
    "ood_path": None,
    "ood": 2,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def causal_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("causal_lm")
    write_model(folder, "causal_lm")
    return folder


def prepare(
    folder: Path, path: Path, tokenizer: Path, *, task: str = "causal_lm", **changed: Any
) -> DataFacts:
    chosen = TEXT | {k: changed.pop(k) for k in TEXT if k in changed}
    text = TextOptions(tokenizer=str(tokenizer), **chosen)
    sizes = {"held_out": 0.0, **SIZES, **changed}
    options = DataOptions(name="text", path=str(path), text=text, **sizes)
    return prepare_data(folder / "data", options, get_task(task), seed=0)


def decoded(tokenizer: Path, split: TokenSplit) -> str:
    from transformers import AutoTokenizer

    ids = torch.cat([split.stored.flatten(), split.labels[-1, -1:]])
    return str(AutoTokenizer.from_pretrained(tokenizer).decode(ids))


def test_splits_are_whole_documents_in_order(tmp_path: Path, tokenizer: Path) -> None:
    book = write_book(tmp_path / "book.txt", 12)
    meta = prepare(tmp_path, book, tokenizer)
    assert meta.sizes == SIZES | {"train": meta.sizes["train"], "held_out": 0}
    assert meta.sha256 == {"book.txt": content_sha256(book)}
    written = chapters(12)
    place = []
    for name in ("train", "calibration", "validation", "test"):
        split = load_split(tmp_path / "data", name)
        text = decoded(tokenizer, split)
        # All of it stands in the book, and begins where a chapter begins.
        starts = [n for n, chapter in enumerate(written) if chapter.startswith(text[:100])]
        assert len(starts) == 1
        assert text in "\n\n".join(written) + "\n\n"
        place.append(starts[0])
        # Every token is predicted once: labels are the inputs, one on.
        assert torch.equal(split.stored.flatten()[1:], split.labels.flatten()[:-1])
    assert place[0] == 0 and all(a < b for a, b in pairwise(place))


def test_a_document_is_in_one_split_only_and_none_is_longer_than_needed() -> None:
    counts = [5, 1, 9, 4, 4, 7, 2, 8]
    ranges = consecutive_ranges(
        counts, {"calibration": 6, "validation": 4, "test": 9}, rest="train", unit="tokens"
    )
    assert list(ranges) == ["train", "calibration", "validation", "test"]
    assert [n for chosen in ranges.values() for n in chosen] == list(range(len(counts)))
    for split, size in {"calibration": 6, "validation": 4, "test": 9}.items():
        held = [counts[n] for n in ranges[split]]
        assert sum(held) >= size > sum(held[1:])
    with pytest.raises(LowRankError, match=r"8 documents of 40 tokens are too few .*form feed"):
        consecutive_ranges(counts, {"test": 36}, rest="train", unit="tokens")


def test_the_same_files_twice_and_a_second_text(tmp_path: Path, tokenizer: Path) -> None:
    book, other = write_book(tmp_path / "b.txt"), write_book(tmp_path / "o.txt", seed=5)
    for name in ("one", "two"):
        meta = prepare(tmp_path / name, book, tokenizer, ood_path=str(other))
    files = sorted(p.name for p in (tmp_path / "one/data").iterdir())
    splits = ("calibration", "held_out", "ood", "test", "train", "validation")
    assert files == sorted(["data.json", *(f"{split}.safetensors" for split in splits)])
    for name in files:
        one, two = ((tmp_path / n / "data" / name).read_bytes() for n in ("one", "two"))
        assert one == two
    assert meta.sizes["ood"] == 2
    assert meta.sha256["out of domain: o.txt"] == content_sha256(other)
    assert decoded(tokenizer, load_split(tmp_path / "one/data", "ood")) in "\n\n".join(
        chapters(12, seed=5)
    )
    with pytest.raises(LowRankError, match=r"the checksum is sha256"):
        prepare(tmp_path, book, tokenizer, sha256="0" * 64)
    with pytest.raises(LowRankError, match=r"data\.text\.ood=10000: its documents give \d+ exam"):
        prepare(tmp_path, book, tokenizer, ood_path=str(other), ood=10_000)


def test_masked_tokens_are_the_labels(tmp_path: Path, tokenizer: Path) -> None:
    book = write_book(tmp_path / "b.txt")
    with pytest.raises(LowRankError, match="no mask token, which the task masked_lm needs"):
        prepare(tmp_path, book, tokenizer, task="masked_lm")
    masking = tmp_path / "masking"
    shutil.copytree(tokenizer, masking)
    known = load_tokenizer(str(masking), None)
    known.add_special_tokens({"mask_token": "<mask>"})
    known.save_pretrained(masking)
    facts = prepare(tmp_path, book, masking, task="masked_lm")
    split = load_split(tmp_path / "data", "train")
    assert facts.label_shape == split.labels.shape[1:] == split.stored.shape[1:]
    masked = split.stored == known.mask_token_id
    assert torch.equal(masked, split.labels >= 0)
    assert 0.1 < masked.float().mean() < 0.2
    prepare(tmp_path / "whole", book, tokenizer)
    whole = load_split(tmp_path / "whole/data", "train").stored
    assert torch.equal(torch.where(masked, split.labels, split.stored), whole)


def test_passages_are_paragraphs_padded_behind(tmp_path: Path, tokenizer: Path) -> None:
    prepare(tmp_path, write_book(tmp_path / "b.txt"), tokenizer, task="encoder", sequence_length=64)
    split = load_split(tmp_path / "data", "test")
    assert split.stored.shape == (4, 64) and split.labels is None
    assert ((split.stored == PADDING).int().diff(dim=1) >= 0).all(), "only behind the text"
    lengths = (split.stored != PADDING).sum(1)
    assert lengths.min() >= 24, "headings of three words are no passages"
    inputs, _ = split.batch(torch.tensor([int(lengths.argmin())]))
    assert inputs.shape == (1, int(lengths.min())), "a batch is as long as its longest passage"


def rows(folder: Path, suffix: str) -> Path:
    """90 labelled rows: three classes by their first word, in proportion 3 : 2 : 1."""
    labels = ["alpha", "beta", "alpha", "gamma", "alpha", "beta"] * 15
    table = [{"text": f"{label} says number {n}", "kind": label} for n, label in enumerate(labels)]
    path = folder / f"rows.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_labelled_rows_are_stratified(tmp_path: Path, tokenizer: Path, suffix: str) -> None:
    from transformers import AutoTokenizer

    options = {"task": "sequence_classification", "label_column": "kind", "sequence_length": 24}
    sizes = {"calibration": 12, "validation": 12, "test": 30}
    meta = prepare(tmp_path, rows(tmp_path, suffix), tokenizer, **options, **sizes)
    assert meta.class_names == ("alpha", "beta", "gamma") and meta.classes == 3
    test = load_split(tmp_path / "data", "test")
    assert test.labels.bincount().tolist() == [15, 10, 5]
    words = AutoTokenizer.from_pretrained(tokenizer)
    for ids, label in zip(test.stored, test.labels, strict=True):
        assert words.decode(ids[ids != PADDING]).startswith(meta.class_names[int(label)])
    assert load_facts(tmp_path / "data").task == "sequence_classification"


def test_a_data_set_of_the_datasets_library(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    rows(tmp_path / "set", "jsonl")
    corpus = read_texts(f"datasets:{tmp_path}/set", None, text_column="text", label_column="kind")
    assert len(corpus.documents) == 90
    assert (corpus.documents[3].text, corpus.documents[3].label) == ("gamma says number 3", "gamma")


def test_a_page_gives_its_prose() -> None:
    page = """<html><head><title>no</title><script>no()</script></head><body>
    <ul class="docnav top"><li>no <ul><li>no</li></ul></li></ul><div id="banner">no</div>
    <h2>A heading</h2><p>First   <em>one</em>
    &amp; more.<pre>no code</pre></p><table><tr><td>no</td></tr></table>
    <div class="section"><p>Second.</div></body></html>"""
    assert prose(page) == "A heading\n\nFirst one & more.\n\nSecond."


def test_a_folder_is_read_as_its_index_says(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.html").write_text(f"<p>Page {name}.</p>")
    links = "".join(f'<a href="{n}.html#x">{n}</a>' for n in ("c", "a", "c"))
    (tmp_path / "index.html").write_text(links)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    corpus = read_texts(str(tmp_path), None, text_column="text", label_column=None)
    assert [d.text for d in corpus.documents] == ["Page c.", "Page a.", "Page b."]
    pattern = read_texts(f"{tmp_path}/[ab].html", None, text_column="text", label_column=None)
    assert [d.text for d in pattern.documents] == ["Page a.", "Page b."]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": "nowhere.txt"}, r"nowhere\.txt: no text files there; give a file"),
        ({"path": "{}/empty.txt"}, r"empty\.txt: holds no text"),
        ({"path": "{}/a.pdf"}, r"a\.pdf: not read; give one of \.txt"),
        ({"path": "{}/bad.jsonl"}, r"bad\.jsonl: cannot be read"),
        ({"path": "{}/rows.jsonl", "text_column": "txt"}, r"no column 'txt' among text, kind"),
        ({"label_column": "kind"}, r"label_column=kind: not used by the task causal_lm"),
        (
            {"label_column": "kind", "task": "sequence_classification"},
            r"book\.txt has no columns",
        ),
        ({"task": "sequence_classification"}, r"label_column=None: .*needs it; name the column"),
        ({"task": "translate"}, r"task 'translate': unknown"),
        ({"test": 10_000}, r"12 documents of \d+ tokens are too few for .*data\.test"),
        ({"train": 10_000}, r"data\.train=10000: its documents give \d+ examples only"),
    ],
)
def test_text_that_cannot_be_used(
    tmp_path: Path, tokenizer: Path, changed: dict[str, Any], message: str
) -> None:
    rows(tmp_path, "jsonl")
    for name, content in (("empty.txt", " \n\f\n"), ("a.pdf", "%PDF"), ("bad.jsonl", "{")):
        (tmp_path / name).write_text(content)
    book = str(write_book(tmp_path / "book.txt"))
    options = {"path": book, **changed}
    path = Path(options.pop("path").format(tmp_path))
    with pytest.raises(LowRankError, match=message):
        prepare(tmp_path, path, tokenizer, **options)
    assert not (tmp_path / "data").exists()


def test_what_the_network_writes_is_spread_over_the_calibration(
    tmp_path: Path, causal_lm: Path
) -> None:
    book = write_book(tmp_path / "b.txt")
    plain = prepare(tmp_path / "plain", book, causal_lm)
    for name in ("one", "two"):
        meta = prepare(tmp_path / name, book, causal_lm, generated=4)
    size = plain.sizes["calibration"]
    assert meta.sizes == plain.sizes | {"calibration": size + 4}
    one, two = (load_split(tmp_path / name / "data", "calibration") for name in ("one", "two"))
    assert torch.equal(one.stored, two.stored), "seeded"
    book_alone = load_split(tmp_path / "plain/data", "calibration").stored
    own = [not bool((row == book_alone).all(1).any()) for row in one.stored]
    assert sum(own) == 4 and 0 < sum(own[: len(own) // 2]) < 4, "in every part"
    assert torch.equal(one.stored[~torch.tensor(own)], book_alone)
    assert torch.equal(one.stored[:, 1:], one.labels[:, :-1])
    firsts = {int(row[0]) for row, written in zip(one.stored, own, strict=True) if written}
    assert len(firsts) > 1
    for split in ("train", "validation", "test"):
        files = [
            (tmp_path / n / f"data/{split}.safetensors").read_bytes() for n in ("plain", "one")
        ]
        assert files[0] == files[1]


def test_only_language_models_write(tmp_path: Path, causal_lm: Path) -> None:
    book = write_book(tmp_path / "b.txt")
    with pytest.raises(LowRankError, match=r"data\.text\.generated=1: a model of the task encoder"):
        prepare(tmp_path, book, causal_lm, task="encoder", generated=1)
    with pytest.raises(LowRankError, match=r"sequence_length=65: .* has 64 positions"):
        prepare(tmp_path, book, causal_lm, sequence_length=65, generated=1)
    text = TextOptions(tokenizer=str(causal_lm))
    options = DataOptions(name="text", path=str(book), text=text)
    with pytest.raises(LowRankError, match="the task classification reads no text"):
        prepare_data(tmp_path / "data", options, Classification(), seed=0)
