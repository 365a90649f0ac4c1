"""Feedback in the Redis ledger."""

from collections.abc import AsyncGenerator
from typing import NamedTuple

import msgspec

from palaver import (
    FEEDBACK_BYTES,
    Conversation,
    Feedback,
    FeedbackFilter,
    FeedbackReceipt,
    HistoryEntry,
    RatedReply,
    encode,
    no_reply,
    not_in_list,
    too_much_feedback,
)
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.keys import Keys, Partition, name_of

STEP_BYTES = 4_000_000
"""Bytes of history that a script reads, about: bounds how long Redis serves nobody else."""

_decode_feedback = msgspec.json.Decoder(Feedback).decode


class _RatedTurn(msgspec.Struct, frozen=True):
    """Entries of a rated turn, and the history before it; see `RatedReply`."""

    entries: tuple[HistoryEntry, ...]
    history: tuple[HistoryEntry, ...]
    is_cut: bool


_decode_rated = msgspec.json.Decoder(_RatedTurn).decode


class FeedbackRecords(NamedTuple):
    """The feedback in all partitions."""

    client: RedisClient
    keys: Keys

    async def give(
        self, conversation: Conversation, person: str, feedback: Feedback
    ) -> FeedbackReceipt:
        name = name_of(conversation)
        partition = self.keys.partition(name)
        given = msgspec.structs.replace(feedback, skill="", at=0.0)
        position: bytes | int = b""
        while True:
            reply = await self.client.run(
                "give_feedback",
                partition,
                partition.conversation_keys(name),
                person,
                feedback.turn,
                encode(given)[:-1],
                position,
                STEP_BYTES,
                FEEDBACK_BYTES,
            )
            if reply is None:
                raise not_in_list(conversation, person)
            state, *values = reply
            if state == b"more":
                (position,) = values
            elif state == b"unknown":
                raise no_reply(feedback.turn)
            elif state == b"full":
                raise too_much_feedback()
            else:
                return FeedbackReceipt(
                    feedback=_decode_feedback(values[0]), duplicate=state == b"duplicate"
                )

    async def withdraw(self, conversation: Conversation, person: str, turn: str) -> bool:
        name = name_of(conversation)
        partition = self.keys.partition(name)
        keys = partition.conversation_keys(name)
        return bool(await self.client.run("withdraw_feedback", partition, keys, person, turn))

    async def read(self, partition: Partition, name: str, person: str) -> tuple[Feedback, ...]:
        """Return a person's feedback in the conversation of that name."""
        key = partition.feedback(name, person)
        found = await self.client.command(partition, "HGETALL", key)
        return tuple(_decode_feedback(given) for given in found.values())

    async def rated_replies(
        self, tenant: str, filter: FeedbackFilter, size: int
    ) -> AsyncGenerator[RatedReply, None]:
        """Yield the feedback that the filter selects, with what the replies answer."""
        for partition in self.keys.partitions:
            index = partition.person_index_prefix(tenant)
            for name in sorted(await self.client.command(partition, "ZRANGE", index, 0, -1)):
                rated_in = self._rated_in(partition, name.decode(), filter, size)
                async for rated in rated_in:
                    yield rated

    async def _rated_in(
        self, partition: Partition, name: str, filter: FeedbackFilter, size: int
    ) -> AsyncGenerator[RatedReply, None]:
        keys = partition.conversation_keys(name)
        read = 0
        while read >= 0:
            read, rows = await self.client.run("list_feedback", partition, keys, read, STEP_BYTES)
            for person, turn, given, position in rows:
                feedback = _decode_feedback(given)
                if not filter.selects(feedback):
                    continue
                reply = await self.client.run("read_rated", partition, keys, turn, position, size)
                if reply is None:  # erased in the meantime
                    continue
                rated = _decode_rated(reply)
                yield RatedReply(
                    conversation=Conversation.parse(name),
                    person=person.decode(),
                    feedback=feedback,
                    entries=rated.entries,
                    history=rated.history,
                    is_cut=rated.is_cut,
                )
