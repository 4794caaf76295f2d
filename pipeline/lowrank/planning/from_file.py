"""A plan that a person wrote or edited, as a policy: nothing is left to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.network.costs import CostUnit, Totals
from pipeline.lowrank.planning.policies.base import Offer, Policy, Selection
from pipeline.lowrank.typed import knob, options


@options
class FromFile(Policy):
    """The policy of a plan that was read from a file. `sha256` is the checksum of the file's
    content, so that another content is another policy."""

    sha256: str = knob(help="file: checksum of the plan")

    name: ClassVar[str] = "file"

    @property
    def cost_unit(self) -> CostUnit:
        return "params"

    def select(self, offers: Mapping[str, Offer], totals: Totals) -> Selection:
        raise LowRankError("a plan from a file leaves nothing to select; check it against offers")
