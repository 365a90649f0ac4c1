"""Changes of messages that wait in the Redis ledger.

The messages are read, changed here, and replaced in one step, unless they are others by then.
"""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec

from palaver import ConcurrencyPolicies, Conversation, Message, Snapshot, encode
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.encoding import pack_policies, received_event_suffix
from palaver_plugins.ledgers.redis.keys import Keys, name_of

_decode_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode
_decode_message = msgspec.json.Decoder(Message).decode


class WaitingMessage(NamedTuple):
    """A message among those of its turn, which are JSON as the store has them."""

    turn: str
    stored: bytes
    parts: Sequence[bytes]
    place: int
    message: Message


class WaitingMessages:
    """Changes of messages whose turn has not begun."""

    def __init__(self, client: RedisClient, keys: Keys, history_kept: int) -> None:
        self._client = client
        self._keys = keys
        self._history_kept = history_kept

    async def change(
        self,
        conversation: Conversation,
        message: str,
        text: str | None,
        policies: ConcurrencyPolicies,
    ) -> bool:
        """See `Ledger.change_waiting`."""
        result: RedisReply = b"outdated"
        while result == b"outdated":
            result = b"unknown"
            async for found in self._find(name_of(conversation), message):
                result = await self._replace(conversation, found, text, policies)
                if result != b"begun":
                    break
        return bool(result == b"changed")

    async def _find(self, name: str, message: str) -> AsyncIterator[WaitingMessage]:
        """Yield the messages with that id whose turns do not run: one, or an earlier one too whose
        id was used again."""
        partition = self._keys.partition(name)
        keys = partition.conversation_keys(name)
        snapshot = _decode_snapshot(await self._client.run("snapshot", partition, keys, 0, 0))
        for pending in snapshot.pending:
            if pending.running or all(each.id != message for each in pending.messages):
                continue
            key = partition.turn(name, pending.turn)
            stored = await self._client.command(partition, "HGET", key, "messages")
            parts = [bytes(part) for part in _decode_parts(b"[%b]" % (stored or b""))]
            for place, part in enumerate(parts):
                if (found := _decode_message(part)).id == message:
                    yield WaitingMessage(pending.turn, stored, parts, place, found)

    async def _replace(
        self,
        conversation: Conversation,
        found: WaitingMessage,
        text: str | None,
        policies: ConcurrencyPolicies,
    ) -> RedisReply:
        """Replace the messages of the turn, unless it has begun or they are others by now."""
        name = name_of(conversation)
        partition = self._keys.partition(name)
        part = suffix = b""
        if text is not None:
            changed = msgspec.structs.replace(found.message, text=text)
            part, suffix = encode(changed), received_event_suffix(changed)
        parts = [*found.parts[: found.place], part, *found.parts[found.place + 1 :]]
        return await self._client.run(
            "change_waiting",
            partition,
            partition.conversation_keys(name),
            name,
            found.turn,
            found.stored,
            b",".join(filter(None, parts)),
            found.place + 1,
            encode(found.message.id),
            len(part),
            suffix,
            len(part) - len(found.parts[found.place]),
            pack_policies(policies),
            partition.person_index_prefix(conversation.tenant),
            self._history_kept,
        )
