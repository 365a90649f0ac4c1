"""Memories about people in the Redis ledger; ``lua/memories.lua`` writes them.

A hash is in the partition of the conversation whose turn wrote it. With several partitions, a
person has several, and versions tell which value of a key is the newest.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from palaver import LogEntry, MemoryWrite
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.keys import Keys, Partition

NUL = "\0"
"""Prefix of the fields with versions; no key of a memory contains it."""


class Memories(NamedTuple):
    """The memories in all partitions. ``retention`` is in milliseconds, 0 for ever."""

    client: RedisClient
    keys: Keys
    retention: int

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        found = await asyncio.gather(
            *(self._read(each, tenant, person, key) for each in self.keys.partitions)
        )
        value, _ = max(found, key=lambda each: int(each[1] or 0))
        return None if value is None else value.decode()

    async def _read(
        self, partition: Partition, tenant: str, person: str, key: str
    ) -> Sequence[RedisReply]:
        """Return the value and its version, and postpone the expiry."""
        memories = partition.memories(tenant, person)
        found, _ = await asyncio.gather(
            self.client.command(partition, "HMGET", memories, key, NUL + key),
            self._renew(partition, memories),
        )
        values: Sequence[RedisReply] = found
        return values

    async def _renew(self, partition: Partition, memories: str) -> None:
        if self.retention:  # never earlier than before: the server's clock may be behind
            await asyncio.gather(
                self.client.command(partition, "PEXPIRE", memories, self.retention, "NX"),
                self.client.command(partition, "PEXPIRE", memories, self.retention, "GT"),
            )
        else:
            await self.client.command(partition, "PERSIST", memories)

    async def read_all(self, tenant: str, person: str) -> dict[str, str]:
        """Return all memories about a person."""
        newest: dict[str, tuple[int, str | None]] = {}
        for partition in self.keys.partitions:
            key = partition.memories(tenant, person)
            found = await self.client.command(partition, "HGETALL", key)
            for field, value, version in _split(found):
                if field not in newest or version > newest[field][0]:
                    newest[field] = version, value
        return {field: value for field, (_, value) in newest.items() if value is not None}

    async def newest_version(self, tenant: str, entries: Sequence[LogEntry]) -> str:
        """Return the version above which the memories among ``entries`` must be; empty where
        versions are not needed."""
        people = {entry.person for entry in entries if isinstance(entry, MemoryWrite)}
        if not people or len(self.keys.partitions) == 1:
            return ""
        found = await asyncio.gather(
            *(
                self._read(partition, tenant, person, "")
                for partition in self.keys.partitions
                for person in people
            )
        )
        return str(max(int(version or 0) for _, version in found))

    async def erase(self, tenant: str, person: str) -> int:
        """Delete all memories about a person; return their number."""
        count = len(await self.read_all(tenant, person))
        for partition in self.keys.partitions:
            await self.client.command(partition, "UNLINK", partition.memories(tenant, person))
        return count


def _split(found: RedisReply) -> Iterable[tuple[str, str | None, int]]:
    """Yield key, value and version of each memory in a hash; a deleted one has no value."""
    fields = {field.decode(): value.decode() for field, value in found.items()}
    keys = {field.removeprefix(NUL) for field in fields} - {""}
    return ((key, fields.get(key), int(fields.get(NUL + key, 0))) for key in sorted(keys))
