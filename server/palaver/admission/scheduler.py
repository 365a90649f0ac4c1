"""Scheduler: chooses the queued generation that gets the engine's next free slot.

Every tenant has a counter of the tokens that it was served, divided by its weight, and the tenant
with the lowest counter is next: virtual token counters, algorithm 2 of Sheng et al., "Fairness in
Serving Large Language Models" (OSDI 2024). The prompt is charged when the generation gets its slot,
the reply while it is written. An absent tenant saves nothing up: when it enters the queue again,
its counter is raised to the lowest of those in it. While two tenants stay in the queue, the tokens
that they are served differ by no more than what the slots hold.

The lanes share the slots in the same way, by the weights in `LANES`, and the tenants share each
lane.

A running generation is not interrupted, so one that arrives while all slots are taken waits for the
next that ends. The last few slots, the reserve, therefore go only to tenants with few slots, once
there is more than one tenant: beside a flood, other tenants still find a free slot.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from palaver.config.settings import AdmissionSettings, Lane

NameT = TypeVar("NameT", bound=str)

LANES: Mapping[Lane, float] = {"interactive": 16.0, "channel": 4.0, "batch": 1.0}
"""The lanes' weights. They are shares and not priorities: a busy lane would starve those below it.
Here each lane with a queue gets at least a 21st of the slots. A generation in a quiet lane is
first all the same, since the others were served more by weight."""
OUTPUT = 2.0
"""Weight of an output token, against 1 for a prompt token (the paper's figure): a step of the
engine writes one output token, and reads many prompt tokens."""


def lane_of(settings: AdmissionSettings, channel: str) -> Lane:
    """Return the lane of a channel's turns."""
    default: Lane = "interactive" if channel == "web" else "channel"
    return settings.lanes.get(channel, default)


@dataclasses.dataclass(slots=True, eq=False)
class Ticket:
    """One generation: its tenant and lane, the estimated tokens of its prompt, and the most that it
    may take, prompt and reply. ``output_tokens`` is what it has written so far."""

    tenant: str
    lane: Lane
    prompt_tokens: int = 0
    max_tokens: int = 0
    output_tokens: int = 0
    charged_output: int = 0


class Counters(Generic[NameT]):
    """The tokens that each of several competitors was served, divided by its weight."""

    def __init__(self, weight: Callable[[NameT], float]) -> None:
        self._weight = weight
        self._served: dict[NameT, float] = {}
        self._last: NameT | None = None

    def served(self, name: NameT) -> float:
        return self._served.get(name, 0.0)

    def enter(self, name: NameT, others: Collection[NameT]) -> None:
        """Raise the counter of ``name``, which enters the queue of ``others``, to the lowest of
        theirs; to the counter of the last that left when the queue is empty."""
        served = self._served
        if others:
            level = min(served.get(other, 0.0) for other in others)
        else:
            level = served.get(self._last, 0.0) if self._last is not None else 0.0
        if level > served.get(name, 0.0):
            served[name] = level

    def leave(self, name: NameT) -> None:
        """Record that nothing of ``name`` is queued any more."""
        self._last = name

    def least(self, names: Collection[NameT]) -> NameT:
        """Return the one that was served least; of several, the first."""
        return next(iter(names)) if len(names) == 1 else min(names, key=self.served)

    def charge(self, name: NameT, tokens: float) -> None:
        self._served[name] = self._served.get(name, 0.0) + tokens / self._weight(name)


class WaitEstimator:
    """The pace of the queue: seconds from one freed slot to the next.

    It is the average over the slots freed in about the last four rounds; unknown, and 0, until the
    end of the first. Times are in seconds of one clock.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._mean = 0.0
        self._count = 0
        self._since: float | None = None
        """When a slot was last freed while there was a queue."""

    def slot_freed(self, now: float) -> None:
        if self._since is not None:
            self._count = min(self._count + 1, 4 * self._slots)
            self._mean += (now - self._since - self._mean) / self._count
            self._since = now

    def queue_changed(self, now: float, *, waiting: bool) -> None:
        """Take note of the queue after every change of it."""
        if not waiting:
            self._since = None
        elif self._since is None:
            self._since = now

    def seconds_per_slot(self, now: float) -> float:
        known = self._mean if self._count >= self._slots else 0.0
        silent = 0.0 if self._since is None else now - self._since
        return max(known, silent / self._slots)


class _Lane:
    """One lane: its queue, by tenant and oldest first, and the tickets that have a slot."""

    def __init__(self, slots: int, weight: Callable[[str], float]) -> None:
        self.slots = slots
        self.counters = Counters(weight)
        self.queue: dict[str, dict[Ticket, None]] = {}
        self.running: set[Ticket] = set()
        self.waiting = 0
        self.waiting_tokens = 0

    def enqueue(self, ticket: Ticket) -> None:
        tickets = self.queue.get(ticket.tenant)
        if tickets is None:
            self.counters.enter(ticket.tenant, self.queue)
            tickets = self.queue[ticket.tenant] = {}
        tickets[ticket] = None
        self.waiting += 1
        self.waiting_tokens += ticket.max_tokens

    def dequeue(self, ticket: Ticket) -> bool:
        """Remove a ticket from the queue. Return False when it is not in it."""
        tickets = self.queue.get(ticket.tenant)
        if tickets is None or ticket not in tickets:
            return False
        del tickets[ticket]
        if not tickets:
            del self.queue[ticket.tenant]
            self.counters.leave(ticket.tenant)
        self.waiting -= 1
        self.waiting_tokens -= ticket.max_tokens
        return True


class Scheduler:
    """Fair queue in front of ``slots`` generations at once, ``batch_slots`` of them in the lane
    ``batch``, with the last ``reserve`` for tenants with few slots.

    ``weight`` returns a tenant's weight, ``clock`` the time in seconds.
    """

    def __init__(
        self,
        slots: int,
        *,
        reserve: int = 0,
        batch_slots: int | None = None,
        weight: Callable[[str], float] = lambda tenant: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running = 0
        self.waiting = 0
        self._weight = weight
        self._clock = clock
        self._lanes = {lane: _Lane(slots, weight) for lane in LANES}
        self._tenants: set[str] = set()
        self._slots_of: dict[str, int] = {}
        self._shares: Counters[Lane] = Counters(LANES.__getitem__)
        self.resize(slots, reserve=reserve, batch_slots=batch_slots)

    def resize(self, slots: int, *, reserve: int = 0, batch_slots: int | None = None) -> None:
        """Set the number of slots, before anything is queued."""
        self.slots = slots
        self._reserve = reserve
        self._pace = WaitEstimator(slots)
        for lane in self._lanes.values():
            lane.slots = slots
        if batch_slots is not None:
            self._lanes["batch"].slots = batch_slots

    # A ticket: enqueue, start_next, charge, remove

    def enqueue(self, ticket: Ticket) -> None:
        lane = self._lanes[ticket.lane]
        self._charge_output()
        if not lane.queue:
            self._shares.enter(ticket.lane, [name for name, it in self._lanes.items() if it.queue])
        lane.enqueue(ticket)
        self.waiting += 1
        self._tenants.add(ticket.tenant)

    def start_next(self) -> Ticket | None:
        """Give a slot to the ticket that is next. Return None when no slot is free, or no queued
        tenant may have it."""
        if not self.waiting or self.running >= self.slots:
            return None
        eligible: dict[Lane, Collection[str]] = {}
        for name, lane in self._lanes.items():
            if lane.waiting and len(lane.running) < lane.slots:
                tenants = self._eligible(lane)
                if tenants:
                    eligible[name] = tenants
        if not eligible:
            return None
        if self.waiting > 1:
            self._charge_output()
        name = self._shares.least(eligible)
        lane = self._lanes[name]
        ticket = next(iter(lane.queue[lane.counters.least(eligible[name])]))
        self._dequeue(lane, ticket)
        lane.running.add(ticket)
        self.running += 1
        self._slots_of[ticket.tenant] = self._slots_of.get(ticket.tenant, 0) + 1
        self.charge(ticket, ticket.prompt_tokens)
        return ticket

    def charge(self, ticket: Ticket, tokens: float) -> None:
        """Add ``tokens`` to the counters of the ticket's tenant and lane; negative to correct an
        estimate that was too high."""
        self._lanes[ticket.lane].counters.charge(ticket.tenant, tokens)
        self._shares.charge(ticket.lane, tokens)

    def remove(self, ticket: Ticket) -> bool:
        """Remove a ticket that has ended or gives up. Return whether it had a slot. Idempotent."""
        lane = self._lanes[ticket.lane]
        if ticket not in lane.running:
            self._dequeue(lane, ticket)
            return False
        self._charge_output_of(ticket)
        lane.running.remove(ticket)
        self.running -= 1
        self._slots_of[ticket.tenant] -= 1
        if not self._slots_of[ticket.tenant]:
            del self._slots_of[ticket.tenant]
        if self.waiting:
            self._pace.slot_freed(self._clock())
        return True

    def queue_changed(self) -> None:
        """Update the pace of the queue, once the free slots are given away."""
        self._pace.queue_changed(self._clock() if self.waiting else 0.0, waiting=self.waiting > 0)

    def _dequeue(self, lane: _Lane, ticket: Ticket) -> None:
        if lane.dequeue(ticket):
            self.waiting -= 1
            if not lane.queue:
                self._shares.leave(ticket.lane)

    def _charge_output(self) -> None:
        """Charge what the running generations have written since this was last called: counters
        are compared only where this has been called before."""
        for lane in self._lanes.values():
            for ticket in lane.running:
                if ticket.output_tokens != ticket.charged_output:
                    self._charge_output_of(ticket)

    def _charge_output_of(self, ticket: Ticket) -> None:
        written = ticket.output_tokens - ticket.charged_output
        if written:
            ticket.charged_output = ticket.output_tokens
            self.charge(ticket, OUTPUT * written)

    def _eligible(self, lane: _Lane) -> Collection[str]:
        """Return the queued tenants of a lane that may have the next free slot."""
        if self.slots - self.running > self._reserve or len(self._tenants) == 1:
            return lane.queue
        few = self._few_slots()
        slots_of = self._slots_of
        return [name for name in lane.queue if slots_of.get(name, 0) < few * self._weight(name)]

    def _few_slots(self) -> float:
        """Return the slots below which a tenant of weight 1 has few: less than its part of those
        beside the reserve, or than half of what the tenant with the most has."""
        present = set(self._slots_of).union(*(lane.queue for lane in self._lanes.values()))
        part = (self.slots - self._reserve) // sum(map(self._weight, present))
        most = max((slots / self._weight(it) for it, slots in self._slots_of.items()), default=0.0)
        return max(1.0, part, most / 2)

    # Figures

    def running_in_lane(self, lane: Lane) -> int:
        return len(self._lanes[lane].running)

    def waiting_in_lane(self, lane: Lane) -> int:
        return self._lanes[lane].waiting

    def waiting_tokens(self, lane: Lane) -> int:
        """Return the tokens that the queued generations of a lane may take."""
        return self._lanes[lane].waiting_tokens

    def served(self, tenant: str, lane: Lane) -> float:
        """Return the tenant's counter."""
        self._charge_output()
        return self._lanes[lane].counters.served(tenant)

    def position(self, ticket: Ticket) -> int | None:
        """Return about how many tickets get a slot before this one; None when it is not queued."""
        own = self._lanes[ticket.lane].queue.get(ticket.tenant, {})
        if ticket not in own:
            return None
        return self.tickets_before(ticket.tenant, ticket.lane, list(own).index(ticket))

    def tickets_before(self, tenant: str, lane: Lane, own: int) -> int:
        """Return about how many tickets get a slot before one of the tenant's that has ``own`` of
        the tenant's before it: of each other tenant as many and one, as they take turns, and of
        each other lane what its weight allows in the same time."""
        queue = self._lanes[lane].queue
        others = sum(min(len(queue[other]), own + 1) for other in queue if other != tenant)
        turns = (own + others + 1) / LANES[lane]
        beside = sum(
            min(self._lanes[other].waiting, int(turns * weight))
            for other, weight in LANES.items()
            if other != lane
        )
        return own + others + beside

    def estimated_wait(self, tenant: str, lane: Lane, starting: int) -> float:
        """Return about how many seconds a new generation would be queued, with ``starting`` more of
        the tenant's own before it that are not queued yet."""
        free = self.slots - self.running
        if not self.waiting and starting < free:
            return 0.0
        own = len(self._lanes[lane].queue.get(tenant, ())) + starting
        before = max(0, self.tickets_before(tenant, lane, own) - free)
        return before * self._pace.seconds_per_slot(self._clock())
