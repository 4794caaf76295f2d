"""Networks against the dense one, in the measure of their task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.splits import Split
from pipeline.evaluation.quality import embeddings, evaluate_quality, sequence_quality

Scores = dict[str, dict[str, float]]

_NEAREST = 10
_RESAMPLES = 2000


def compare_networks(
    networks: Mapping[str, nn.Module], splits: Mapping[str, Split], task: str, batch_size: int
) -> Scores:
    """{network: {measure: value}}; the first network is the dense one.

    splits: "test", and for text perhaps "ood", whose measures are prefixed by "ood_". By task:
    classification: accuracy, loss; causal_lm: see `perplexities`; encoder: see `fidelities`.
    """
    compare = {"causal_lm": perplexities, "encoder": fidelities}.get(task, _classification)
    scores: Scores = {name: {} for name in networks}
    for split_name, split in splits.items():
        prefix = "" if split_name == "test" else f"{split_name}_"
        for name, values in compare(networks, split, batch_size).items():
            scores[name] |= {f"{prefix}{key}": value for key, value in values.items()}
    return scores


def perplexities(networks: Mapping[str, nn.Module], split: Split, batch_size: int) -> Scores:
    """accuracy (of the next token), loss (nats a token), perplexity = exp(loss), and
    perplexity_ratio to the first network's; `_low` and `_high` are 95 % bootstrap intervals
    over sequences, for the ratio over pairs (the same sequences in both networks).
    """
    scores: Scores = {}
    first: Tensor | None = None
    for name, network in networks.items():
        right, losses = sequence_quality(network, split, batch_size)
        first = losses if first is None else first
        scores[name] = {
            "accuracy": float(right.mean()),
            "loss": float(losses.mean()),
            **_with_interval("perplexity", losses),
            **_with_interval("perplexity_ratio", losses - first),
        }
    return scores


def fidelities(networks: Mapping[str, nn.Module], split: Split, batch_size: int) -> Scores:
    """Of an encoder, against the first one: `cosine`, the mean cosine of the two embeddings of
    a passage, and `recall_at_10`: how many of a passage's ten nearest others stay among them."""
    scores: Scores = {}
    first: Tensor | None = None
    for name, network in networks.items():
        found = functional.normalize(embeddings(network, split, batch_size))
        first = found if first is None else first
        scores[name] = {
            "cosine": float((found * first).sum(1).mean()),
            f"recall_at_{_NEAREST}": recall(first, found, _NEAREST),
        }
    return scores


def recall(truth: Tensor, found: Tensor, nearest: int) -> float:
    """Mean fraction of each row's nearest others by `truth` that are nearest by `found`, too.

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


def bootstrap(values: Tensor) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the mean of `values` (N,) resampled with replacement."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
    means = values[chosen].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high


def _with_interval(name: str, logarithms: Tensor) -> dict[str, float]:
    low, high = bootstrap(logarithms)
    values = torch.tensor([float(logarithms.mean()), low, high], dtype=torch.float64).exp()
    return dict(zip((name, f"{name}_low", f"{name}_high"), values.tolist(), strict=True))


def _classification(networks: Mapping[str, nn.Module], split: Split, batch_size: int) -> Scores:
    return {name: evaluate_quality(one, split, batch_size) for name, one in networks.items()}
