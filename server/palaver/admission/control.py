"""Door: which messages are let in. What cannot be served in time is refused before it is stored.

It counts the unsettled turns that were accepted here, so each server process counts for itself.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeVar

from palaver.admission.quotas import Excess, Quotas, estimate_tokens
from palaver.config.settings import AdmissionSettings, Lane
from palaver.errors import LedgerUnavailable, Overloaded, PalaverError, TooMany
from palaver.ledger import Ledger, Receipt
from palaver.messages import Conversation, Message
from palaver.metrics import Metrics

REPLY_TOKENS = 512
"""What a message counts for beside its length: the reply that a skill asks for by default."""
BATCH = 50
"""Turns that are looked for in the ledger at a time."""
BETWEEN_LOOKS = 0.25
"""Seconds between two looks, so that a server that refuses much does not look all the time."""
LONGEST_RETRY = 60.0
"""Seconds after which a caller is asked to come back at most."""

KeyT = TypeVar("KeyT")
Wait = Callable[[str, Lane, int], float]
"""Seconds in line for a tenant's generation in a lane, behind so many more of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdmittedMessage:
    """A message that was let in, until its turn has ended."""

    conversation: Conversation
    id: str
    person: str
    lane: Lane
    tokens: int

    @property
    def tenant(self) -> str:
        return self.conversation.tenant


class Register:
    """The unsettled messages that were let in, and how many and how much they are."""

    def __init__(self) -> None:
        self.tokens = 0
        self.tokens_of: Counter[str] = Counter()
        self.turns_of: Counter[tuple[str, str]] = Counter()
        """By tenant and person; those of the whole tenant under no person."""
        self.coming: Counter[tuple[str, Lane]] = Counter()
        """Turns that will begin here, by tenant and lane; not those behind another turn of their
        conversation."""
        self._entries: set[AdmittedMessage] = set()
        self._turns: dict[str, AdmittedMessage] = {}
        self._waiting: dict[str, bool] = {}
        """Turns that have not begun here; whether they count as coming."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: AdmittedMessage) -> bool:
        return entry in self._entries

    def add(self, entry: AdmittedMessage) -> None:
        self._entries.add(entry)
        self._count(entry, 1)
        self.coming[entry.tenant, entry.lane] += 1

    def stored(self, entry: AdmittedMessage, turn: str, *, behind: bool) -> None:
        """The ledger has the message, as ``turn``, perhaps ``behind`` another one."""
        self._turns[turn] = entry
        self._waiting[turn] = not behind
        if behind:
            _subtract(self.coming, (entry.tenant, entry.lane), 1)

    def begin(self, turn: str) -> None:
        if self._waiting.pop(turn, False):
            entry = self._turns[turn]
            _subtract(self.coming, (entry.tenant, entry.lane), 1)

    def end(self, turn: str) -> None:
        """The turn counts no more. Idempotent; one that is not known was accepted elsewhere."""
        self.begin(turn)
        entry = self._turns.pop(turn, None)
        if entry is not None:
            self._entries.discard(entry)
            self._count(entry, -1)

    def drop(self, entry: AdmittedMessage) -> None:
        """The message did not become a turn."""
        self._entries.discard(entry)
        self._count(entry, -1)
        _subtract(self.coming, (entry.tenant, entry.lane), 1)

    def _count(self, entry: AdmittedMessage, sign: int) -> None:
        self.tokens += sign * entry.tokens
        _subtract(self.tokens_of, entry.tenant, -sign * entry.tokens)
        for person in ("", entry.person):
            _subtract(self.turns_of, (entry.tenant, person), -sign)

    def take_oldest(self, count: int) -> dict[str, Conversation]:
        """The oldest turns that have not begun here; asked for again, the next ones."""
        oldest = list(islice(self._waiting, count))
        self._waiting |= {turn: self._waiting.pop(turn) for turn in oldest}
        return {turn: self._turns[turn].conversation for turn in oldest}


def _subtract(counter: Counter[KeyT], key: KeyT, amount: int) -> None:
    """What is counted no more is not kept as a zero."""
    counter[key] -= amount
    if not counter[key]:
        del counter[key]


class AdmissionControl:
    """Lets messages in to ``ledger``. ``wait`` tells how long one would be in line."""

    def __init__(
        self,
        settings: AdmissionSettings,
        *,
        ledger: Ledger,
        quotas: Quotas,
        wait: Wait,
        lane: Callable[[str], Lane],
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._quotas = quotas
        self._wait = wait
        self._lane = lane
        self._metrics = metrics
        self.register = Register()
        self._looking: asyncio.Task[bool] | None = None
        self._looked_at = -BETWEEN_LOOKS

    async def admit(
        self, message: Message, accept: Callable[[Message], Awaitable[Receipt]]
    ) -> Receipt:
        """Accept the message, or raise `TooMany` or `Overloaded`. One that is unsettled is not
        refused when it is repeated."""
        entry = self._entry(message)
        if entry in self.register:
            return await accept(message)
        await self._check(entry)
        self.register.add(entry)
        self._quotas.take("messages", entry.tenant, entry.person, 1)
        receipt = None
        try:
            receipt = await accept(message)
        except TooMany:
            self._metrics.refused("inbox")
            raise
        except LedgerUnavailable:
            self._metrics.refused("ledger")
            raise
        finally:
            self._note(entry, receipt)
        return receipt

    def _note(self, entry: AdmittedMessage, receipt: Receipt | None) -> None:
        if receipt is None or receipt.duplicate:
            self._quotas.take("messages", entry.tenant, entry.person, -1)
        if receipt is None or receipt.duplicate or receipt.joined:
            self.register.drop(entry)
        else:
            self.register.stored(entry, receipt.turn, behind=receipt.ahead > 0)

    def _entry(self, message: Message) -> AdmittedMessage:
        return AdmittedMessage(
            conversation=message.conversation,
            id=message.id,
            person=message.person,
            lane=self._lane(message.conversation.channel),
            tokens=estimate_tokens(message.text) + REPLY_TOKENS,
        )

    async def _check(self, entry: AdmittedMessage) -> None:
        if excess := self._quotas.excess(entry.tenant, entry.person):
            self._metrics.refused(f"{excess.owner}_{excess.unit}")
            raise _used_up(entry, excess)
        refusal = self._refusal(entry)
        if refusal is not None and await self.look():
            refusal = self._refusal(entry)
        if refusal is not None:
            reason, error = refusal
            self._metrics.refused(reason)
            raise error

    def _refusal(self, entry: AdmittedMessage) -> tuple[str, PalaverError] | None:
        """Why there is no room for the message, if there is none."""
        wait = self._wait(entry.tenant, entry.lane, self.register.coming[entry.tenant, entry.lane])
        retry = min(max(wait, 1.0), LONGEST_RETRY)
        for person, limit in self._turn_limits(entry):
            if limit is not None and self.register.turns_of[entry.tenant, person] >= limit:
                return _unanswered(entry, person, limit, retry)
        if not self._has_room(entry):
            detail = f"{self.register.tokens} tokens are unsettled here"
            return "queue", Overloaded(detail, retry_after=retry)
        late = wait - self._settings.max_wait
        if late > 0:
            retry = min(max(late, 1.0), LONGEST_RETRY)
            return "wait", Overloaded(f"{wait:.0f} s in line for {entry}", retry_after=retry)
        return None

    def _turn_limits(self, entry: AdmittedMessage) -> Sequence[tuple[str, int | None]]:
        person, tenant = self._quotas.of_person(), self._quotas.of_tenant(entry.tenant)
        return (entry.person, person.turns), ("", tenant.turns)

    def _has_room(self, entry: AdmittedMessage) -> bool:
        """Whether the tenant's part is not more than its share of what is free allows: alone it
        gets ``tenant_share`` of all, beside others less. The first message always fits."""
        share, mine = self._settings.tenant_share, self.register.tokens_of[entry.tenant]
        free = self._settings.queue_tokens - self.register.tokens - entry.tokens
        if not mine and (free >= 0 or not self.register.tokens):
            return True
        return free >= 0 and (mine + entry.tokens) * (1 - share) <= free * share

    # Turns that end elsewhere

    async def look(self) -> bool:
        """Forget the turns that other servers have settled. Whether there were any."""
        loop = asyncio.get_running_loop()
        if self._looking is None:
            if loop.time() - self._looked_at < BETWEEN_LOOKS:
                return False
            self._looking = loop.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> bool:
        """As turns end about in the order in which they came, looking stops at a batch of which
        none has ended."""
        found = False
        try:
            while await self._forget_settled():
                found = True
        except LedgerUnavailable:
            pass  # what is not known to have ended still counts
        finally:
            self._looking = None
            self._looked_at = asyncio.get_running_loop().time()
        return found

    async def _forget_settled(self) -> bool:
        oldest = self.register.take_oldest(BATCH)
        conversations = set(oldest.values())
        snapshots = await asyncio.gather(*(self._ledger.snapshot(it, 0) for it in conversations))
        pending = {turn.turn for snapshot in snapshots for turn in snapshot.pending}
        settled = oldest.keys() - pending
        for turn in settled:
            self.register.end(turn)
        return bool(settled)


def _used_up(entry: AdmittedMessage, excess: Excess) -> TooMany:
    whose = f"{entry.person!r}" if excess.owner == "person" else f"tenant {entry.tenant!r}"
    detail = f"{whose} has used up {excess.rate:g} {excess.unit} per minute; wait a little"
    return TooMany(detail, retry_after=excess.wait)


def _unanswered(
    entry: AdmittedMessage, person: str, limit: int, retry: float
) -> tuple[str, TooMany]:
    whose = f"{person!r}" if person else f"tenant {entry.tenant!r}"
    detail = f"{whose} has {limit} messages without a reply; wait for one first"
    return "person_turns" if person else "tenant_turns", TooMany(detail, retry_after=retry)
