"""Sentence encoders: an embedding for each text, whose direction is what counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.agreement import no_labels
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Given, Task
from pipeline.lowrank.tasks.measure import Measure
from pipeline.lowrank.tasks.outputs import TASKS_PAGE, described

_NEAREST = 10
_COSINE = Measure(
    "cosine",
    "cosine to dense",
    "maximize",
    "",
    "four digits",
    elsewhere="cosine, out of domain",
)
_RECALL = Measure(
    f"recall_at_{_NEAREST}",
    f"recall at {_NEAREST}",
    "maximize",
    "%",
    "percent",
    elsewhere="recall, out of domain",
)


class Encoder(Task):
    """The network reads token ids (N, T), perhaps padded, and gives embeddings (N, width), whose
    length means nothing. The divergence is 1 − cosine, which is ½‖u − v‖² of the unit vectors u and
    v; the sampled loss is ⟨z, u⟩ with z normal."""

    name = "encoder"
    unit = "1 − cosine"
    inputs = "tokens"
    labels = None
    measures = (_COSINE, _RECALL)
    watched = _COSINE

    def rows(self, output: Any, mask: Tensor | None) -> Tensor:
        return self.prediction(output)

    def prediction(self, output: Any) -> Tensor:
        found = self.selected(output)
        if not isinstance(found, Tensor) or found.dim() != 2:
            raise LowRankError(
                f"the task encoder reads embeddings (N, width); the network gives "
                f"{described(found)}: let it give one embedding for each example, or choose "
                f"another task; {TASKS_PAGE}"
            )
        return found

    def normalised(self, rows: Tensor) -> Tensor:
        return functional.normalize(rows.float(), dim=-1)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return (dense - other).square().sum() / 2

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator).to(rows.device)
        return (noise * self.normalised(rows)).sum()

    def misfit(self, output: Any, examples: Examples) -> str | None:
        found = self.selected(output)
        fits = isinstance(found, Tensor) and found.dim() == 2
        return None if fits else "an encoder must give [1, width]; choose another task"

    def target(self, given: Given) -> Any:
        return None if given.dense is None else self.prediction(given.dense)

    def loss(self, output: Any, labels: Any, label_smoothing: float) -> Tensor:
        raise no_labels(self.name)

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        return 1 - functional.cosine_similarity(output, dense).mean()

    def scores(self, output: Any, labels: Any) -> ExampleScores:
        found = self.prediction(output)
        return {"embedding": found.double().cpu(), "dense": labels.double().cpu()}

    def progress(self, scores: Sequence[ExampleScores]) -> tuple[float, float]:
        found, dense = (torch.cat([one[key] for one in scores]) for key in ("embedding", "dense"))
        cosine = float(functional.cosine_similarity(found, dense).sum())
        return cosine, len(found) - cosine

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """`cosine`, the mean cosine of both networks' embeddings of a passage, and
        `recall_at_10`: how many of a passage's ten nearest others stay among them."""
        found, first = (
            functional.normalize(torch.cat([one[key] for one in scores]))
            for key in ("embedding", "dense")
        )
        return {
            "cosine": float((found * first).sum(1).mean()),
            f"recall_at_{_NEAREST}": recall(first, found, _NEAREST),
        }


def recall(truth: Tensor, found: Tensor, nearest: int) -> float:
    """The mean fraction of each row's `nearest` others by `truth` that are also nearest by `found`.

    truth, found: (N, width) with rows of norm 1; nearest at most N − 1 are compared.
    """
    nearest = min(nearest, len(truth) - 1)
    sets = []
    for rows in (truth, found):
        similarity = rows @ rows.T
        similarity.fill_diagonal_(-torch.inf)
        near = similarity.topk(nearest).indices
        sets.append(torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, near, True))
    return float((sets[0] & sets[1]).sum() / sets[0].sum())
