"""Ledger: the durable, ordered record of messages, turns and events; the only source of truth.

Implementations are plugins (SQLite, Redis); all pass the suite in ``tests/plugins/ledgers``.
`palaver.concurrency` has the rules of the concurrency policies, `palaver.history` those of a
history that is limited in bytes. The rules of a ledger:

1.  Every method is one atomic, durable step. When it returns, the step survives a crash. When it
    raises, nothing happened or the same call may safely be repeated.
2.  A write compares the fence first. A write with an old fence raises `Fenced` and changes nothing.
3.  A write on a turn is compare-and-append: it carries the index that it expects. A repeated write
    (same fence, same index, same entries) returns the earlier result. Any other index raises
    `IndexConflict`.
4.  A queue changes in the same step as the data that it refers to.
5.  All times are by the ledger's clock, never by a client's.
6.  Notifications are hints: they may be late, repeated or lost. `read` is authoritative.
7.  The turns of a conversation run one at a time, in the order of acceptance.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from palaver.conversations import ConversationStore
from palaver.errors import Forbidden, IndexConflict
from palaver.feedback import Feedback, FeedbackStore
from palaver.messages import (
    NO_PARTS,
    Approval,
    ClientCall,
    Conversation,
    Cursor,
    Event,
    Finished,
    Message,
    Outcome,
    ReplyParts,
    StoredEvent,
    StoredFile,
    Text,
    TextReset,
    check_id,
    check_name,
    merge_messages,
)
from palaver.messages import ConcurrencyPolicy as ConcurrencyPolicy
from palaver.messages import HistoryEntry as HistoryEntry
from palaver.records import RecordStore

HISTORY_BYTES = 262_144
"""Default of the bytes of history in a claim or a snapshot, as JSON: about 64,000 tokens, more than
most models read, and decoded in about a millisecond."""
EXPORT_BYTES = 1_048_576
"""Bytes of a part of an export, as JSON, about; more when a single message is larger."""
PAGE_BYTES = 1_048_576
"""Bytes of events, as JSON, after which a `Page` ends."""
INBOX_LIMIT = 16
"""Default limit of messages that wait in a conversation; above it `Ledger.accept` raises `TooMany`.
The running turn's own messages do not count, those that steer it do."""
INBOX_BYTES = 4_000_000
"""Default limit of the bytes, as JSON, of a conversation's messages without a reply; above it
`Ledger.accept` raises `TooMany`, unless there are none. It bounds claims, snapshots and dead
letters too."""
MAX_MERGE_WINDOWS = 5
"""Number of merge windows by which a burst of messages may delay its turn at most."""
MAX_DEAD_LETTERS = 1_000
"""Number of dead letters that a ledger keeps; it deletes the oldest beyond that."""
MAX_MEMORIES = 100
"""Number of memories about one person in a tenant; `Turn.remember` refuses another one."""
MAX_MEMORY_BYTES = 4_096
"""Size of a memory's value in UTF-8; `Turn.remember` refuses a larger one."""
MAX_DEAD_LETTER_BYTES = 16_777_216
"""Bytes of dead letters, as JSON, that a ledger keeps; it deletes the oldest beyond that."""
DEAD_LETTER_REPLY = 20_000
"""Code points of the reply that a dead letter keeps."""


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="step"):
    """Journal entry of one effect of a turn: its ``number`` in the turn (0, 1, 2, …), the ``verb``,
    a ``fingerprint`` of the input and, once ``done``, the JSON ``result``.

    A later step with the same number replaces the earlier one.
    """

    number: int
    verb: str
    fingerprint: str
    done: bool
    result: msgspec.Raw = msgspec.Raw(b"null")


class MemoryWrite(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="memory"):
    """Entry that stores the ``value`` of a memory about a person of the turn, for all their
    conversations; None deletes it. Its words are in no stream and no journal."""

    person: str
    key: str
    value: str | None

    def __post_init__(self) -> None:
        check_name(self.person, "person")
        check_id(self.key, "key of a memory")


LogEntry = Event | Step | MemoryWrite
"""Entry that `Ledger.append` stores: events in the conversation's stream, steps in the journal,
memories with the person."""


class StorageQuota(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of what a person or a tenant may store: ``bytes`` of messages and replies, as in
    `StorageUsage`, and the number of ``conversations``; None is no limit."""

    bytes: int | None = None
    conversations: int | None = None


class StorageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a person or a tenant has stored in the conversations that exist: a message counts its
    size as JSON, for its author; a reply its size in UTF-8, for the person of its turn."""

    bytes: int = 0
    conversations: int = 0


class ConcurrencyPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """Concurrency policies of a channel: ``skills`` maps a running skill to its policy, ``default``
    applies to all others. ``merge_window`` is in seconds, ``inbox_limit`` in messages,
    ``inbox_bytes`` in bytes.

    ``start_delay``: seconds for which a turn waits for messages that belong before its own, see
    `Message.order`. With ``merge``, it waits for the merge window in any case.

    ``members_only``: a conversation that has members accepts messages of no one else.
    ``dead_letter``: the turn whose dead letter the message comes from, and must still be in.
    ``person_storage`` and ``tenant_storage`` limit what is stored.
    ``retention``: seconds after the last turn after which the conversation is deleted, where the
    ledger would keep it longer; None: as long as the ledger keeps any.
    ``outbox``: the message wakes the outbox of its conversation, see `palaver.records`."""

    default: ConcurrencyPolicy = "queue"
    skills: dict[str, ConcurrencyPolicy] = {}
    merge_window: float = 1.0
    inbox_limit: int = INBOX_LIMIT
    members_only: bool = False
    dead_letter: str = ""
    inbox_bytes: int = INBOX_BYTES
    person_storage: StorageQuota = StorageQuota()
    tenant_storage: StorageQuota = StorageQuota()
    retention: float | None = None
    outbox: bool = False
    start_delay: float = 0.0

    def for_skill(self, skill: str) -> ConcurrencyPolicy:
        """Return the policy while ``skill`` runs; the empty name means no skill."""
        return self.skills.get(skill, self.default)

    @property
    def affect_running_turn(self) -> bool:
        """Return True when a message may interrupt or steer the running turn."""
        return not {"interrupt", "steer"}.isdisjoint((self.default, *self.skills.values()))


QUEUE_ALL = ConcurrencyPolicies()


def without_joining(policies: ConcurrencyPolicies) -> ConcurrencyPolicies:
    """Return ``policies`` for a message that needs a turn of its own: only ``interrupt`` stays."""

    def apart(policy: ConcurrencyPolicy) -> ConcurrencyPolicy:
        return policy if policy == "interrupt" else "queue"

    skills = {name: apart(policy) for name, policy in policies.skills.items()}
    return msgspec.structs.replace(policies, default=apart(policies.default), skills=skills)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `Ledger.accept`. ``turn`` answers the message, after ``ahead`` other turns of the
    conversation. ``duplicate``: the message had been accepted before. ``joined``: the turn existed
    before the message did."""

    turn: str
    ahead: int
    duplicate: bool
    joined: bool = False


class InboxMessage(msgspec.Struct, frozen=True, array_like=True):
    """Accepted message; ``accepted_at`` is in seconds since the epoch."""

    accepted_at: float
    message: Message


def first_accepted(inbox_messages: Sequence[InboxMessage]) -> float:
    """Return when the first of a turn's messages was accepted."""
    return min(inbox_message.accepted_at for inbox_message in inbox_messages)


class PendingQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Question of a skill, with the state that the skill needs to continue after the answer.

    ``message`` is the message that the skill answers, ``journal`` its steps so far, ``reply`` the
    text before the question, ``turns`` the turns that asked. ``options`` are the only answers that
    the question accepts; any answer when there are none. ``approval``: the call of a tool that the
    question is about. ``client_calls``: in place of a question, calls of a program's tools, whose
    results are the answer; then ``message`` is as the program has sent it.
    """

    skill: str
    message: Message
    journal: tuple[Step, ...]
    reply: str
    turns: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    approval: Approval | msgspec.UnsetType = msgspec.UNSET
    client_calls: tuple[ClientCall, ...] | msgspec.UnsetType = msgspec.UNSET


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Right to run one turn until its lease expires, with the input of the skill.

    ``fence`` grows with every claim of the conversation. ``index`` is the number of entries that
    the turn has, ``reply`` the text so far, ``history`` the newest entries, oldest first.
    ``attempt`` is 1, plus 1 for each earlier claim of the turn whose lease expired; a claim that
    ended with `Ledger.release` does not count. ``history_cut``: there is more history, which the
    limit of bytes left out.

    ``messages`` are the turn's own; there are several when a burst was merged. ``accepted_at`` is
    when the first of them was accepted, in seconds since the epoch. ``interrupted`` are
    the messages of turns that were stopped for this one, oldest first, which it answers too; empty
    when the stop came too late. Both are of one person. ``steering_messages`` were sent to the
    running turn, by anyone in the conversation.
    """

    turn: str
    messages: tuple[Message, ...]
    accepted_at: float = 0.0
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
    history_cut: bool = False

    @property
    def message(self) -> Message:
        """Return all messages to answer as one message."""
        return merge_messages((*self.interrupted, *self.messages))

    @property
    def conversation(self) -> Conversation:
        return self.messages[0].conversation


class Progress(msgspec.Struct, frozen=True):
    """Result of a write: the turn's next ``index``, the stream's last ``offset``, whether a stop is
    requested, and the number of steering messages that the turn has received."""

    index: int
    offset: int
    stop_requested: bool
    steering_count: int = 0


class Page(msgspec.Struct, frozen=True):
    """Part of a conversation's stream: the ledger keeps offsets ``first``…``last`` (``first`` is
    ``last + 1`` when it keeps none); ``events`` are in order and without a gap."""

    epoch: str
    first: int
    last: int
    events: tuple[StoredEvent, ...]


class PendingTurn(msgspec.Struct, frozen=True, kw_only=True):
    """Turn that is not settled. ``reply`` is the text so far, ``running`` is true while it is
    claimed, ``messages`` are its own and those that steer it, ``at`` is the time of the first one,
    in seconds since the epoch. ``events`` are not the ledger's to fill: see
    `palaver.streams.pending_events`."""

    turn: str
    messages: tuple[Message, ...]
    running: bool
    reply: str
    skill: str = ""
    at: float = 0.0
    events: tuple[Event, ...] = ()

    @property
    def message(self) -> Message:
        """Return the messages as one."""
        return merge_messages(self.messages)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """State of a conversation at ``cursor``; the stream continues there without a gap.

    ``earlier`` is the position from which `Ledger.history` has the entries that ``history`` lacks,
    or has cut; empty when there are none. ``alternatives`` are the groups of turns that follow the
    same turn, each in the order of their age; the history has one turn of a group, or none."""

    cursor: Cursor
    history: tuple[HistoryEntry, ...]
    pending: tuple[PendingTurn, ...]
    earlier: str = ""
    alternatives: tuple[tuple[str, ...], ...] = ()


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a conversation's history, oldest first. ``earlier`` is the position from which
    `Ledger.history` has the entries before it; empty when there are none."""

    history: tuple[HistoryEntry, ...]
    earlier: str = ""


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """Number of turns in the whole ledger that are ``queued`` and ``running``."""

    queued: int
    running: int


class UnsettledCount(msgspec.Struct, frozen=True, kw_only=True):
    """Unsettled turns of one person in the whole ledger: the number of ``turns``, and about how
    many ``bytes`` their messages take in the store."""

    tenant: str
    person: str
    turns: int
    bytes: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Turn that was given up after too many attempts: its messages, the part of the reply that was
    stored, and the ``reason``. ``at`` is in seconds since the epoch."""

    turn: str
    messages: tuple[Message, ...]
    attempt: int
    reply: str
    skill: str
    reason: str
    at: float


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """Data about one person at the time ``at``, or a part of it: the history entries of their turns
    by conversation (never another person's), the titles of these conversations, their messages that
    wait or are in dead letters, their feedback by conversation, their memories; and what a ledger
    does not have: the files that they uploaded, and when they were approved, by channel.
    `palaver.exports` puts parts together."""

    tenant: str
    person: str
    conversations: dict[str, tuple[HistoryEntry, ...]]
    pending: tuple[Message, ...]
    titles: dict[str, str] = {}
    feedback: dict[str, tuple[Feedback, ...]] = {}
    memories: dict[str, str]
    files: tuple[StoredFile, ...] = ()
    approvals: dict[str, float] = {}
    at: float


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Receipt of an erasure: the number of conversations in which the person took part, and of the
    messages, events, dead letters, memories and files that were removed or changed, and of
    ``training_rows`` in prepared data. A ledger has neither ``files`` nor ``training_rows``."""

    tenant: str
    person: str
    conversations: int
    messages: int
    events: int
    dead_letters: int
    memories: int
    files: int = 0
    training_rows: int = 0
    at: float


class Guarantee(msgspec.Struct, frozen=True, kw_only=True):
    """Sentences about a configured ledger: what it promises, and its limitations."""

    promises: tuple[str, ...]
    limitations: tuple[str, ...] = ()


StopState = Literal["stopping", "settled", "unknown"]
"""``stopping``: the turn ends as stopped; ``settled``: it had ended before; ``unknown``: there is
no such turn."""

OnChange = Callable[[Sequence[StoredEvent]], None]
"""Callback in the event loop when a conversation's stream may have grown, with the new events where
they are known, else with an empty sequence. It may be called late, twice or never."""


def reply_length_after(turn: str, entries: Sequence[LogEntry], length: int) -> int:
    """Return the length of a reply of ``length`` code points after ``entries``.

    Raises `IndexConflict` unless every text continues the reply.
    """
    for entry in entries:
        kind = type(entry)
        if kind is Text:
            if entry.position != length:  # type: ignore[union-attr]
                raise IndexConflict(f"turn {turn}: the text does not start at {length}")
            length += len(entry.text)  # type: ignore[union-attr]
        elif kind is TextReset:
            if entry.position > length:  # type: ignore[union-attr]
                raise IndexConflict(f"turn {turn}: the reset is beyond {length} characters")
            length = entry.position  # type: ignore[union-attr]
    return length


def memory_writes(
    turn: str, entries: Sequence[LogEntry], people: Callable[[], Collection[str]]
) -> Sequence[MemoryWrite]:
    """Return the memories among ``entries``.

    Raises `Forbidden` when one is about somebody else than ``people``: those whose erasure ends the
    turn's claim, so that no memory about an erased person can be written.
    """
    if MemoryWrite not in map(type, entries):
        return ()
    writes = [entry for entry in entries if isinstance(entry, MemoryWrite)]
    allowed = people()
    for write in writes:
        if write.person not in allowed:
            raise Forbidden(f"turn {turn}: it has no words of the person {write.person!r}")
    return writes


def finished_entry(turn: str, entries: Sequence[LogEntry]) -> Finished:
    """Return the `Finished` that ends ``entries``. Raises `IndexConflict` when there is none."""
    finished = entries[-1] if entries else None
    if not isinstance(finished, Finished):
        raise IndexConflict(f"turn {turn}: settle needs Finished as the last entry")
    return finished


def history_of_turn(
    turn: str,
    messages: Sequence[InboxMessage],
    *,
    reply: str,
    skill: str,
    outcome: Outcome,
    at: float,
    parts: ReplyParts = NO_PARTS,
) -> tuple[HistoryEntry, ...]:
    """Return the history entries of a settled turn: one per message, then the reply."""
    questions = (
        HistoryEntry(
            role="user",
            text=inbox_message.message.text,
            turn=turn,
            at=inbox_message.accepted_at,
            person=inbox_message.message.person,
            **message_parts(inbox_message.message),
        )
        for inbox_message in messages
    )
    answer = HistoryEntry(
        role="assistant",
        text=reply,
        turn=turn,
        at=at,
        skill=skill,
        outcome=outcome,
        **parts.present,
    )
    return (*questions, answer)


def message_parts(message: Message) -> dict[str, Any]:
    """Return what the history keeps of a message beside its text, as fields of `HistoryEntry`."""
    program = message.program or None
    parts = {
        "attachments": message.attachments,
        "input": program.input if program else (),
        "note": program.note if program else "",
    }
    return {name: value for name, value in parts.items() if value}


def stopped_event(turn: str, messages: Sequence[Message]) -> Finished:
    """Return the event that ends a turn which was stopped while it waited."""
    taken = tuple(message.id for message in messages)
    return Finished(turn=turn, outcome="stopped", length=0, messages=taken)


class Ledger(ConversationStore, FeedbackStore, RecordStore, Protocol):
    """Durable store of messages, turns, events, leases, stop requests and history.

    Every method raises `LedgerUnavailable` when the store cannot be reached.
    """

    async def start(self) -> None:
        """Open the store. Raises `ConfigurationError` when it cannot keep its promises."""

    async def close(self) -> None:
        """Close the store. Idempotent."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        """Store the message and its `Received` event, apply the policy and wake a worker.

        The turn of a message with an `order <Message.order>` goes before those at the end of the
        queue whose first message has a greater one and that wait for their first attempt; in a
        turn that it joins, the message goes before such messages.

        With `Message.after`, the history continues after that turn: what came later is superseded,
        the pending question deleted, and the stream gets a new epoch. Turns that follow the same
        turn are alternatives; `select` chooses between them.

        A duplicate (same id, same digest, within 24 hours) changes nothing. Raises `Forbidden` (see
        ``members_only``), `NotFound` (the ``dead_letter`` has no message of the person; the history
        does not have the turn ``after``), `Conflict` (same id, other digest; a message ``after``
        while turns are unsettled) and `TooMany` (the inbox is full; `MAX_ALTERNATIVES`).
        """

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109  waiting is its purpose
        """Return when a turn may be due, or after ``timeout`` seconds."""

    async def claim(
        self, worker: str, *, lease: float, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Claim | None:
        """Claim the oldest turn of a conversation that is due, for ``lease`` seconds.

        A conversation is due when none of its turns is leased and no merge window is open. The
        claim has the newest ``history`` entries of earlier turns that fit into ``history_bytes``,
        as `palaver.history.take_history` selects them. Returns None when nothing is due. A ledger
        that detects the death of the owner's process need not wait for the lease.
        """

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        """Append to the stream and the journal, and renew the lease; ``entries`` may be empty.

        ``expect`` is the index of the first entry. `Text` must continue the reply exactly (its
        position is the reply's length), else `IndexConflict`; `TextReset` cuts the reply. A
        `MemoryWrite` is about a person with messages in the turn or words in its pending question,
        else `Forbidden`.
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
        parts: ReplyParts = NO_PARTS,
    ) -> Progress:
        """Append ``entries``, the last of which is `Finished`, and close the turn.

        Messages and reply, with its ``parts``, become history, one entry each.
        ``pending_question`` replaces the stored one; None deletes it. The next turn becomes due.

        ``taken_steering`` are the steering messages that the skill took, the first of those that
        the turn received; they become history with the turn's own. The others become the next turn
        (`Received` with ``moved``): the first person's are its own, the rest steer it. With the
        outcome ``stopped``, the messages go to the turn for which this one was interrupted. A
        ``dead_letter_reason`` stores the turn as a `DeadLetter` too.
        """

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        """Return the steering messages that the running turn has received. Raises `Fenced`."""

    async def release(self, claim: Claim) -> None:
        """End the claim; the turn is due at once, and the next claim is not another attempt."""

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        """Request that a turn stops; None means the running turn, else the oldest that waits.

        A turn that waits and has no entries yet is settled by this step: `Finished` with the
        outcome ``stopped``; its messages become history behind the turns that it waited for, and
        the pending question stays. Any other turn ends when its worker sees the request. Returns
        the state and the turn's id (empty when unknown). Durable, and idempotent for a named turn.
        """

    async def change_waiting(
        self,
        conversation: Conversation,
        message: str,
        text: str | None,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> bool:
        """Replace the text of the message with that id while its turn waits; None removes it.

        The message keeps its place, its attachments and its id: a repetition of the original is
        still recognized. With its last message the turn is gone, and no history is left of it.
        Afterwards the store does not contain the earlier text. The stream gets a new epoch; it
        begins with the events of unsettled turns.

        Returns False when no message that waits has that id, or its turn has begun: it was claimed,
        or has entries, steering messages or a successor. The text that it has changes nothing.
        Raises `TooMany` beyond a storage quota of ``policies``.
        """

    async def select(self, conversation: Conversation, turn: str) -> None:
        """Make an alternative, with what came after it, the end of the history; what is there now
        is superseded. The pending question is deleted, and the stream gets a new epoch.

        Nothing changes when the history has the turn already. Raises `NotFound` for a turn that is
        no alternative, `Conflict` while turns are unsettled.
        """

    async def revise(
        self,
        conversation: Conversation,
        person: str,
        turn: str,
        text: str,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> None:
        """Replace the text of the person's only message in a turn of the history. The reply and
        what came later stay; the earlier text is gone. The pending question is deleted, and the
        stream gets a new epoch.

        Nothing changes when the message has that text. Raises `NotFound` when the history has no
        such turn with a message of the person, `InvalidInput` when the turn has several messages,
        `Conflict` while turns are unsettled, and `TooMany` beyond a storage quota of ``policies``.
        """

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        """Return up to ``limit`` events with offsets above ``after``; fewer when they take more
        than `PAGE_BYTES`, but at least one. A conversation that does not exist reads as an empty
        page with the epoch that it will get."""

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        """Call ``on_change`` for new events until the returned function is called. Every event that
        is committed after this returns leads to a call, except after a failure."""

    async def snapshot(
        self, conversation: Conversation, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Snapshot:
        """Return the newest ``history`` entries that fit into ``history_bytes``, the unsettled
        turns and the cursor, consistently."""

    async def history(
        self,
        conversation: Conversation,
        before: str,
        limit: int,
        history_bytes: int = HISTORY_BYTES,
    ) -> HistoryPage:
        """Return the newest of the history entries before the position ``before``, which a
        snapshot or a page has named; empty means the end.

        They are up to ``limit``, and fit into ``history_bytes``; the newest is complete in any
        case. After an erasure the page may repeat entries. Raises `InvalidInput` for a text that
        is no position.
        """

    async def members(self, conversation: Conversation) -> frozenset[str]:
        """Return the people who have sent messages; empty for an unknown conversation."""

    async def storage_usage(self, tenant: str, person: str = "") -> StorageUsage:
        """Return what a person has stored, or the whole tenant without one."""

    async def queue_depth(self) -> QueueDepth:
        """Count the queued and the running turns."""

    async def count_unsettled(self) -> tuple[UnsettledCount, ...]:
        """Return the unsettled turns by tenant and person. The rows of one person add up."""

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters of all tenants, newest first."""

    async def discard_dead_letter(self, turn: str) -> bool:
        """Delete a dead letter. Return False when there is none."""

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        """Return the value that the last `MemoryWrite` with that key has stored."""

    async def count_memories(self, tenant: str, person: str) -> int:
        """Return the number of memories about a person."""

    def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        """Yield all data about one person in parts of about `EXPORT_BYTES`, at least one: first
        history, in the order of the conversations, then pending messages, titles, feedback and
        memories.

        It holds up no other operation. Each part is consistent in itself.
        """

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> Erasure:
        """Delete all data about one person, or what a ``conversation`` has about them: with its
        only member, the whole conversation. Idempotent. Memories stay in the second case.

        Afterwards the store contains neither the person's id nor their words nor the replies to
        their turns. A running turn of theirs is fenced. A running turn of another person that may
        contain their words is fenced too, and starts again without them. Watchers are notified.
        """

    async def guarantee(self) -> Guarantee:
        """Describe what the store promises in its present configuration."""


@runtime_checkable
class InspectableLedger(Protocol):
    """A ledger that ``palaver check`` can inspect without starting it, because its start writes."""

    async def inspect(self) -> None:
        """Check that the ledger can start, and change nothing.

        Raises `LedgerInUse` when another process uses it, `ConfigurationError` when it cannot
        start. `Ledger.guarantee` must work afterwards.
        """
