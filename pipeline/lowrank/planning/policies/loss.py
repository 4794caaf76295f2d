"""The smallest network whose predicted loss increase stays below a limit, in nats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.network.costs import CostUnit, Totals
from pipeline.lowrank.planning.policies.base import COST_UNIT, Choice, Offer, Policy, Selection
from pipeline.lowrank.typed import knob, options

_HALVINGS = 100  # of the interval of prices, which spans 60 orders of magnitude


@options
class Loss(Policy):
    """The smallest network whose loss increases by at most `nats`: min Σ cost subject to ½ Σ
    squared error ≤ nats (metric `fisher`: nats of loss per unit).

    By Lagrangian relaxation: every target takes the candidate with the least cost + price · error,
    at the smallest price that keeps the limit. The limit is on the *predicted* increase, which is
    local; `pipeline.lowrank.factorize.contest.hold_limit` corrects it by what is measured.
    """

    nats: float = knob(
        default=0.02,
        gt=0,
        allow_inf_nan=False,
        help="loss: largest increase of the loss per unit (an example, a token)",
    )
    cost_unit: CostUnit = COST_UNIT

    name: ClassVar[str] = "loss"

    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        fronts = {n: o.front(self.cost_unit) for n, o in offers.items() if o.settled is None}
        given = sum(o.settled.candidate.squared_error for o in offers.values() if o.settled)
        columns = {
            n: (
                torch.tensor(
                    [offers[n].cost(c, self.cost_unit) for c in front], dtype=torch.float64
                ),
                torch.tensor([c.squared_error for c in front], dtype=torch.float64),
            )
            for n, front in fronts.items()
        }
        places = _least_price(columns, 2.0 * self.nats - given)
        return Selection(
            {
                name: offer.settled or self._choice(fronts[name][places[name]])
                for name, offer in offers.items()
            }
        )

    def _choice(self, candidate: Candidate) -> Choice:
        if candidate.method == "dense":
            return Choice(candidate, f"dense: within {self.nats:g} nats other layers save more")
        return Choice(candidate, f"smallest network within {self.nats:g} nats of predicted loss")


def _least_price(columns: Mapping[str, tuple[Tensor, Tensor]], limit: float) -> dict[str, int]:
    """{name: place on its front} at the smallest price of error at which the errors add up to ≤
    limit; at an infinite price these are the dense candidates, which have no error."""

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
