"""Ledger: the durable, ordered record of messages, turns and events. Truth lives only here.

Implementations are plugins (SQLite, Redis); all pass the suite in
``tests/plugins/ledgers``. The rules:

1.  Every method is one atomic, durable step: when it has returned, the step survives a crash; when
    it has raised, either nothing happened or the same call may be repeated safely.
2.  The fence is compared first. A write with an old fence raises `Fenced` and changes nothing.
3.  Every write on a turn is compare-and-append: it carries the index it expects. Applied already
    (same fence, same index, same entries): it returns the earlier result. Anything else:
    `IndexConflict`.
4.  Queue membership changes in the same step as the data that it stands for.
5.  The clock is the ledger's, never a client's.
6.  Notifications are hints; `read` is the truth.
7.  Turns of one conversation run one at a time, in the order of acceptance.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from palaver.messages import ConcurrencyPolicy as ConcurrencyPolicy
from palaver.messages import (
    Conversation,
    Cursor,
    Event,
    Message,
    Outcome,
    StoredEvent,
    merge_messages,
)

INBOX_LIMIT = 16
"""Messages that may wait in one conversation, by default, before `Ledger.accept` raises `TooMany`.
Those of the running turn do not wait, those that steer it do."""
MAX_MERGE_WINDOWS = 5
"""Windows for which a burst of messages may hold up its turn."""
MAX_DEAD_LETTERS = 1_000
"""Dead letters that are kept at most; the oldest go."""


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="step"):
    """One journaled verb of a turn: its ``number`` in the turn (0, 1, 2, …), what was asked
    (``verb``, ``fingerprint`` of its input) and, once ``done``, its JSON ``result``.

    A later step with the same number replaces the earlier one.
    """

    number: int
    verb: str
    fingerprint: str
    done: bool
    result: msgspec.Raw = msgspec.Raw(b"null")


LogEntry = Event | Step
"""What `Ledger.append` takes: events go to the conversation's stream, steps to the journal."""


class ConcurrencyPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """How a message is received: by the policy of the skill that runs, else by ``otherwise``.
    ``window`` is the ``merge`` window in seconds, ``inbox`` how many messages may wait."""

    default: ConcurrencyPolicy = "queue"
    skills: dict[str, ConcurrencyPolicy] = {}
    merge_window: float = 1.0
    inbox_limit: int = INBOX_LIMIT


QUEUE_ALL = ConcurrencyPolicies()


def without_joining(policies: ConcurrencyPolicies) -> ConcurrencyPolicies:
    """The same for a message that shall be answered by itself: it joins no other's turn."""

    def apart(policy: ConcurrencyPolicy) -> ConcurrencyPolicy:
        return policy if policy == "interrupt" else "queue"

    skills = {name: apart(policy) for name, policy in policies.skills.items()}
    return msgspec.structs.replace(policies, default=apart(policies.default), skills=skills)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What `accept` did. ``ahead``: turns of the conversation that come before this one.
    ``duplicate``: the message was accepted before; ``turn`` is the turn that has it.
    ``joined``: the message became part of a turn that was there already."""

    turn: str
    ahead: int
    duplicate: bool
    joined: bool = False


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of history. ``outcome`` and ``skill`` are set on the assistant's lines.
    ``at`` is in seconds since the epoch, by the ledger's clock."""

    role: Literal["user", "assistant"]
    text: str
    turn: str
    at: float
    person: str = ""
    skill: str = ""
    outcome: Outcome | None = None


class PendingQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A skill that asked and waits: what is needed to go on with the person's answer.

    ``message`` is the one that the skill is answering, ``journal`` its steps so far and
    ``said`` the text that it said before it asked, in ``turns``.
    """

    skill: str
    message: Message
    journal: tuple[Step, ...]
    reply: str
    turns: tuple[str, ...] = ()


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to run one turn until the lease lapses, with what a skill needs to run it.

    ``fence`` grows with every claim of the conversation. ``index`` is the number of entries
    appended to this turn so far, ``reply`` the text said so far, ``history`` the newest settled
    lines, oldest first. ``attempt`` is 1, and 1 more for each claim of the turn that lapsed; one
    that ended with `Ledger.release` does not count.

    ``messages`` are the turn's own, more than one when a burst was merged. ``interrupted`` are
    those of turns that were stopped for this one, oldest first, to be answered too; it is empty
    when the stop came too late. All of these are one person's. ``steering`` are those handed to
    the turn since it was made, by anybody in the conversation.
    """

    turn: str
    messages: tuple[Message, ...]
    interrupted: tuple[Message, ...] = ()
    steering_messages: tuple[Message, ...] = ()
    fence: int
    attempt: int
    index: int
    reply: str
    journal: tuple[Step, ...]
    history: tuple[HistoryEntry, ...]
    pending_question: PendingQuestion | None = None
    stop_requested: bool = False

    @property
    def message(self) -> Message:
        """What is to be answered, as one message."""
        return merge_messages((*self.interrupted, *self.messages))

    @property
    def conversation(self) -> Conversation:
        return self.messages[0].conversation


class Progress(msgspec.Struct, frozen=True):
    """After a write: the turn's next ``index``, the stream's last ``offset``, whether a stop was
    asked for, and how many messages of ``steering`` the turn has by now."""

    index: int
    offset: int
    stop_requested: bool
    steering_count: int = 0


class Page(msgspec.Struct, frozen=True):
    """A stretch of a conversation's stream: offsets ``first``…``last`` are still held
    (``first`` is ``last + 1`` when none are); ``events`` are in order and without a gap."""

    epoch: str
    first: int
    last: int
    events: tuple[StoredEvent, ...]


class PendingTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that is not settled: ``reply`` is the text so far, ``running`` whether claimed,
    ``messages`` its own and those that steer it."""

    turn: str
    messages: tuple[Message, ...]
    running: bool
    reply: str
    skill: str = ""

    @property
    def message(self) -> Message:
        """The messages as one."""
        return merge_messages(self.messages)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A whole conversation at ``cursor``: reading the stream from there on misses nothing."""

    cursor: Cursor
    history: tuple[HistoryEntry, ...]
    pending: tuple[PendingTurn, ...]


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """How much waits: turns ``queued`` and ``running`` in the whole ledger."""

    queued: int
    running: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that was given up after too many attempts: what was to be answered, what was said of
    the answer, and why it was given up. ``at`` is in seconds since the epoch."""

    turn: str
    messages: tuple[Message, ...]
    attempt: int
    reply: str
    skill: str
    reason: str
    at: float


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """Everything held about one person at the time ``at``: by conversation the settled lines of
    their turns (never another person's), the messages that wait or lie among the dead letters,
    and what is remembered."""

    tenant: str
    person: str
    conversations: dict[str, tuple[HistoryEntry, ...]]
    pending: tuple[Message, ...]
    memories: dict[str, str]
    at: float


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt of an erase: the conversations that the person had a part in, and how many
    messages of theirs, events (of them and of the turns that answered them), dead letters that
    held some, and memories were removed."""

    tenant: str
    person: str
    conversations: int
    messages: int
    events: int
    dead_letters: int
    memories: int
    at: float


class Guarantee(msgspec.Struct, frozen=True, kw_only=True):
    """What a configured ledger promises, and what it does not, in sentences."""

    promises: tuple[str, ...]
    limitations: tuple[str, ...] = ()


StopState = Literal["stopping", "settled", "unknown"]
"""``stopping``: a queued or running turn will end as stopped; ``settled``: it had ended before;
``unknown``: there is no such turn."""

OnChange = Callable[[Sequence[StoredEvent]], None]
"""Called in the event loop when a conversation's stream may have grown, with the new events where
they are at hand, else with an empty sequence. May be called late, twice or never."""


class Ledger(Protocol):
    """One store of messages, turns, events, leases, duplicates, stops and history.

    Every method raises `LedgerUnavailable` when the store cannot be reached.
    """

    async def start(self) -> None:
        """Open the store; raise `ConfigurationError` when it cannot keep its promises."""

    async def close(self) -> None:
        """Close it. Idempotent."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        """Drop a duplicate, record the message and its `Received` event, queue the turn (or do what
        the policy says instead) and wake a worker, in one step.

        Raises `Conflict` (same id, other digest) and `TooMany` (the inbox is full). Ids are
        remembered for 24 hours.
        """

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109  waiting is its purpose
        """Return when a turn may be claimable, or after ``timeout`` seconds."""

    async def claim(self, worker: str, *, lease: float, history: int) -> Claim | None:
        """Take the oldest turn of a conversation that is due (none of its turns is leased, and no
        burst goes on), for ``lease`` seconds, with the newest ``history`` lines. None when nothing
        is due. A store that knows the owner's process to be gone need not wait for the lease."""

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        """Append to the stream and the journal, and renew the lease, also with no entries.

        `Text` must continue the reply exactly (its position is the reply's length), else
        `IndexConflict`; `TextReset` cuts the reply.
        """

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[LogEntry],
        *,
        expect: int,
        pending_question: PendingQuestion | None = None,
        taken_steering: Sequence[Message] = (),
        dead_letter_reason: str = "",
    ) -> Progress:
        """Append ``entries``, the last of which is `Finished`; write messages and reply into the
        history, a line for each; close the turn; keep ``waiting`` (or clear it); wake the next
        turn. One step.

        ``steered`` are the first of ``steering``, those that the skill took: they go into the
        history with the turn's own. The others become the next turn, and are received by it
        (``moved``): the first person's are its own, and the rest steer it. When the outcome is
        ``stopped``, the turn's messages go to the turn that it was interrupted for.
        ``dead``: why the turn was given up; it is kept as a `DeadLetter`.
        """

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        """The messages handed to the running turn so far. Raises `Fenced`."""

    async def release(self, claim: Claim) -> None:
        """Give the turn back at once; the next claim does not count as another attempt."""

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        """Ask that a turn ends; None means the running turn, else the oldest that waits.

        Returns the state and the turn's id (empty when unknown). Idempotent and durable.
        """

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        """Up to ``limit`` events with offsets above ``after``. A conversation that does not
        exist reads as an empty page, under the epoch that it will have when it begins next."""

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        """Call ``hint`` on news until the returned function is called. When this has returned,
        no event committed from then on goes without a hint, short of a failure."""

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        """The newest ``history`` lines, the unsettled turns and the cursor, of one moment."""

    async def members(self, conversation: Conversation) -> frozenset[str]:
        """The people who have sent to the conversation. Empty when it does not exist."""

    async def queue_depth(self) -> QueueDepth:
        """How much waits."""

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        """The newest dead letters of all tenants, newest first. At most 1,000 are kept."""

    async def discard_dead_letter(self, turn: str) -> bool:
        """Remove a dead letter; whether there was one."""

    async def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        """Keep a value about a person across conversations; None forgets it."""

    async def recall(self, tenant: str, person: str, key: str) -> str | None: ...

    async def export(self, tenant: str, person: str) -> Export:
        """Everything held about one person."""

    async def erase(self, tenant: str, person: str) -> Erasure:
        """Remove it: after this no record of the store contains the person's id, words or the
        replies to their turns. A turn of theirs that runs is fenced off. Another's turn that runs
        with words of theirs is fenced off too, and begins anew without them. Those who watch get
        a hint. Idempotent."""

    async def guarantee(self) -> Guarantee:
        """What this store promises as it is configured now."""
