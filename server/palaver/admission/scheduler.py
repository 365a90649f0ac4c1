"""Scheduler: which of the generations in line gets the engine's next free place.

Every tenant has a counter of the tokens that it was served, divided by its weight, and the tenant
with the lowest goes next: virtual token counters, algorithm 2 of Sheng et al., "Fairness in Serving
Large Language Models" (OSDI 2024). The prompt counts when the generation gets its place, the reply
while it is written. Nobody saves anything up while away: who comes back to the line starts level
with the least served of those who are in it. As long as two tenants stay in line, what they were
served differs by no more than what the places hold, however long that is.

The lanes share the places in the same way, by the weights in `LANES`; within each the tenants do.

A generation that runs is not interrupted, so one that comes while all places are taken waits for
the next that ends. The last few places, the reserve, therefore go only to tenants who have few,
where there is more than one tenant: beside a flood, others still find a place free.

Plain calls without a clock or a task: `palaver.engines.scheduled` brings both.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Generic, TypeVar

from palaver.config.settings import Lane

NameT = TypeVar("NameT", bound=str)

LANES: Mapping[Lane, float] = {"interactive": 16.0, "channel": 4.0, "batch": 1.0}
"""The lanes' weights. Shares and not a strict order, in which one busy lane would starve those
below it: here each that is in line gets at least a 21st. Someone who comes into a quiet lane goes
first all the same, since the others have been served more by weight."""
OUTPUT = 2.0
"""What a token of the reply counts for, against 1 of the prompt: a step of the engine makes one of
these, and reads many of those. (The paper's figure.)"""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One generation: whose it is, the estimated tokens of its ``prompt``, and how many it may
    take ``at_most``, prompt and reply."""

    tenant: str
    lane: Lane
    prompt: int = 0
    at_most: int = 0


class Counters(Generic[NameT]):
    """How much each of several contenders was served, by its weight."""

    def __init__(self, weight: Callable[[NameT], float]) -> None:
        self._weight = weight
        self._served: dict[NameT, float] = {}
        self._last: NameT | None = None

    def served(self, name: NameT) -> float:
        return self._served.get(name, 0.0)

    def enter(self, name: NameT, others: Collection[NameT]) -> None:
        """``name`` joins ``others`` in line: level with the least served of them, or with the one
        that left last when there are none."""
        levels = others or ([] if self._last is None else [self._last])
        level = min(map(self.served, levels), default=0.0)
        self._served[name] = max(self.served(name), level)

    def leave(self, name: NameT) -> None:
        """Nothing of ``name`` is in line any more."""
        self._last = name

    def least(self, names: Collection[NameT]) -> NameT:
        """Who of ``names`` was served least; the first of those that are level."""
        return min(names, key=self.served)

    def charge(self, name: NameT, tokens: float) -> None:
        self._served[name] = self.served(name) + tokens / self._weight(name)


class _Lane:
    """One lane: its tenants' tickets in line, oldest first, and those that have a place."""

    def __init__(self, places: int, weight: Callable[[str], float]) -> None:
        self.places = places
        self.counters = Counters(weight)
        self.line: dict[str, dict[Ticket, None]] = {}
        self.running: set[Ticket] = set()

    def join(self, ticket: Ticket) -> None:
        if ticket.tenant not in self.line:
            self.counters.enter(ticket.tenant, self.line)
            self.line[ticket.tenant] = {}
        self.line[ticket.tenant][ticket] = None

    def take_out(self, ticket: Ticket) -> bool:
        """Take a ticket out of the line; False when it is not in it."""
        tickets = self.line.get(ticket.tenant, {})
        if ticket not in tickets:
            return False
        del tickets[ticket]
        if not tickets:
            del self.line[ticket.tenant]
            self.counters.leave(ticket.tenant)
        return True

    def tickets(self) -> Iterator[Ticket]:
        for tickets in self.line.values():
            yield from tickets


class Scheduler:
    """``places`` generations run at once, ``batch_places`` of them in the lane ``batch``, and the
    last ``reserve`` for who has few; ``weight`` tells a tenant's weight."""

    def __init__(
        self,
        places: int,
        *,
        reserve: int = 0,
        batch_places: int | None = None,
        weight: Callable[[str], float] = lambda tenant: 1.0,
    ) -> None:
        self.places = places
        self._lanes = {lane: _Lane(places, weight) for lane in LANES}
        if batch_places is not None:
            self._lanes["batch"].places = batch_places
        self._reserve = reserve
        self._weight = weight
        self._known: set[str] = set()
        self._held: dict[str, int] = {}
        """Places by tenant."""
        self._shares: Counters[Lane] = Counters(LANES.__getitem__)

    def join(self, ticket: Ticket) -> None:
        """Stand in line."""
        lane = self._lanes[ticket.lane]
        if not lane.line:
            self._shares.enter(ticket.lane, [name for name, it in self._lanes.items() if it.line])
        lane.join(ticket)
        self._known.add(ticket.tenant)

    def next(self) -> Ticket | None:
        """Give a place to the ticket that is due. None when no place is free, or nobody in line
        may have it."""
        able: dict[Lane, Collection[str]] = {
            name: tenants
            for name, lane in self._lanes.items()
            if len(lane.running) < lane.places and (tenants := self._able(lane))
        }
        if not able:
            return None
        name = self._shares.least(able)
        lane = self._lanes[name]
        ticket = next(iter(lane.line[lane.counters.least(able[name])]))
        self._take_out(lane, ticket)
        lane.running.add(ticket)
        self._held[ticket.tenant] = self._held.get(ticket.tenant, 0) + 1
        self.charge(ticket, ticket.prompt)
        return ticket

    def _able(self, lane: _Lane) -> Collection[str]:
        """The tenants in the lane's line who may have the next place."""
        free = self.places - self.running
        if free > self._reserve or len(self._known) == 1:
            return lane.line if free > 0 else ()
        if free <= 0 or not lane.line:
            return ()
        few = self._few()
        return [name for name in lane.line if self._held.get(name, 0) < few * self._weight(name)]

    def _few(self) -> float:
        """How many places are few for a tenant of weight 1: less than its part of those beside the
        reserve, or than half of what the tenant with the most has."""
        present = set(self._held).union(*(lane.line for lane in self._lanes.values()))
        part = (self.places - self._reserve) // sum(map(self._weight, present))
        most = max((held / self._weight(name) for name, held in self._held.items()), default=0.0)
        return max(1.0, part, most / 2)

    def _take_out(self, lane: _Lane, ticket: Ticket) -> bool:
        taken = lane.take_out(ticket)
        if taken and not lane.line:
            self._shares.leave(ticket.lane)
        return taken

    def charge(self, ticket: Ticket, tokens: float) -> None:
        """The ticket was served ``tokens``; negative to correct what was charged too much."""
        self._lanes[ticket.lane].counters.charge(ticket.tenant, tokens)
        self._shares.charge(ticket.lane, tokens)

    def leave(self, ticket: Ticket) -> bool:
        """The generation has ended, or gives up: it leaves the line or frees its place. Whether it
        had a place. Idempotent."""
        lane = self._lanes[ticket.lane]
        if ticket in lane.running:
            lane.running.remove(ticket)
            self._held[ticket.tenant] -= 1
            if not self._held[ticket.tenant]:
                del self._held[ticket.tenant]
            return True
        self._take_out(lane, ticket)
        return False

    # What is told about it

    @property
    def running(self) -> int:
        return sum(len(lane.running) for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        return sum(len(tickets) for lane in self._lanes.values() for tickets in lane.line.values())

    def running_in(self, lane: Lane) -> int:
        return len(self._lanes[lane].running)

    def waiting_in(self, lane: Lane) -> int:
        return sum(map(len, self._lanes[lane].line.values()))

    def tokens_in(self, lane: Lane) -> int:
        """Tokens that the generations in line may take."""
        return sum(ticket.at_most for ticket in self._lanes[lane].tickets())

    def waiting_of(self, tenant: str, lane: Lane) -> int:
        return len(self._lanes[lane].line.get(tenant, ()))

    def served(self, tenant: str, lane: Lane) -> float:
        """The tenant's counter."""
        return self._lanes[lane].counters.served(tenant)

    def ahead(self, ticket: Ticket) -> int | None:
        """About how many get a place before the ticket; None when it is not in line."""
        own = self._lanes[ticket.lane].line.get(ticket.tenant, {})
        if ticket not in own:
            return None
        return self.before(ticket.tenant, ticket.lane, list(own).index(ticket))

    def before(self, tenant: str, lane: Lane, own: int) -> int:
        """About how many get a place before a tenant's ticket that has ``own`` of the tenant's
        before it: of each other tenant as many and one, as they take turns, and of each other lane
        what its weight allows meanwhile."""
        line = self._lanes[lane].line
        others = sum(min(len(line[other]), own + 1) for other in line if other != tenant)
        turns = (own + others + 1) / LANES[lane]
        beside = sum(
            min(self.waiting_in(other), int(turns * weight))
            for other, weight in LANES.items()
            if other != lane
        )
        return own + others + beside
