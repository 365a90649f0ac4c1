"""Records of channels in the Redis ledger.

An outbox is in the partition of its conversation, any other record in that of its key. Each
partition has, for each channel, a list of the records and a queue of those that are due.
"""

from typing import NamedTuple

from palaver import (
    MAX_RECORDS,
    OUTBOX,
    LedgerUnavailable,
    Record,
    check_record,
    first_version,
    outbox_conversation,
    record_changed,
)
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.keys import Keys, Partition, name_of

NOT_DUE = -1


class Records(NamedTuple):
    """The records in all partitions."""

    client: RedisClient
    keys: Keys

    async def read(self, channel: str, key: str) -> Record | None:
        partition, place = self._place(channel, key)
        fields = ("value", "version", "due_at")
        found = await self.client.command(partition, "HMGET", place, *fields)
        return _record(key, *found) if found[1] is not None else None

    async def write(
        self, channel: str, key: str, value: bytes, expect: int, due_in: float | None
    ) -> Record:
        check_record(key, value)
        wait = NOT_DUE if due_in is None else round(due_in * 1000)
        version = expect + 1 if expect else first_version()
        found = await self._run("write_record", channel, key, key, expect, value, wait, version)
        if found is None:
            raise record_changed(key)
        return _record(key, value, *found)

    async def claim(self, channel: str, lease: float) -> Record | None:
        """Claim a record that is due in one of the partitions, beginning with the one in which a
        record has been due for the longest time."""
        unavailable: LedgerUnavailable | None = None
        due: list[tuple[float, Partition]] = []
        for partition in self.keys.partitions:
            try:
                first = await self.client.command(
                    partition, "ZRANGE", partition.due_records(channel), 0, 0, "WITHSCORES"
                )
            except LedgerUnavailable as error:  # the other nodes of a Cluster may have work
                unavailable = error
                continue
            if first:
                due.append((float(first[0][1]), partition))
        for _, partition in sorted(due):
            found = await self.client.run(
                "claim_record",
                partition,
                (partition.state, partition.queue, partition.due_records(channel)),
                partition.record_list(channel),
                partition.record_prefix(channel),
                partition.conversation_prefix,
                round(lease * 1000),
            )
            if found:
                key, value, version, due_at = found
                return _record(key.decode(), value, version, due_at)
        if unavailable is not None:
            raise unavailable
        return None

    async def delete(self, channel: str, key: str, expect: int) -> None:
        if not await self._run("delete_record", channel, key, key, expect):
            raise record_changed(key)

    async def list(self, channel: str, prefix: str, after: str) -> tuple[Record, ...]:
        keys: set[str] = set()
        start = f"({after}" if after >= prefix and after else f"[{prefix}" if prefix else "-"
        end = f"[{prefix}\xff" if prefix else "+"
        for partition in self.keys.partitions:
            index = partition.record_list(channel)
            limits = ("BYLEX", "LIMIT", 0, MAX_RECORDS)
            found = await self.client.command(partition, "ZRANGE", index, start, end, *limits)
            keys.update(key.decode() for key in found)
        records = [await self.read(channel, key) for key in sorted(keys)[:MAX_RECORDS]]
        return tuple(record for record in records if record is not None)

    async def _run(
        self, script: str, channel: str, key: str, *args: str | int | bytes
    ) -> RedisReply:
        partition, place = self._place(channel, key)
        keys = (partition.state, partition.queue, place)
        queues = (partition.record_list(channel), partition.due_records(channel))
        return await self.client.run(script, partition, keys, *queues, *args)

    def _place(self, channel: str, key: str) -> tuple[Partition, str]:
        """Return the partition and the key of a record."""
        if key.startswith(OUTBOX):
            name = name_of(outbox_conversation(key))
            partition = self.keys.partition(name)
            return partition, partition.outbox(name)
        partition = self.keys.partition(f"{channel}/{key}")
        return partition, partition.record(channel, key)


def _record(key: str, value: bytes, version: bytes | int, due_at: bytes | int | None) -> Record:
    due = None if due_at is None or int(due_at) < 0 else int(due_at) / 1000
    return Record(key=key, value=value, version=int(version), due_at=due)
