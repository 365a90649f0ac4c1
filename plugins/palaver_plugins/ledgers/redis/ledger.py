"""RedisLedger: each method of `palaver.ledger.Ledger` is one script, one round trip."""

import asyncio
import math
from collections.abc import Callable, Sequence

import msgspec

from palaver import (
    INBOX_LIMIT,
    QUEUE_ALL,
    Claim,
    ConcurrencyPolicies,
    Conversation,
    DeadLetter,
    Erasure,
    Export,
    Finished,
    Guarantee,
    IndexConflict,
    LedgerUnavailable,
    LogEntry,
    Message,
    OnChange,
    Page,
    PendingQuestion,
    Progress,
    QueueDepth,
    Receipt,
    Snapshot,
    StopState,
    encode,
    new_id,
)
from palaver_plugins.ledgers.redis import personal_data
from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.encoding import (
    pack_closing,
    pack_entries,
    pack_policies,
    received_event_suffix,
)
from palaver_plugins.ledgers.redis.keys import Keys, Partition, name_of
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings

_decode_claim = msgspec.json.Decoder(Claim).decode
_decode_page = msgspec.json.Decoder(Page).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode
_decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode
_decode_letters = msgspec.json.Decoder(tuple[DeadLetter, ...]).decode


class RedisLedger:
    """A `palaver.ledger.Ledger` in Redis, for any number of servers."""

    def __init__(
        self, settings: RedisLedgerSettings, *, client: type[RedisClient] = RedisClient
    ) -> None:
        self._settings = settings
        self._keys = Keys(settings.prefix, settings.partitions)
        self._client = client(settings, self._keys)
        self._first_partition = 0  # the partition that was asked first for the last claim

    async def start(self) -> None:
        """Connect and check. Raises `ConfigurationError` when this Redis cannot keep a ledger's
        promises, and `LedgerUnavailable` when it cannot be reached."""
        await self._client.open()

    async def close(self) -> None:
        await self._client.close()

    # The walk of a turn

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        name = name_of(message.conversation)
        partition = self._keys.partition(name)
        turn, ahead, duplicate, joined = await self._client.run(
            "accept",
            partition,
            _conversation_keys(partition, name),
            name,
            new_id(),
            message.id,
            message.digest,
            message.person,
            encode(message),
            received_event_suffix(message),
            int(bool(message.skill)),
            pack_policies(policies),
            INBOX_LIMIT,
            partition.person_index_prefix(message.conversation.tenant),
        )
        return Receipt(
            turn=turn.decode(), ahead=ahead, duplicate=duplicate == 1, joined=joined == 1
        )

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109  the protocol's
        await self._client.wait_until_connected()
        await self._client.work.wait(timeout)

    async def claim(self, worker: str, *, lease: float, history: int) -> Claim | None:
        told = self._client.work.count
        partitions = self._keys.partitions
        self._first_partition = (self._first_partition + 1) % len(partitions)
        waits = []
        away: LedgerUnavailable | None = None
        for partition in partitions[self._first_partition :] + partitions[: self._first_partition]:
            try:
                found = await self._claim_from(partition, worker, lease, history)
            except LedgerUnavailable as error:  # a node of a Cluster: the others have work as well
                away = error
                continue
            if isinstance(found, Claim):
                return found
            waits.append(found)
        if away is not None:
            raise away
        self._client.work.clear_until_due(told, min(waits))
        return None

    async def _claim_from(
        self, partition: Partition, worker: str, lease: float, history: int
    ) -> Claim | float:
        """A claim, or the seconds for which nothing will be due."""
        found = await self._client.run(
            "claim",
            partition,
            (partition.state, partition.queue, partition.claim(new_id())),
            partition.conversation_prefix,
            worker,
            _milliseconds(lease),
            history,
            partition.owner_channel_prefix,
            self._client.owner_id,
        )
        if isinstance(found, bytes):
            return _decode_claim(found)
        return math.inf if found < 0 else found / 1000

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        packed = pack_entries(entries) if entries else b""
        return _progress(
            await self._run_as_owner("append", claim, expect, _milliseconds(lease), packed)
        )

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
        finished = entries[-1] if entries else None
        if not isinstance(finished, Finished):
            raise IndexConflict(f"settle: turn {claim.turn} needs Finished as its last entry")
        partition = self._keys.partition(name_of(claim.conversation))
        closing = pack_closing(
            claim,
            finished,
            pending_question,
            taken_steering,
            dead_letter_reason,
            next=new_id(),
            indexes=partition.person_index_prefix(claim.conversation.tenant),
            events_kept=self._settings.events_kept,
            history_kept=self._settings.history_kept,
        )
        entry_bytes, also = pack_entries(entries), (partition.dead_letters,)
        return _progress(
            await self._run_as_owner("settle", claim, expect, entry_bytes, closing, also=also)
        )

    async def read_steering(self, claim: Claim) -> tuple[Message, ...]:
        return _decode_messages(await self._run_as_owner("steering", claim))

    async def release(self, claim: Claim) -> None:
        await self._run_as_owner("release", claim)

    async def _run_as_owner(
        self, script: str, claim: Claim, *arguments: str | bytes | int, also: tuple[str, ...] = ()
    ) -> RedisReply:
        """Run a script of the claim's owner; ``also`` are more keys than the conversation's."""
        name = name_of(claim.conversation)
        partition = self._keys.partition(name)
        keys = (*_conversation_keys(partition, name), *also)
        return await self._client.run(
            script, partition, keys, name, claim.turn, claim.fence, *arguments
        )

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        state, stopped = await self._run_on("stop", conversation, turn or "")
        return state.decode(), stopped.decode()

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        return _decode_page(await self._run_on("read", conversation, after, limit))

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        name = name_of(conversation)
        channel = self._keys.partition(name).channel(name)
        return await self._client.watch(channel, on_change)

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        return _decode_snapshot(await self._run_on("snapshot", conversation, history))

    async def members(self, conversation: Conversation) -> frozenset[str]:
        name = name_of(conversation)
        partition = self._keys.partition(name)
        found = await self._client.command(partition, "SMEMBERS", partition.members(name))
        return frozenset(member.decode() for member in found)

    async def queue_depth(self) -> QueueDepth:
        queued = running = 0
        for partition in self._keys.partitions:
            counts = await self._client.command(
                partition, "HMGET", partition.state, "queued", "running"
            )
            queued += int(counts[0] or 0)
            running += int(counts[1] or 0)
        return QueueDepth(queued=queued, running=running)

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        found: list[DeadLetter] = []
        for partition in self._keys.partitions:
            found += _decode_letters(
                await self._client.run(
                    "dead_letters", partition, _dead_letter_keys(partition), limit
                )
            )
        found.sort(key=lambda letter: letter.at, reverse=True)
        return tuple(found[: max(limit, 0)])

    async def discard_dead_letter(self, turn: str) -> bool:
        gone = [
            await self._client.run("discard", partition, _dead_letter_keys(partition), turn)
            for partition in self._keys.partitions
        ]
        return any(gone)

    # People

    async def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        partition, place = self._keys.memories(tenant, person)
        if value is None:
            await self._client.command(partition, "HDEL", place, key)
        else:
            await asyncio.gather(
                self._client.command(partition, "HSET", place, key, value),
                self._renew_memories(partition, place),
            )

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        partition, place = self._keys.memories(tenant, person)
        value, _ = await asyncio.gather(
            self._client.command(partition, "HGET", place, key),
            self._renew_memories(partition, place),
        )
        return None if value is None else value.decode()

    async def _renew_memories(self, partition: Partition, place: str) -> None:
        """What is remembered about a person is in use."""
        if retention := self._settings.retention_seconds:
            await self._client.command(partition, "PEXPIRE", place, _milliseconds(retention))
        else:
            await self._client.command(partition, "PERSIST", place)

    async def export(self, tenant: str, person: str) -> Export:
        return await personal_data.export(self._client, self._keys, tenant, person)

    async def erase(self, tenant: str, person: str) -> Erasure:
        return await personal_data.erase(self._client, self._keys, tenant, person)

    async def guarantee(self) -> Guarantee:
        return await self._client.guarantee()

    # Below the surface

    async def _run_on(
        self, script: str, conversation: Conversation, *arguments: str | bytes | int
    ) -> RedisReply:
        name = name_of(conversation)
        partition = self._keys.partition(name)
        return await self._client.run(
            script, partition, _conversation_keys(partition, name), *arguments
        )


def _conversation_keys(partition: Partition, name: str) -> tuple[str, str, str]:
    return partition.state, partition.queue, partition.conversation(name)


def _dead_letter_keys(partition: Partition) -> tuple[str, str, str]:
    return partition.state, partition.queue, partition.dead_letters


def _progress(reply: RedisReply) -> Progress:
    index, offset, stop, steering = reply
    return Progress(index, offset, stop == 1, steering)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
