"""RedisLedger: each method of `palaver.ledger.Ledger` is one script, one round trip."""

import math
from collections.abc import Callable, Sequence

import msgspec

from palaver.errors import IndexConflict
from palaver.ledger import (
    INBOX_LIMIT,
    Claim,
    Depth,
    Entry,
    Erasure,
    Exchange,
    Export,
    Guarantee,
    Hint,
    Page,
    Progress,
    Receipt,
    Snapshot,
    StopState,
    Waiting,
)
from palaver.messages import Conversation, Finished, Message, Received, encode, new_id
from palaver_plugins.ledgers.redis import checks
from palaver_plugins.ledgers.redis.entries import pack_entries
from palaver_plugins.ledgers.redis.keys import Keys, Partition, events_channel, name_of
from palaver_plugins.ledgers.redis.link import Reply
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings
from palaver_plugins.ledgers.redis.store import Store

REMEMBERED_MS = 24 * 3600 * 1000
"""How long the id of a message is known as used."""

_decode_claim = msgspec.json.Decoder(Claim).decode
_decode_page = msgspec.json.Decoder(Page).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode


class _Theirs(msgspec.Struct, frozen=True):
    """What one conversation holds of a person."""

    lines: tuple[Exchange, ...]
    pending: tuple[Message, ...]


_decode_theirs = msgspec.json.Decoder(_Theirs).decode


class RedisLedger:
    """A `palaver.ledger.Ledger` in Redis, for any number of servers."""

    def __init__(self, settings: RedisLedgerSettings) -> None:
        self._settings = settings
        self._keys = Keys(settings.prefix, settings.partitions)
        self._store = Store(settings, self._keys)
        self._first = 0  # the partition that was asked first for the last claim

    async def start(self) -> None:
        """Connect and check. Raises `ConfigurationError` when this Redis cannot keep a ledger's
        promises, and `LedgerUnavailable` when it cannot be reached."""
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    # The walk of a turn

    async def accept(self, message: Message) -> Receipt:
        name = name_of(message.conversation)
        partition = self._keys.partition(name)
        sender, turn = message.sender, new_id()
        received = encode(Received(turn=turn, id=message.id, sender=sender, text=message.text))
        accepted, ahead, duplicate = await self._store.run(
            "accept",
            (
                *self._place(partition, name),
                partition.person(message.conversation.tenant, sender),
            ),
            name,
            turn,
            message.id,
            message.digest,
            sender,
            encode(message),
            received.removesuffix(b"0}"),  # the script knows how many are ahead
            INBOX_LIMIT,
            REMEMBERED_MS,
        )
        return Receipt(turn=accepted.decode(), ahead=ahead, duplicate=bool(duplicate))

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109  the protocol's
        await self._store.ready()
        await self._store.work.wait(timeout)

    async def claim(self, worker: str, *, lease: float, history: int) -> Claim | None:
        told = self._store.work.count
        partitions = self._keys.partitions
        self._first = (self._first + 1) % len(partitions)
        waits = []
        for partition in partitions[self._first :] + partitions[: self._first]:
            found = await self._claim_from(partition, worker, lease, history)
            if isinstance(found, Claim):
                return found
            waits.append(found)
        self._store.work.nothing(told, min(waits))
        return None

    async def _claim_from(
        self, partition: Partition, worker: str, lease: float, history: int
    ) -> Claim | float:
        """A claim, or the seconds for which nothing will be due."""
        found = await self._store.run(
            "claim",
            (partition.state, partition.queue, partition.claim(new_id())),
            partition.conversations,
            worker,
            _milliseconds(lease),
            history,
        )
        if isinstance(found, bytes):
            return _decode_claim(found)
        return math.inf if found < 0 else found / 1000

    async def append(
        self, claim: Claim, entries: Sequence[Entry], *, expect: int, lease: float
    ) -> Progress:
        packed = pack_entries(entries) if entries else b""
        return await self._write("append", claim, expect, _milliseconds(lease), packed)

    async def settle(
        self,
        claim: Claim,
        entries: Sequence[Entry],
        *,
        expect: int,
        waiting: Waiting | None = None,
    ) -> Progress:
        finished = entries[-1] if entries else None
        if not isinstance(finished, Finished):
            raise IndexConflict(f"turn {claim.turn}: settling needs Finished as the last entry")
        message = claim.message
        kept = b""
        if waiting is not None:
            kept = f"{waiting.message.sender}:".encode() + encode(waiting)
        return await self._write(
            "settle",
            claim,
            expect,
            pack_entries(entries),
            finished.outcome,
            encode(message.text),
            message.sender,
            kept,
            self._settings.events_kept,
            self._settings.history_kept,
        )

    async def release(self, claim: Claim) -> None:
        await self._own("release", claim)

    async def _write(
        self, script: str, claim: Claim, expect: int, *arguments: str | bytes | int
    ) -> Progress:
        index, offset, stop = await self._own(script, claim, expect, *arguments)
        return Progress(index, offset, stop == 1)

    async def _own(self, script: str, claim: Claim, *arguments: str | bytes | int) -> Reply:
        name = name_of(claim.message.conversation)
        keys = self._place(self._keys.partition(name), name)
        return await self._store.run(script, keys, name, claim.turn, claim.fence, *arguments)

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        state, stopped = await self._on("stop", conversation, turn or "")
        return state.decode(), stopped.decode()

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        return _decode_page(await self._on("read", conversation, after, limit))

    async def watch(self, conversation: Conversation, hint: Hint) -> Callable[[], None]:
        channel = events_channel(self._conversation_key(conversation))
        return await self._store.watch(channel, hint)

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        return _decode_snapshot(await self._on("snapshot", conversation, history))

    async def members(self, conversation: Conversation) -> frozenset[str]:
        key = self._conversation_key(conversation)
        return frozenset(
            member.decode() for member in await self._store.command("SMEMBERS", f"{key}:u")
        )

    async def depth(self) -> Depth:
        queued = running = 0
        for partition in self._keys.partitions:
            counts = await self._store.command("HMGET", partition.state, "queued", "running")
            queued += int(counts[0] or 0)
            running += int(counts[1] or 0)
        return Depth(queued=queued, running=running)

    # People

    async def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        _, place = self._keys.memories(tenant, person)
        if value is None:
            await self._store.command("HDEL", place, key)
        else:
            await self._store.command("HSET", place, key, value)

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        _, place = self._keys.memories(tenant, person)
        value = await self._store.command("HGET", place, key)
        return None if value is None else value.decode()

    async def export(self, tenant: str, person: str) -> Export:
        conversations: dict[str, tuple[Exchange, ...]] = {}
        pending: list[Message] = []
        for partition, name in await self._conversations_of(tenant, person):
            reply = await self._store.run("export", self._place(partition, name), person)
            theirs = _decode_theirs(reply)
            if theirs.lines:
                conversations[name] = theirs.lines
            pending += theirs.pending
        _, place = self._keys.memories(tenant, person)
        memories = await self._store.command("HGETALL", place)
        return Export(
            tenant=tenant,
            person=person,
            conversations=conversations,
            pending=tuple(pending),
            memories={key.decode(): value.decode() for key, value in memories.items()},
        )

    async def erase(self, tenant: str, person: str) -> Erasure:
        found = await self._conversations_of(tenant, person)
        messages = events = 0
        for partition, name in found:
            keys = (*self._place(partition, name), partition.person(tenant, person))
            gone = await self._store.run("erase", keys, name, person)
            messages += gone[0]
            events += gone[1]
        _, place = self._keys.memories(tenant, person)
        memories = await self._store.command("HLEN", place)
        await self._store.command("UNLINK", place)
        now = await self._store.command("TIME")
        return Erasure(
            tenant=tenant,
            person=person,
            conversations=len(found),
            messages=messages,
            events=events,
            memories=memories,
            at=int(now[0]) + int(now[1]) / 1e6,
        )

    async def _conversations_of(self, tenant: str, person: str) -> list[tuple[Partition, str]]:
        found = []
        for partition in self._keys.partitions:
            names = await self._store.command("SMEMBERS", partition.person(tenant, person))
            found += [(partition, name.decode()) for name in sorted(names)]
        return found

    async def guarantee(self) -> Guarantee:
        return checks.describe(await checks.inspect(self._store.ask))

    # Below the surface

    def _conversation_key(self, conversation: Conversation) -> str:
        name = name_of(conversation)
        return self._keys.partition(name).conversation(name)

    def _place(self, partition: Partition, name: str) -> tuple[str, str, str]:
        return partition.state, partition.queue, partition.conversation(name)

    async def _on(
        self, script: str, conversation: Conversation, *arguments: str | bytes | int
    ) -> Reply:
        name = name_of(conversation)
        keys = self._place(self._keys.partition(name), name)
        return await self._store.run(script, keys, *arguments)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
