"""Parking: conversations to which a platform refuses posts for good, until an operator decides.

The outbox of such a conversation has a problem, and its replies wait. A record beside it lists it,
so that nobody has to read every outbox. The outbox decides: a record without one that has a problem
is out of date, and is deleted by who finds it.
"""

import time
from collections.abc import Awaitable, Callable

import msgspec

from palaver.errors import Conflict
from palaver.ledger import Snapshot
from palaver.messages import Conversation
from palaver.platforms.outbox import (
    MAX_POSTED_TURNS,
    OutboxContent,
    decode_content,
    encode_content,
)
from palaver.platforms.pairing import key_digest
from palaver.records import Record, RecordStore, all_records, outbox_key

PARKING_SECONDS = 300.0
"""Seconds within which an outbox has the problem after it was listed."""
_PARKED = "parked:"


class ParkedConversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation whose replies wait. ``at`` is in seconds since the epoch."""

    conversation: Conversation
    problem: str
    at: float


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Value of the record."""

    conversation: str
    at: float


_decode = msgspec.json.Decoder(_Entry).decode
_encode = msgspec.json.Encoder().encode


class ParkedConversations:
    """The parked conversations of a channel. Raises `LedgerUnavailable`."""

    def __init__(
        self, records: RecordStore, channel: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._records = records
        self._channel = channel
        self._clock = clock

    async def add(self, conversation: Conversation) -> None:
        """List a conversation; call it before its outbox gets the problem."""
        key = _key(conversation)
        entry = _Entry(conversation=str(conversation), at=self._clock())
        try:
            await self._records.write_record(self._channel, key, _encode(entry), expect=0)
        except Conflict:
            pass  # it is listed already

    async def list(self) -> list[ParkedConversation]:
        """Return the parked conversations, the newest first."""
        found = []
        async for record in all_records(self._records, self._channel, _PARKED):
            entry = _decode(record.value)
            conversation = Conversation.parse(entry.conversation)
            problem = await self._read_problem(conversation)
            if problem:
                found.append(
                    ParkedConversation(conversation=conversation, problem=problem, at=entry.at)
                )
            elif problem is None or entry.at < self._clock() - PARKING_SECONDS:
                await self._remove(record)
        return sorted(found, key=lambda parked: -parked.at)

    async def replay(self, conversation: Conversation) -> bool:
        """Have the replies posted after all. Return False when the conversation is not parked."""

        async def clear(content: OutboxContent) -> None:
            content.problem = ""

        return await self._change(conversation, clear, due_in=0.0)

    async def replay_all(self, tenant: str, thread_prefix: str = "") -> int:
        """Replay every conversation of a tenant whose thread begins so, such as those of an
        installation that is there again. Return their number."""
        count = 0
        for parked in await self.list():
            conversation = parked.conversation
            if conversation.tenant == tenant and conversation.thread.startswith(thread_prefix):
                count += await self.replay(conversation)
        return count

    async def discard(
        self,
        conversation: Conversation,
        snapshot: Callable[[Conversation], Awaitable[Snapshot]],
    ) -> bool:
        """Post only what follows the replies so far. ``snapshot`` returns the conversation's state.
        Return False when the conversation is not parked."""

        async def settle(content: OutboxContent) -> None:
            state = await snapshot(conversation)
            turns = [entry.turn for entry in state.history]
            turns += [pending.turn for pending in state.pending]
            content.posted = list(dict.fromkeys((*content.posted, *turns)))[-MAX_POSTED_TURNS:]
            content.cursor, content.open, content.problem = str(state.cursor), [], ""

        return await self._change(conversation, settle, due_in=None)

    async def _change(
        self,
        conversation: Conversation,
        change: Callable[[OutboxContent], Awaitable[None]],
        *,
        due_in: float | None,
    ) -> bool:
        """Change the outbox of a parked conversation, and list it no longer."""
        while (outbox := await self._read_outbox(conversation)) is not None:
            content = decode_content(outbox)
            if not content.problem:
                return False
            await change(content)
            try:
                await self._records.write_record(
                    self._channel,
                    outbox.key,
                    encode_content(content),
                    expect=outbox.version,
                    due_in=due_in,
                )
            except Conflict:
                continue
            if record := await self._records.read_record(self._channel, _key(conversation)):
                await self._remove(record)
            return True
        return False

    async def _read_problem(self, conversation: Conversation) -> str | None:
        """Return the problem of an outbox; None: there is no outbox."""
        outbox = await self._read_outbox(conversation)
        return None if outbox is None else decode_content(outbox).problem

    async def _read_outbox(self, conversation: Conversation) -> Record | None:
        return await self._records.read_record(self._channel, outbox_key(conversation))

    async def _remove(self, record: Record) -> None:
        try:
            await self._records.delete_record(self._channel, record.key, expect=record.version)
        except Conflict:
            pass  # another process has deleted it


def _key(conversation: Conversation) -> str:
    return _PARKED + key_digest(str(conversation))
