"""Everything that the Redis ledger holds about one person: export and erasure."""

import msgspec

from palaver import Erasure, Export, HistoryEntry, Message, new_id
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.keys import Keys, Partition

LINES = 500
"""Lines of history that are exported at once: Redis cuts off a subscriber of whom more than 32 MB
wait."""


class _Theirs(msgspec.Struct, frozen=True):
    """What a stretch of one conversation holds of a person; ``all`` counts everybody's lines."""

    lines: tuple[HistoryEntry, ...]
    all: int
    pending: tuple[Message, ...]


_decode_theirs = msgspec.json.Decoder(_Theirs).decode
_decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode


async def export(store: RedisClient, keys: Keys, tenant: str, person: str) -> Export:
    conversations: dict[str, tuple[HistoryEntry, ...]] = {}
    pending: list[Message] = []
    for partition, name in await _conversations_of(store, keys, tenant, person):
        lines, waiting = await _export_from(store, partition, name, person)
        pending += waiting
        if lines:
            conversations[name] = tuple(lines)
    for partition in keys.partitions:
        place = (partition.state, partition.queue, partition.dead_letters)
        letters = await store.run("export_letters", partition, place, tenant, person)
        pending += _decode_messages(letters)
    partition, memories = keys.memories(tenant, person)
    remembered = await store.command(partition, "HGETALL", memories)
    return Export(
        tenant=tenant,
        person=person,
        conversations=conversations,
        pending=tuple(pending),
        memories={key.decode(): value.decode() for key, value in remembered.items()},
        at=await _time(store, partition),
    )


async def _export_from(
    store: RedisClient, partition: Partition, name: str, person: str
) -> tuple[list[HistoryEntry], list[Message]]:
    """A person's lines and waiting messages in one conversation."""
    lines: list[HistoryEntry] = []
    pending: list[Message] = []
    read, total = 0, 1
    while read < total:
        place = (partition.state, partition.queue, partition.conversation(name))
        theirs = _decode_theirs(await store.run("export", partition, place, person, read, LINES))
        lines += theirs.lines
        pending += theirs.pending
        read, total = read + LINES, theirs.all
    return lines, pending


async def erase(store: RedisClient, keys: Keys, tenant: str, person: str) -> Erasure:
    conversations = messages = events = letters = 0
    for partition, name in await _conversations_of(store, keys, tenant, person):
        index = partition.person_index(tenant, person)
        where = (partition.state, partition.queue, partition.conversation(name), index)
        gone = await store.run("erase", partition, where, name, person, new_id())
        messages += gone[0]
        events += gone[1]
        conversations += gone[2]
    for partition in keys.partitions:
        place = (partition.state, partition.queue, partition.dead_letters)
        letters += await store.run("erase_letters", partition, place, tenant, person)
    partition, remembered = keys.memories(tenant, person)
    memories = await store.command(partition, "HLEN", remembered)
    await store.command(partition, "UNLINK", remembered)
    return Erasure(
        tenant=tenant,
        person=person,
        conversations=conversations,
        messages=messages,
        events=events,
        dead_letters=letters,
        memories=memories,
        at=await _time(store, partition),
    )


async def _conversations_of(
    store: RedisClient, keys: Keys, tenant: str, person: str
) -> list[tuple[Partition, str]]:
    found = []
    for partition in keys.partitions:
        names = await store.command(
            partition, "ZRANGE", partition.person_index(tenant, person), 0, -1
        )
        found += [(partition, name.decode()) for name in sorted(names)]
    return found


async def _time(store: RedisClient, partition: Partition) -> float:
    seconds, microseconds = await store.command(partition, "TIME")
    return int(seconds) + int(microseconds) / 1e6
