"""The smallest network whose predicted loss increase stays below a limit, in nats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.costs import Cost, Totals
from pipeline.lowrank.planning.policies.base import Choice, Option, Policy, Selection, check_cost

_HALVINGS = 100  # of the interval of prices, which spans 60 orders of magnitude


@dataclass(frozen=True)
class Loss(Policy):
    """min Σ cost subject to ½ Σ squared error ≤ nats (metric `fisher`: nats of loss per unit).

    By Lagrangian relaxation: every target takes the candidate with the least cost + price · error,
    at the smallest price that keeps the limit. The limit is on the *predicted* increase, which is
    local; `pipeline.lowrank.factorize.contest.hold_limit` corrects it by what is measured.
    """

    nats: float = 0.05
    cost: Cost = "params"

    name: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        check_cost(self.cost)
        if not 0.0 < self.nats < math.inf:
            raise LowRankError(f"nats is {self.nats}: choose a number above 0")

    def select(self, options: Mapping[str, Option], totals: Totals) -> Selection:
        fronts = {n: o.front(self.cost) for n, o in options.items() if o.settled is None}
        given = sum(o.settled.candidate.squared_error for o in options.values() if o.settled)
        columns = {
            n: (
                torch.tensor([options[n].cost(c, self.cost) for c in front], dtype=torch.float64),
                torch.tensor([c.squared_error for c in front], dtype=torch.float64),
            )
            for n, front in fronts.items()
        }
        places = _least_price(columns, 2.0 * self.nats - given)
        return Selection(
            {
                name: option.settled or self._choice(fronts[name][places[name]])
                for name, option in options.items()
            }
        )

    def _choice(self, candidate: Candidate) -> Choice:
        if candidate.method == "dense":
            return Choice(candidate, f"dense: within {self.nats:g} nats other layers save more")
        return Choice(candidate, f"smallest network within {self.nats:g} nats of predicted loss")


def _least_price(columns: Mapping[str, tuple[Tensor, Tensor]], limit: float) -> dict[str, int]:
    """Places on the fronts at the smallest price of error whose errors add up to ≤ limit; the
    dense ones, without error, at an infinite price."""

    def at(price: float) -> dict[str, int]:
        return {n: int((cost + price * error).argmin()) for n, (cost, error) in columns.items()}

    low, high = -30.0, 30.0  # decimal logarithms
    best = {n: int(error.argmin()) for n, (_, error) in columns.items()}
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        places = at(10.0**middle)
        if math.fsum(columns[n][1][i].item() for n, i in places.items()) <= limit:
            best, high = places, middle
        else:
            low = middle
    return best
