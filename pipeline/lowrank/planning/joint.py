"""Several layers that are decided together: those of one inner dimension are narrowed all at once,
or each of them becomes what it may become by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from pipeline.lowrank.methods.candidate import Candidate
from pipeline.lowrank.methods.interpolative import is_narrower
from pipeline.lowrank.network.costs import CostUnit, TimedTotals
from pipeline.lowrank.network.inner.dimension import InnerDimension
from pipeline.lowrank.network.targets import Target
from pipeline.lowrank.planning.further import Further
from pipeline.lowrank.planning.narrowing import Narrowing
from pipeline.lowrank.planning.policies.base import (
    Choice,
    LocalPolicy,
    Offer,
    Policy,
    Selection,
)
from pipeline.lowrank.planning.policies.knapsack import along_hull

_NOTHING = TimedTotals(0, 0, 0, 0)
_DENSE = "dense: other layers of its dimension save more cheaply"


@dataclass(frozen=True)
class Joint(Candidate):
    """A candidate for several targets together; costs are sums, and so are squared errors, each as
    it counts beside those of other targets.

    parts: {target: what it becomes}.
    bytes: as params and macs.
    relative: the sum of ‖W − Ŵ‖²/‖W‖² over the targets; worst: the largest of them.
    """

    parts: Mapping[str, Candidate] = field(default_factory=dict)
    bytes: int = 0
    relative: float = 0.0
    worst: float = 0.0

    def cost(self, target: Target, unit: CostUnit) -> int:
        costs = {"params": self.params, "macs": self.macs, "bytes": self.bytes}
        return self.latency if unit == "latency" else costs[unit]


@dataclass(frozen=True)
class JointOffer(Offer):
    """The offers of several targets as one; `target` is the first of them.

    members: {target: its own offer}.
    dimension: that all of them share.
    """

    members: Mapping[str, Offer] = field(default_factory=dict)
    dimension: InnerDimension | None = None

    @property
    def dense(self) -> Candidate:
        return self.candidates[0]

    def relative_squared(self, candidate: Candidate) -> float:
        assert isinstance(candidate, Joint)
        return candidate.relative

    def worst_squared(self, candidate: Candidate) -> float:
        assert isinstance(candidate, Joint)
        return candidate.worst

    def front(self, unit: CostUnit, *, relative: bool = False) -> list[Candidate]:
        def error(candidate: Candidate) -> float:
            return self.relative_squared(candidate) if relative else candidate.squared_error

        front: list[Candidate] = []
        for one in sorted(self.candidates, key=lambda c: (self.cost(c, unit), error(c))):
            if not front or error(one) < error(front[-1]):
                front.append(one)
        return front


def joined(
    offers: Mapping[str, Offer], narrowing: Narrowing, policy: Policy, further: Further
) -> dict[str, Offer]:
    """The offers with those of the layers of each inner dimension made one, under the name of the
    dimension. A dimension stays apart where an override decides one of its layers.

    policy: that will choose; one that looks at a layer at a time says what each layer of a
        dimension becomes by itself.
    further: what the layers may become that are narrowed and then factorized.
    """
    found, unit = dict(offers), policy.cost_unit
    for name, dimension in narrowing.found.items():
        members = {member.layer: offers[member.layer] for member in dimension.layers}
        if any(offer.given for offer in members.values()):
            continue
        for layer in members:
            del found[layer]
        offer = _joint_offer(name, members, narrowing, policy)
        both = _further(offer, further.get(name, {}), narrowing, name, unit)
        found[name] = replace(offer, candidates=[*offer.candidates, *both])
    return found


def apart(selection: Selection, offers: Mapping[str, Offer], order: Sequence[str]) -> Selection:
    """The selection for the targets themselves, in this order."""
    choices: dict[str, Choice] = {}
    for name, choice in selection.choices.items():
        offer = offers[name]
        if isinstance(offer, JointOffer):
            choices.update(_parts(name, offer, choice))
        else:
            choices[name] = choice
    return Selection({name: choices[name] for name in order}, selection.optimality_gap)


def _parts(name: str, offer: JointOffer, choice: Choice) -> dict[str, Choice]:
    assert isinstance(choice.candidate, Joint)
    assert offer.dimension is not None
    found = {}
    for layer, part in choice.candidate.parts.items():
        settled, why = offer.members[layer].settled, choice.why
        if is_narrower(part.method):
            why = f"{part.ranks[0]} of the {offer.dimension.width} channels before {name}; {why}"
        elif part.method == "dense":
            why = settled.why if settled else why
            if not settled and choice.candidate.method != "dense":
                why = f"{_DENSE}; {choice.why}"
        found[layer] = Choice(part, why)
    return found


def _joint_offer(
    name: str, members: Mapping[str, Offer], narrowing: Narrowing, policy: Policy
) -> JointOffer:
    dense = _joint(members, {n: offer.dense for n, offer in members.items()})
    return JointOffer(
        target=next(iter(members.values())).target,
        squared_norm=sum(offer.squared_norm for offer in members.values()),
        candidates=[
            dense,
            *_narrower(name, members, narrowing),
            *_layer_by_layer(members, policy),
        ],
        members=members,
        dimension=narrowing.found[name],
    )


def _joint(
    members: Mapping[str, Offer], parts: Mapping[str, Candidate], saved: TimedTotals = _NOTHING
) -> Joint:
    """The candidates of several targets as one; saved: what is saved in other layers."""
    methods = {part.method for part in parts.values()}
    relative = [members[name].relative_squared(part) for name, part in parts.items()]
    return Joint(
        method=methods.pop() if len(methods) == 1 else "several",
        ranks=(),
        params=sum(part.params for part in parts.values()) - saved.params,
        macs=sum(part.macs for part in parts.values()) - saved.macs,
        squared_error=math.fsum(members[n].weighed(part) for n, part in parts.items()),
        error_kind="exact",
        parts=parts,
        bytes=sum(members[n].cost(part, "bytes") for n, part in parts.items()) - saved.bytes,
        relative=math.fsum(relative),
        worst=max(relative),
        latency=sum(part.latency for part in parts.values()) - saved.latency,
    )


def _narrower(name: str, members: Mapping[str, Offer], narrowing: Narrowing) -> Iterator[Joint]:
    """All layers with fewer channels, one candidate for each width that is tried."""
    dimension = narrowing.found[name]
    for width in narrowing.method.widths(dimension):
        parts = {
            member.layer: narrowing.candidate(name, member, members[member.layer].target, width)
            for member in dimension.layers
        }
        yield _joint(members, parts, narrowing.saved({name: width}))


def _layer_by_layer(members: Mapping[str, Offer], policy: Policy) -> Iterator[Joint]:
    """Each layer by itself: what a policy for single layers chooses, or in either scale of errors
    what is best."""
    if isinstance(policy, LocalPolicy):
        yield _joint(members, {n: policy.choice(o).candidate for n, o in members.items()})
        return
    unit = policy.cost_unit
    fronts = {name: offer.front(unit) for name, offer in members.items()}
    for relative in (False, True):
        for parts in _at_prices(members, fronts, unit, relative=relative):
            yield _joint(members, parts)


def _further(
    offer: JointOffer,
    inside: Mapping[int, Mapping[str, Sequence[Candidate]]],
    narrowing: Narrowing,
    name: str,
    unit: CostUnit,
) -> Iterator[Joint]:
    """All layers with fewer channels, and some of them factorized too: of all widths those that
    neither one another nor a candidate of `offer` beats, in either scale of errors.

    inside: {width: {layer: what it may become there}}.
    """
    fronts = {
        width: {n: replace(offer.members[n], candidates=c).front(unit) for n, c in own.items()}
        for width, own in inside.items()
    }
    for relative in (False, True):
        known = offer.front(unit, relative=relative)
        made = [
            (width, parts)
            for width, own in fronts.items()
            for parts in _at_prices(offer.members, own, unit, relative=relative)
        ]
        joints = [_joint(offer.members, p, narrowing.saved({name: w})) for w, p in made]
        best = replace(offer, candidates=[*known, *joints]).front(unit, relative=relative)
        kept = {id(one) for one in best}
        yield from (joint for joint in joints if id(joint) in kept)


def _at_prices(
    members: Mapping[str, Offer],
    fronts: Mapping[str, Sequence[Candidate]],
    unit: CostUnit,
    *,
    relative: bool,
) -> Iterator[dict[str, Candidate]]:
    """Of all combinations of the candidates of several layers those that are best at some price of
    the error.

    fronts: {layer: its candidates by rising cost and falling error}.
    relative: errors relative to each layer's ‖W‖² are added up.
    """
    costs = [torch.tensor([members[n].cost(c, unit) for c in front]) for n, front in fronts.items()]
    errors = [
        torch.tensor(
            [members[n].relative_squared(c) if relative else members[n].weighed(c) for c in front],
            dtype=torch.float64,
        )
        for n, front in fronts.items()
    ]
    for items in along_hull(costs, errors):
        places = zip(fronts.items(), items, strict=True)
        yield {name: front[item] for (name, front), item in places}
