"""Networks are called as people call them: by keyword, with what acts as a dict, with lists; they
give tuples and dicts; what cannot be read is told in one line."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipeline.lowrank as lr
from pipeline.lowrank.network.calling import beginning_of, call, rows_of

X = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Calls its first layer by keyword, and gives what `give` makes of its logits."""

    def __init__(self, give: Any = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.out, self.give = nn.Linear(32, 32), nn.Linear(32, 10), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.out(self.body(input=x).relu()))


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def planned(net: nn.Module, batch: Any, **options: Any) -> lr.Plan:
    return lr.plan(net, lr.Budget(params=0.7), calibration=[batch], **options)


@pytest.mark.parametrize(
    "layout",
    [lambda x: (x,), lambda x: [x], lambda x: {"x": x}, lambda x: UserDict(x=x)],
    ids=["tuple", "list", "dict", "UserDict"],
)
@pytest.mark.parametrize(
    "give",
    [
        lambda logits: (torch.tensor(0.5), logits),
        lambda logits: {"logits": logits, "hidden": None},
        Output,
    ],
    ids=["tuple", "dict", "object"],
)
def test_any_layout_gives_the_plan_of_a_tensor(layout: Any, give: Any) -> None:
    plain, other = planned(Net(), X), planned(Net(give), layout(X))
    assert plain.layers == other.layers and set(plain.layers) == {"body", "out"}
    assert [c.measured_divergence for c in plain.contest] == [
        c.measured_divergence for c in other.contest
    ]


def test_classes_of_a_dict_are_last() -> None:
    dense = torch.randn(2, 5, 3)  # two texts of five tokens and three classes
    for output in ({"logits": dense}, Output(dense)):
        rows = lr.tasks.get_task("classification").rows(output, None)
        assert torch.equal(rows, dense.flatten(0, 1))


@pytest.mark.parametrize(
    "output", [{"scores": torch.ones(2, 3)}, (), ("text",), None, torch.ones(2, 1), torch.ones(2)]
)
def test_outputs_that_no_class_can_be_read_from_are_refused_in_one_line(output: Any) -> None:
    with pytest.raises(lr.LowRankError, match=r"^the network gives [^\n]* choose the task"):
        lr.tasks.get_task("classification").rows(output, None)


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        ([X, torch.zeros(40)], "too many positional"),
        ({"x": X, "labels": torch.zeros(40)}, "unexpected keyword argument 'labels'"),
        ({}, "missing a required argument"),
    ],
)
def test_a_batch_with_labels_is_refused_in_one_line(batch: Any, problem: str) -> None:
    with pytest.raises(lr.LowRankError, match=rf"^the model's forward [^\n]*{problem}[^\n]*$"):
        call(Net(), batch)


def test_a_fault_inside_of_the_model_stays_its_own() -> None:
    with pytest.raises(TypeError, match="NoneType"):
        call(Net(lambda logits: logits + None), X)


def test_rows_of_a_batch_keep_its_layout() -> None:
    first = slice(0, 2)
    assert rows_of([X, "name"], first)[0].shape == (2, 32)
    assert isinstance(rows_of((X,), first), tuple) and isinstance(rows_of([X], first), list)
    assert rows_of(UserDict(x=X, n=3), first)["n"] == 3


def test_weights_tied_by_their_storage_are_tied_and_count_once() -> None:
    net = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(3)))
    net[1].weight = nn.Parameter(net[0].weight)  # another parameter, the same numbers
    made = lr.plan(net, lr.Budget(params=0.9), X[:1])
    reasons = {name: one.reason for name, one in made.skipped.items()}
    assert reasons == {"0": "weight is tied to 1", "1": "weight is tied to 0"}
    assert made.expected.dense.params == 2 * 32 * 32


def test_weights_without_numbers_or_of_another_kind_are_refused_in_one_line() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(lr.LowRankError, match=r"^0\.weight is on the meta device[^\n]*$"):
        lr.plan(empty, lr.Budget(params=0.5), X[:1].to("meta"))
    small = nn.Sequential(nn.Linear(32, 32)).to(torch.float8_e4m3fn)
    with pytest.raises(lr.LowRankError, match=r"^the model has no layer[^\n]*float8_e4m3fn[^\n]*$"):
        lr.plan(small, lr.Budget(params=0.5), X[:1])

    class Quantized(torch.Tensor):
        pass

    stored = nn.Sequential(nn.Linear(32, 32))
    stored[0].weight = nn.Parameter(stored[0].weight.detach().as_subclass(Quantized))
    with pytest.raises(lr.LowRankError, match=r"^the model has no layer[^\n]*Quantized[^\n]*$"):
        lr.plan(stored, lr.Budget(params=0.5), X[:1])


def test_the_why_of_a_layer_names_what_its_method_needs() -> None:
    net, x = nn.Sequential(nn.Conv3d(16, 32, 3)), torch.randn(1, 16, 5, 5, 5)
    made = lr.plan(net, lr.Budget(params=1.0), x, methods=[lr.Tucker()])
    assert made.layers["0"].why == "dense: tucker needs a Conv1d or Conv2d without groups"


class Reads(nn.Module):
    """Embeds tokens; `length` is the one length that it takes."""

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.table, self.length = nn.Embedding(9, 3), length

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.length not in (None, input_ids.shape[1]):
            raise ValueError("another length")
        found: Tensor = self.table(input_ids)
        return found


def test_the_beginning_of_a_text_is_what_the_model_takes() -> None:
    ids = torch.arange(8)[None]
    assert torch.equal(beginning_of(Reads(), ids, 5), ids[:, :5])
    both = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert {k: v.shape[1] for k, v in beginning_of(Reads(), both, 5).items()} == dict.fromkeys(
        both, 5
    )
    assert beginning_of(Reads(), ids, 8) is ids
    assert beginning_of(Reads(length=8), ids, 5) is ids, "it takes no shorter one"
    image = torch.randn(1, 8)
    assert beginning_of(nn.Linear(8, 2), image, 5) is image
