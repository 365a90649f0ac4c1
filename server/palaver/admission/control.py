"""Admission control: refuses a message that cannot be served in time, before it is stored.

How many turns are unsettled, the ledger says (`Ledger.count_unsettled`); what this process has
accepted and ended since the ledger was last asked is added and subtracted.
"""

import asyncio
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from palaver.admission.quotas import Quotas, estimate_tokens, quota_exceeded
from palaver.admission.scheduler import Scheduler, lane_of
from palaver.config.settings import AdmissionSettings, Lane
from palaver.errors import LedgerUnavailable, Overloaded, PalaverError, TooMany
from palaver.ledger import Claim, Ledger, Receipt
from palaver.messages import Conversation, Message
from palaver.metrics import Metrics

REPLY_TOKENS = 512
"""Tokens that a turn counts for beside its messages: the default maximum length of a reply."""
BYTES_PER_TOKEN = 4
REFRESH_INTERVAL = 0.25
"""Seconds between two questions to the ledger at least, however many messages are refused."""
LONGEST_RETRY = 60.0
"""Seconds after which a client is asked to come back at most."""
REMEMBERED_MESSAGES = 4_096
"""Messages that may be repeated without a refusal; the ledger drops the duplicates."""
NO_PERSON = ""

KeyT = TypeVar("KeyT")


class Unsettled:
    """Counts of unsettled turns, in all, by tenant, and by tenant and person."""

    def __init__(self) -> None:
        self.turns: dict[tuple[str, str], int] = {}
        """By tenant and person; those of the whole tenant under `NO_PERSON`."""
        self.tokens: dict[str, int] = {}
        """By tenant."""
        self.total_turns = 0
        self.total_tokens = 0

    def add(self, tenant: str, person: str, turns: int, tokens: int) -> None:
        _add(self.turns, (tenant, person), turns)
        _add(self.turns, (tenant, NO_PERSON), turns)
        _add(self.tokens, tenant, tokens)
        self.total_turns += turns
        self.total_tokens += tokens

    def merge(self, other: "Unsettled") -> None:
        for (tenant, person), turns in other.turns.items():
            _add(self.turns, (tenant, person), turns)
        for tenant, tokens in other.tokens.items():
            _add(self.tokens, tenant, tokens)
        self.total_turns += other.total_turns
        self.total_tokens += other.total_tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Admission:
    """A message that may be stored now. ``tokens`` is what its turn counts for; 0 when a repeated
    message is not counted again. ``scheduler``: of the model that will probably write the reply."""

    message: tuple[Conversation, str]
    tenant: str
    person: str
    lane: Lane
    tokens: int
    scheduler: Scheduler

    @property
    def queue(self) -> "Queue":
        return self.scheduler, self.tenant, self.lane


Queue = tuple[Scheduler, str, Lane]
"""The part of a model's queue that a tenant has in a lane."""


class AdmissionControl:
    """Counts unsettled turns, and refuses messages by quota, queue length and estimated wait.

    For each message: `admit`, then `stored` or `not_stored`; for each turn that runs here:
    `turn_started` and `turn_ended`.
    """

    def __init__(
        self,
        settings: AdmissionSettings,
        *,
        ledger: Ledger,
        find_scheduler: Callable[[Message], Scheduler],
        quotas: Quotas,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._find_scheduler = find_scheduler
        self._quotas = quotas
        self._metrics = metrics
        self._counted = Unsettled()
        """The ledger's own count when it was last asked."""
        self._since = Unsettled()
        """The turns accepted here since then, less those that ended here."""
        self._being_stored = Unsettled()
        self._to_start: dict[Queue, int] = {}
        """Turns that will begin here; none that waits for another turn."""
        self._starting: dict[str, Queue] = {}
        """Those of them that are stored, by turn."""
        self._overdue: frozenset[str] = frozenset()
        """Those of these that were there at the last refresh."""
        self._accepted: OrderedDict[tuple[Conversation, str], None] = OrderedDict()
        self._refresh: asyncio.Task[None] | None = None
        self._refreshed_at = -math.inf

    @property
    def unsettled_turns(self) -> int:
        return _total([part.total_turns for part in self._parts])

    @property
    def unsettled_tokens(self) -> int:
        return _total([part.total_tokens for part in self._parts])

    @property
    def _parts(self) -> tuple[Unsettled, Unsettled, Unsettled]:
        return self._counted, self._since, self._being_stored

    # A message

    async def admit(self, message: Message) -> Admission:
        """Count the message as unsettled, or raise `TooMany` or `Overloaded`. A message that was
        accepted lately may be repeated: it is neither refused nor counted again."""
        key = (message.conversation, message.id)
        tenant, person = message.conversation.tenant, message.person
        lane = lane_of(self._settings, message.conversation.channel)
        scheduler = self._find_scheduler(message)
        if key in self._accepted:
            return Admission(key, tenant, person, lane, 0, scheduler)
        tokens = _tokens_of(message)
        admission = Admission(key, tenant, person, lane, tokens, scheduler)
        await self._check(admission)
        self._remember(key)
        self._being_stored.add(tenant, person, 1, tokens)
        _add(self._to_start, admission.queue, 1)
        self._quotas.take("messages", tenant, person, 1)
        return admission

    def stored(self, admission: Admission, receipt: Receipt) -> None:
        """Keep counting the message, unless it is not a turn of its own."""
        if not admission.tokens:
            return
        self._stop_counting(admission)
        if receipt.duplicate:
            self._quotas.take("messages", admission.tenant, admission.person, -1)
        elif not receipt.joined:
            self._since.add(admission.tenant, admission.person, 1, admission.tokens)
            if not receipt.ahead:
                self._starting[receipt.turn] = admission.queue
                _add(self._to_start, admission.queue, 1)

    def not_stored(self, admission: Admission, error: BaseException) -> None:
        """Forget a message that the ledger did not take."""
        if isinstance(error, TooMany):
            self._metrics.refused(error.reason)
        elif isinstance(error, LedgerUnavailable):
            self._metrics.refused("ledger")
        if admission.tokens:
            self._accepted.pop(admission.message, None)
            self._stop_counting(admission)
            self._quotas.take("messages", admission.tenant, admission.person, -1)

    def _remember(self, message: tuple[Conversation, str]) -> None:
        self._accepted[message] = None
        if len(self._accepted) > REMEMBERED_MESSAGES:
            self._accepted.popitem(last=False)

    def _stop_counting(self, admission: Admission) -> None:
        self._being_stored.add(admission.tenant, admission.person, -1, -admission.tokens)
        _add(self._to_start, admission.queue, -1)

    # A turn that runs here

    def turn_started(self, turn: str) -> None:
        if (key := self._starting.pop(turn, None)) is not None:
            _add(self._to_start, key, -1)

    def turn_ended(self, claim: Claim) -> None:
        """Count the turn no more. One that was released counts again after the next refresh."""
        self.turn_started(claim.turn)
        message = claim.message
        tokens = _tokens_of(message)
        self._since.add(message.conversation.tenant, message.person, -1, -tokens)

    # The ledger's count

    async def refresh(self) -> None:
        """Take over the ledger's count. Raises `LedgerUnavailable`."""
        self._refreshed_at = asyncio.get_running_loop().time()
        before = self._since
        self._since = Unsettled()
        self._counted.merge(before)
        counted = Unsettled()
        for row in await self._ledger.count_unsettled():
            tokens = row.bytes // BYTES_PER_TOKEN + REPLY_TOKENS * row.turns
            counted.add(row.tenant, row.person, row.turns, tokens)
        self._counted = counted
        for turn in self._overdue & self._starting.keys():  # it runs on another replica
            self.turn_started(turn)
        self._overdue = frozenset(self._starting)

    async def _refresh_if_due(self) -> bool:
        """Return whether the count is fresh: many refusals at once ask the ledger once."""
        loop = asyncio.get_running_loop()
        if self._refresh is None or self._refresh.done():
            if loop.time() - self._refreshed_at < REFRESH_INTERVAL:
                return False
            self._refresh = loop.create_task(self.refresh())
        try:
            await asyncio.shield(self._refresh)
        except LedgerUnavailable:
            return False
        return True

    # Refusals

    async def _check(self, admission: Admission) -> None:
        if excess := self._quotas.excess(admission.tenant, admission.person):
            self._metrics.refused(f"{excess.owner}_{excess.unit}")
            raise quota_exceeded(admission.tenant, admission.person, excess)
        refusal = self._refusal(admission)
        if refusal is not None and await self._refresh_if_due():
            refusal = self._refusal(admission)
        if refusal is not None:
            reason, error = refusal
            self._metrics.refused(reason)
            raise error

    def _refusal(self, admission: Admission) -> tuple[str, PalaverError] | None:
        """Return the metric's reason and the error when there is no room for the message."""
        wait = self._estimated_wait(admission)
        retry = min(max(wait, 1.0), LONGEST_RETRY)
        for person, limit in self._turn_limits(admission):
            if limit is not None and self._turns(admission.tenant, person) >= limit:
                return _too_many_turns(admission, person, limit, retry)
        if not self._has_room(admission):
            detail = f"{self.unsettled_tokens} tokens are unsettled"
            return "queue", Overloaded(detail, retry_after=retry)
        excess = wait - self._settings.max_wait
        if excess > 0:
            retry = min(max(excess, 1.0), LONGEST_RETRY)
            detail = f"a turn of tenant {admission.tenant!r} would be queued for {wait:.0f} s"
            return "wait", Overloaded(detail, retry_after=retry)
        return None

    def _estimated_wait(self, admission: Admission) -> float:
        starting = self._to_start.get(admission.queue, 0)
        return admission.scheduler.estimated_wait(admission.tenant, admission.lane, starting)

    def _turns(self, tenant: str, person: str) -> int:
        return _total([part.turns.get((tenant, person), 0) for part in self._parts])

    def _turn_limits(self, admission: Admission) -> Sequence[tuple[str, int | None]]:
        person = self._quotas.of_person().turns
        tenant = self._quotas.of_tenant(admission.tenant).turns
        return (admission.person, person), (NO_PERSON, tenant)

    def _has_room(self, admission: Admission) -> bool:
        """Return whether the tenant's part of the queue stays within its share of what is free.

        A tenant that is alone gets ``tenant_share`` of the queue, beside others less. The first
        message always fits.
        """
        tenant, share = admission.tenant, self._settings.tenant_share
        used = _total([part.tokens.get(tenant, 0) for part in self._parts])
        free = self._settings.queue_tokens - self.unsettled_tokens - admission.tokens
        if not used and (free >= 0 or not self.unsettled_tokens):
            return True
        return free >= 0 and (used + admission.tokens) * (1 - share) <= free * share


def _add(counts: dict[KeyT, int], key: KeyT, amount: int) -> None:
    """Add to a count, and keep no zero: the keys are as many as people."""
    count = counts.get(key, 0) + amount
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)


def _tokens_of(message: Message) -> int:
    """Return the tokens that the turn of a message counts for."""
    tokens = estimate_tokens(message.text) + REPLY_TOKENS
    if message.program:
        sent = (*(message.program.history or ()), *message.program.input)
        tokens += sum(estimate_tokens(each.shown) for each in sent)
    return tokens


def _total(counts: Iterable[int]) -> int:
    """Return the sum, which is negative for a moment when a turn ends that was accepted elsewhere
    after the ledger was last asked."""
    return max(0, sum(counts))


def _too_many_turns(
    admission: Admission, person: str, limit: int, retry: float
) -> tuple[str, TooMany]:
    owner = person or f"tenant {admission.tenant}"
    detail = f"{owner!r} has {limit} messages without a reply; wait for one first"
    reason = "tenant_turns" if person == NO_PERSON else "person_turns"
    return reason, TooMany(detail, retry_after=retry)
