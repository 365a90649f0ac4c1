"""Export and erasure of all data about one person in the Redis ledger."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec

from palaver import Conversation, Erasure, Export, ExportPart, HistoryEntry, Message, new_id
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.conversation_list import ConversationLists
from palaver_plugins.ledgers.redis.feedback import FeedbackRecords
from palaver_plugins.ledgers.redis.keys import Keys, Partition, name_of
from palaver_plugins.ledgers.redis.memories import Memories

STEP_BYTES = 4_000_000
"""Bytes that a script reads, about: bounds how long Redis serves nobody else. It also disconnects a
subscriber with more than 32 MB of pending output."""

_decode_history = msgspec.json.Decoder(tuple[HistoryEntry, ...]).decode
_decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode
_msgpack = msgspec.msgpack.Encoder()


async def index_dead_letters(client: RedisClient, keys: Keys) -> None:
    """Index the dead letters of earlier versions by person."""
    for partition in keys.partitions:
        first = 0
        while first >= 0:
            first = await client.run(
                "index_dead_letters",
                partition,
                partition.dead_letter_keys,
                partition.dead_letter_indexes,
                first,
            )


async def export(memories: Memories, tenant: str, person: str) -> AsyncGenerator[Export, None]:
    """Yield the parts of an export."""
    client, keys, _ = memories
    part = ExportPart(tenant, person)
    at = await _time(client, keys.partitions[0])
    names = await _conversations_of(client, keys, tenant, person)
    for partition, name in names:
        async for entry in _history_of(client, partition, name, person):
            part.add_history(name, entry)
            if part.is_full:
                yield part.take(at)
    async for message in _pending_of(client, keys, names, tenant, person):
        part.add_pending(message)
        if part.is_full:
            yield part.take(at)
    for name, title in (await ConversationLists(client, keys).titles(names)).items():
        part.add_title(name, title)
    for partition, name in names:
        given = await FeedbackRecords(client, keys).read(partition, name, person)
        part.add_feedback(name, given)
        if part.is_full:
            yield part.take(at)
    for key, value in (await memories.read_all(tenant, person)).items():
        part.add_memory(key, value)
    yield part.take(at)


async def _history_of(
    client: RedisClient, partition: Partition, name: str, person: str
) -> AsyncIterator[HistoryEntry]:
    read = 0
    while read >= 0:
        keys = partition.conversation_keys(name)
        history, read = await client.run("export", partition, keys, person, read, STEP_BYTES)
        for entry in _decode_history(history):
            yield entry


async def _pending_of(
    client: RedisClient,
    keys: Keys,
    names: Sequence[tuple[Partition, str]],
    tenant: str,
    person: str,
) -> AsyncIterator[Message]:
    """Yield the person's messages that wait, steer or are in dead letters."""
    for partition, name in names:
        reply = await client.run(
            "export_pending", partition, partition.conversation_keys(name), person
        )
        for message in _decode_messages(reply):
            yield message
    for partition in keys.partitions:
        for turn in await _dead_letters_of(client, partition, tenant, person):
            for message in await _messages_in_dead_letter(client, partition, person, turn):
                yield message


async def _dead_letters_of(
    client: RedisClient, partition: Partition, tenant: str, person: str
) -> list[bytes]:
    index = partition.dead_letter_index(tenant, person)
    found: list[bytes] = await client.command(partition, "ZRANGE", index, 0, -1)
    return found


async def _messages_in_dead_letter(
    client: RedisClient, partition: Partition, person: str, turn: bytes
) -> tuple[Message, ...]:
    """Return the person's messages."""
    keys = partition.dead_letter_keys
    return _decode_messages(await client.run("export_dead_letters", partition, keys, person, turn))


async def erase(
    memories: Memories,
    tenant: str,
    person: str,
    conversation: Conversation | None,
    *,
    history_kept: int,
) -> Erasure:
    """Delete all data about the person, or what a conversation has about them."""
    client, keys, _ = memories
    conversations = messages = events = dead_letters = 0
    if conversation is not None:
        names = [(keys.partition(name_of(conversation)), name_of(conversation))]
    else:
        names = await _conversations_of(client, keys, tenant, person)
    for partition, name in names:
        erased = await _erase_from(client, partition, name, tenant, person, history_kept)
        messages += erased[0]
        events += erased[1]
        conversations += erased[2]
    for partition in keys.partitions:
        dead_letters += await _erase_dead_letters(client, partition, tenant, person, conversation)
    # The last step: each of the person's turns is fenced, so that none writes a memory any more.
    erased_memories = 0 if conversation else await memories.erase(tenant, person)
    return Erasure(
        tenant=tenant,
        person=person,
        conversations=conversations,
        messages=messages,
        events=events,
        dead_letters=dead_letters,
        memories=erased_memories,
        at=await _time(client, keys.partitions[0]),
    )


async def _erase_from(
    client: RedisClient,
    partition: Partition,
    name: str,
    tenant: str,
    person: str,
    history_kept: int,
) -> tuple[int, int, int]:
    """Erase the person from a conversation: history in steps, then the rest at once.

    The person is a member until the last step, so a repetition continues an erasure that was cut.
    """
    keys = partition.conversation_keys(name)
    position = messages = is_end = 0
    kept_turns: list[str] = []
    while not is_end:
        removed, position, is_end, turns = await client.run(
            "erase_some", partition, keys, person, position, STEP_BYTES
        )
        messages += removed
        kept_turns += [turn.decode() for turn in turns]
    rest, events, was_member = await client.run(
        "erase",
        partition,
        (*keys, partition.person_index(tenant, person)),
        name,
        person,
        new_id(),
        history_kept,
        position,
        _msgpack.encode(kept_turns),
    )
    return messages + rest, events, was_member


async def _erase_dead_letters(
    client: RedisClient,
    partition: Partition,
    tenant: str,
    person: str,
    conversation: Conversation | None,
) -> int:
    index = partition.dead_letter_index(tenant, person)
    state, queue, dead_letters = partition.dead_letter_keys
    keys = (state, queue, index, dead_letters)
    changed = 0
    for turn in await _dead_letters_of(client, partition, tenant, person):
        if conversation is not None:
            messages = await _messages_in_dead_letter(client, partition, person, turn)
            if not messages or messages[0].conversation != conversation:
                continue
        changed += await client.run("erase_dead_letters", partition, keys, person, turn)
    return changed


async def _conversations_of(
    client: RedisClient, keys: Keys, tenant: str, person: str
) -> list[tuple[Partition, str]]:
    found = []
    for partition in keys.partitions:
        index = partition.person_index(tenant, person)
        names = await client.command(partition, "ZRANGE", index, 0, -1)
        found += [(partition, name.decode()) for name in sorted(names)]
    return found


async def _time(client: RedisClient, partition: Partition) -> float:
    seconds, microseconds = await client.command(partition, "TIME")
    return int(seconds) + int(microseconds) / 1e6
