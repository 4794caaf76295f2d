"""Text that a language model writes itself: calibration data of every domain that it knows.

Statistics of one text alone make a compressed network forget other domains; text that the network
itself writes covers them all, and needs no data (Liu et al. 2023, "LLM-QAT", arXiv 2305.17888).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.models.huggingface import from_pretrained

_TOGETHER = 32  # sequences; their keys and values stay in memory


def generate_sequences(
    name: str, sha256: str | None, count: int, length: int, seed: int, *, task: str
) -> Tensor:
    """(count, length) int64 tokens that the language model `name` of the task `task` writes: the
    first one is drawn uniformly, the others as it predicts them (temperature 1, the whole
    vocabulary); seeded.

    The end of a text is never drawn. Raises LowRankError for a model that cannot be loaded or that
    takes shorter texts only.
    """
    model = from_pretrained(name, sha256, task=task, dtype="float32")
    fed = length - 1  # the last token is never an input
    positions = getattr(model.config, "max_position_embeddings", fed)
    if positions < fed:
        raise LowRankError(
            f"data.text.sequence_length={fed}: {name} has {positions} positions; ask for "
            "shorter sequences, or set data.text.generated=0"
        )
    parts = []
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        first = torch.randint(model.config.vocab_size, (count, 1))
        for start in torch.split(first, _TOGETHER):
            parts.append(
                model.generate(
                    start,
                    attention_mask=torch.ones_like(start),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    repetition_penalty=1.0,
                    min_new_tokens=fed,
                    max_new_tokens=fed,
                    use_cache=True,
                )
            )
    return torch.cat(parts)
