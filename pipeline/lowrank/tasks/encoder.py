"""Sentence encoders: an embedding for each text, whose direction is what counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.tasks.base import Examples, ExampleScores, Task
from pipeline.lowrank.tasks.measure import Measure, difference, four_digits, percent, points

_NEAREST = 10
_COSINE = Measure(
    "cosine",
    "cosine to dense",
    "maximize",
    "",
    four_digits,
    difference,
    elsewhere="cosine, out of domain",
)
_RECALL = Measure(
    f"recall_at_{_NEAREST}",
    f"recall at {_NEAREST}",
    "maximize",
    "%",
    percent,
    points,
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
        if not isinstance(output, Tensor) or output.dim() != 2:
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise LowRankError(
                f"the task encoder reads embeddings (N, width); the network gives {got}: let it "
                "give one embedding for each example, or choose another task"
            )
        return output

    def normalised(self, rows: Tensor) -> Tensor:
        return functional.normalize(rows.float(), dim=-1)

    def divergence(self, dense: Tensor, other: Tensor) -> Tensor:
        return (dense - other).square().sum() / 2

    def sampled_loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(rows.shape, generator=generator).to(rows.device)
        return (noise * self.normalised(rows)).sum()

    def misfit(self, output: Any, examples: Examples) -> str | None:
        fits = isinstance(output, Tensor) and output.dim() == 2
        return None if fits else "an encoder must give [1, width]; choose another task"

    def loss(self, output: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        raise LowRankError(
            "an encoder's text has no labels: there is no loss to train on; choose "
            "baseline=pretrained, and fine_tune.objective=distill"
        )

    def distillation(self, output: Tensor, dense: Tensor, temperature: float) -> Tensor:
        return 1 - functional.cosine_similarity(output, dense).mean()

    def scores(self, output: Tensor, labels: Tensor) -> ExampleScores:
        return {"embedding": output.double().cpu()}

    def progress(
        self, scores: Sequence[ExampleScores], dense: ExampleScores | None
    ) -> tuple[float, float]:
        found = torch.cat([part["embedding"] for part in scores])
        truth = found if dense is None else dense["embedding"]
        cosine = float(functional.cosine_similarity(found, truth).sum())
        return cosine, len(found) - cosine

    def quality(
        self, scores: Sequence[ExampleScores], dense: Sequence[ExampleScores]
    ) -> dict[str, float]:
        """`cosine`, the mean cosine of both networks' embeddings of a passage, and
        `recall_at_10`: how many of a passage's ten nearest others stay among them."""
        found, first = (
            functional.normalize(torch.cat([part["embedding"] for part in parts]))
            for parts in (scores, dense)
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
