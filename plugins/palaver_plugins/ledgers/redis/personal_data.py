"""Export and erasure of all data about one person in the Redis ledger."""

import msgspec

from palaver import Erasure, Export, HistoryEntry, Message, new_id
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.keys import Keys, Partition
from palaver_plugins.ledgers.redis.memories import Memories

ENTRIES = 500
"""History entries per request: Redis disconnects a subscriber with more than 32 MB of pending
output."""


class _Part(msgspec.Struct, frozen=True):
    """A person's share of a part of one conversation; ``total`` counts all history entries."""

    history: tuple[HistoryEntry, ...]
    total: int
    pending: tuple[Message, ...]


_decode_part = msgspec.json.Decoder(_Part).decode
_decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode


async def export(memories: Memories, tenant: str, person: str) -> Export:
    """Return all data about the person."""
    client, keys, _ = memories
    conversations: dict[str, tuple[HistoryEntry, ...]] = {}
    pending: list[Message] = []
    for partition, name in await _conversations_of(client, keys, tenant, person):
        history, messages = await _export_from(client, partition, name, person)
        pending += messages
        if history:
            conversations[name] = tuple(history)
    for partition in keys.partitions:
        reply = await client.run(
            "export_dead_letters", partition, partition.dead_letter_keys, tenant, person
        )
        pending += _decode_messages(reply)
    return Export(
        tenant=tenant,
        person=person,
        conversations=conversations,
        pending=tuple(pending),
        memories=await memories.read_all(tenant, person),
        at=await _time(client, keys.partitions[0]),
    )


async def _export_from(
    client: RedisClient, partition: Partition, name: str, person: str
) -> tuple[list[HistoryEntry], list[Message]]:
    """Return a person's history entries and waiting messages in one conversation."""
    history: list[HistoryEntry] = []
    pending: list[Message] = []
    first, total = 0, 1
    while first < total:
        keys = partition.conversation_keys(name)
        part = _decode_part(await client.run("export", partition, keys, person, first, ENTRIES))
        history += part.history
        pending += part.pending
        first, total = first + ENTRIES, part.total
    return history, pending


async def erase(memories: Memories, tenant: str, person: str, *, history_kept: int) -> Erasure:
    """Delete all data about the person."""
    client, keys, _ = memories
    conversations = messages = events = dead_letters = 0
    for partition, name in await _conversations_of(client, keys, tenant, person):
        index = partition.person_index(tenant, person)
        erase_keys = (*partition.conversation_keys(name), index)
        erased = await client.run(
            "erase", partition, erase_keys, name, person, new_id(), history_kept
        )
        messages += erased[0]
        events += erased[1]
        conversations += erased[2]
    for partition in keys.partitions:
        dead_letters += await client.run(
            "erase_dead_letters", partition, partition.dead_letter_keys, tenant, person
        )
    # The last step: each of the person's turns is fenced, so that none writes a memory any more.
    erased_memories = await memories.erase(tenant, person)
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
