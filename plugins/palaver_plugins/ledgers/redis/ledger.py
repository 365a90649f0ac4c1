"""RedisLedger: each method of `palaver.ledger.Ledger` is one script, one round trip."""

import math
from collections.abc import Callable, Sequence

import msgspec

from palaver.errors import IndexConflict, LedgerUnavailable
from palaver.ledger import (
    INBOX_LIMIT,
    QUEUE,
    Claim,
    DeadLetter,
    Depth,
    Entry,
    Erasure,
    Exchange,
    Export,
    Guarantee,
    Hint,
    Page,
    Policies,
    Progress,
    Receipt,
    Snapshot,
    StopState,
    Waiting,
)
from palaver.messages import Conversation, Finished, Message, Received, encode, new_id
from palaver_plugins.ledgers.redis.entries import pack_entries
from palaver_plugins.ledgers.redis.keys import Keys, Partition, name_of
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings
from palaver_plugins.ledgers.redis.store import Store
from palaver_plugins.ledgers.redis.wire import Reply

REMEMBERED_MS = 24 * 3600 * 1000
"""How long the id of a message is known as used."""

LINES = 500
"""Lines of history that are exported at once: Redis cuts off a subscriber of whom more than 32 MB
wait."""

_decode_claim = msgspec.json.Decoder(Claim).decode
_decode_page = msgspec.json.Decoder(Page).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode


class _Theirs(msgspec.Struct, frozen=True):
    """What a stretch of one conversation holds of a person; ``all`` counts everybody's lines."""

    lines: tuple[Exchange, ...]
    all: int
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

    async def accept(self, message: Message, policies: Policies = QUEUE) -> Receipt:
        name = name_of(message.conversation)
        partition = self._keys.partition(name)
        sender, turn = message.sender, new_id()
        received = encode(Received(turn=turn, id=message.id, sender=sender, text=message.text))
        accepted, ahead, duplicate = await self._store.run(
            "accept",
            partition,
            (
                *_place(partition, name),
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
        away: LedgerUnavailable | None = None
        for partition in partitions[self._first :] + partitions[: self._first]:
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
        self._store.work.nothing(told, min(waits))
        return None

    async def _claim_from(
        self, partition: Partition, worker: str, lease: float, history: int
    ) -> Claim | float:
        """A claim, or the seconds for which nothing will be due."""
        found = await self._store.run(
            "claim",
            partition,
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
        steered: Sequence[Message] = (),
        dead: str = "",
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

    async def steering(self, claim: Claim) -> tuple[Message, ...]:
        return claim.steering

    async def release(self, claim: Claim) -> None:
        await self._own("release", claim)

    async def _write(
        self, script: str, claim: Claim, expect: int, *arguments: str | bytes | int
    ) -> Progress:
        index, offset, stop = await self._own(script, claim, expect, *arguments)
        return Progress(index, offset, stop == 1)

    async def _own(self, script: str, claim: Claim, *arguments: str | bytes | int) -> Reply:
        name = name_of(claim.conversation)
        partition = self._keys.partition(name)
        keys = _place(partition, name)
        return await self._store.run(
            script, partition, keys, name, claim.turn, claim.fence, *arguments
        )

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        state, stopped = await self._on("stop", conversation, turn or "")
        return state.decode(), stopped.decode()

    # Reading

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        return _decode_page(await self._on("read", conversation, after, limit))

    async def watch(self, conversation: Conversation, hint: Hint) -> Callable[[], None]:
        name = name_of(conversation)
        channel = self._keys.partition(name).channel(name)
        return await self._store.watch(channel, hint)

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        return _decode_snapshot(await self._on("snapshot", conversation, history))

    async def members(self, conversation: Conversation) -> frozenset[str]:
        name = name_of(conversation)
        partition = self._keys.partition(name)
        found = await self._store.command(partition, "SMEMBERS", partition.members(name))
        return frozenset(member.decode() for member in found)

    async def depth(self) -> Depth:
        queued = running = 0
        for partition in self._keys.partitions:
            counts = await self._store.command(
                partition, "HMGET", partition.state, "queued", "running"
            )
            queued += int(counts[0] or 0)
            running += int(counts[1] or 0)
        return Depth(queued=queued, running=running)

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        return ()

    async def discard(self, turn: str) -> bool:
        return False

    # People

    async def remember(self, tenant: str, person: str, key: str, value: str | None) -> None:
        partition, place = self._keys.memories(tenant, person)
        if value is None:
            await self._store.command(partition, "HDEL", place, key)
        else:
            await self._store.command(partition, "HSET", place, key, value)

    async def recall(self, tenant: str, person: str, key: str) -> str | None:
        partition, place = self._keys.memories(tenant, person)
        value = await self._store.command(partition, "HGET", place, key)
        return None if value is None else value.decode()

    async def export(self, tenant: str, person: str) -> Export:
        conversations: dict[str, tuple[Exchange, ...]] = {}
        pending: list[Message] = []
        for partition, name in await self._conversations_of(tenant, person):
            lines: list[Exchange] = []
            read, total = 0, 1
            while read < total:
                keys = _place(partition, name)
                reply = await self._store.run("export", partition, keys, person, read, LINES)
                theirs = _decode_theirs(reply)
                lines += theirs.lines
                pending += theirs.pending
                read, total = read + LINES, theirs.all
            if lines:
                conversations[name] = tuple(lines)
        partition, place = self._keys.memories(tenant, person)
        memories = await self._store.command(partition, "HGETALL", place)
        return Export(
            tenant=tenant,
            person=person,
            conversations=conversations,
            pending=tuple(pending),
            memories={key.decode(): value.decode() for key, value in memories.items()},
            at=0.0,
        )

    async def erase(self, tenant: str, person: str) -> Erasure:
        found = await self._conversations_of(tenant, person)
        messages = events = 0
        for partition, name in found:
            keys = (*_place(partition, name), partition.person(tenant, person))
            gone = await self._store.run("erase", partition, keys, name, person)
            messages += gone[0]
            events += gone[1]
        partition, place = self._keys.memories(tenant, person)
        memories = await self._store.command(partition, "HLEN", place)
        await self._store.command(partition, "UNLINK", place)
        now = await self._store.command(partition, "TIME")
        return Erasure(
            tenant=tenant,
            person=person,
            conversations=len(found),
            messages=messages,
            events=events,
            dead_letters=0,
            memories=memories,
            at=int(now[0]) + int(now[1]) / 1e6,
        )

    async def _conversations_of(self, tenant: str, person: str) -> list[tuple[Partition, str]]:
        found = []
        for partition in self._keys.partitions:
            names = await self._store.command(
                partition, "SMEMBERS", partition.person(tenant, person)
            )
            found += [(partition, name.decode()) for name in sorted(names)]
        return found

    async def guarantee(self) -> Guarantee:
        return await self._store.guarantee()

    # Below the surface

    async def _on(
        self, script: str, conversation: Conversation, *arguments: str | bytes | int
    ) -> Reply:
        name = name_of(conversation)
        partition = self._keys.partition(name)
        return await self._store.run(script, partition, _place(partition, name), *arguments)


def _place(partition: Partition, name: str) -> tuple[str, str, str]:
    return partition.state, partition.queue, partition.conversation(name)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
