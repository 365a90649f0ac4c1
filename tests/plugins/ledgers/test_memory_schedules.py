"""No schedule of workers and an erasure leaves an erased person's memory, or an old value over a
newer one.

Every call of the store waits at a gate, and a seed decides which goes on. In Redis a method may be
several calls; there two replicas and several partitions are tried as well.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.plugins.ledgers.conftest import UnsyncedThread, sqlite_subject
from tests.plugins.ledgers.redis_server import redis_server
from tests.proof_settings import SEED, short_or_long

from palaver.errors import Fenced
from palaver.ledger import Claim, ConcurrencyPolicies, Ledger, LogEntry, MemoryWrite, Progress
from palaver.messages import Conversation, Finished, Message, new_id
from palaver.testing import MemoryLedger
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings
from palaver_plugins.ledgers.redis.client import Argument, RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.keys import Partition
from palaver_plugins.ledgers.redis.memories import Memories

PERSON, OTHER = "adamina", "bob"
STEER = ConcurrencyPolicies(default="steer")


class Gate:
    """Lets one of the waiting calls go on at a time, while `run` runs."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] | None = None
        self._done = asyncio.Event()

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        if self._waiting is None:
            yield
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine
        try:
            yield
        finally:
            self._done.set()

    async def run(self, actors: Sequence[Awaitable[None]], rng: random.Random) -> None:
        """Run the actors to their ends, in the order that ``rng`` gives."""
        self._waiting = []
        tasks = [asyncio.ensure_future(actor) for actor in actors]
        async with asyncio.timeout(20):
            while not all(task.done() for task in tasks):
                for _ in range(8):  # until every actor is at the gate again
                    await asyncio.sleep(0)
                if self._waiting:
                    self._done.clear()
                    self._waiting.pop(rng.randrange(len(self._waiting))).set_result(None)
                    await self._done.wait()
        self._waiting = None
        for task in tasks:
            task.result()


class GatedLedger:
    """A ledger whose methods wait at a gate."""

    def __init__(self, ledger: Ledger, gate: Gate) -> None:
        self._ledger = ledger
        self._gate = gate

    def __getattr__(self, name: str) -> Any:  # Any: the methods of the ledger
        method = getattr(self._ledger, name)

        async def wait_and_call(*arguments: Any, **options: Any) -> Any:
            async with self._gate.call():
                return await method(*arguments, **options)

        return wait_and_call


def gated_client(gate: Gate) -> type[RedisClient]:
    """Return a client whose commands wait at the gate."""

    class GatedClient(RedisClient):
        async def run(
            self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Argument
        ) -> RedisReply:
            async with gate.call():
                return await super().run(name, partition, keys, *arguments)

        async def command(self, partition: Partition, *words: Argument) -> RedisReply:
            async with gate.call():
                return await super().command(partition, *words)

    return GatedClient


class Store:
    """Replicas of one store, behind a gate."""

    def __init__(self, gate: Gate, replicas: Sequence[Any]) -> None:
        self.gate = gate
        self.replicas = replicas


@contextlib.asynccontextmanager
async def memory_store(
    directory: Path, kind: type[MemoryLedger] = MemoryLedger
) -> AsyncIterator[Store]:
    gate, ledger = Gate(), kind()
    yield Store(gate, [GatedLedger(ledger, gate)] * 2)


def gated_thread(gate: Gate) -> type[UnsyncedThread]:
    """Return a thread whose operations wait at the gate: an erasure is several."""

    class GatedThread(UnsyncedThread):
        def submit(self, operation: Any, *arguments: Any, **_: Any) -> "asyncio.Future[Any]":
            submit = super().submit

            async def wait_and_submit() -> Any:
                async with gate.call():
                    return await submit(operation, *arguments)

            return asyncio.ensure_future(wait_and_submit())

    return GatedThread


@contextlib.asynccontextmanager
async def sqlite_store(directory: Path) -> AsyncIterator[Store]:
    gate = Gate()
    async with sqlite_subject(directory, gated_thread(gate)) as subject:
        await subject.ledger.start()
        try:
            yield Store(gate, [subject.ledger] * 2)
        finally:
            await subject.ledger.close()


@contextlib.asynccontextmanager
async def redis_store(
    directory: Path, partitions: int = 1, kind: type[RedisLedger] = RedisLedger
) -> AsyncIterator[Store]:
    async with redis_server() as url, contextlib.AsyncExitStack() as stack:
        gate = Gate()
        settings = RedisLedgerSettings(url=url, partitions=partitions)
        replicas = [kind(settings, client=gated_client(gate)) for _ in range(2)]
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.close)
        yield Store(gate, replicas)


Factory = Callable[[Path], contextlib.AbstractAsyncContextManager[Store]]
STORES: dict[str, Factory] = {
    "memory": memory_store,
    "sqlite": sqlite_store,
    "redis": redis_store,
    "redis_partitioned": partial(redis_store, partitions=5),
}


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.live]),
        pytest.param("redis_partitioned", marks=[pytest.mark.redis, pytest.mark.live]),
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with STORES[request.param](tmp_path) as made:
        yield made


class Write(NamedTuple):
    """A memory that was written, between two moments."""

    value: str | None
    began: int
    ended: int


class Schedule:
    """Workers that write memories about one person, and perhaps an erasure, in a random order."""

    def __init__(self, store: Store, seed: int) -> None:
        self._rng = random.Random(seed)
        self._store = store
        self._tenant = f"tenant-{seed}"
        self._writes: list[Write] = []
        self._time = 0
        self._erased = False

    def _replica(self) -> Any:
        return self._rng.choice(self._store.replicas)

    def _now(self) -> int:
        self._time += 1
        return self._time

    async def run(self) -> None:
        workers = [await self._begin(number) for number in range(self._rng.randint(1, 3))]
        actors = [actor for pair in workers for actor in pair]
        erases = self._rng.random() < 0.5
        if erases:
            actors.append(self._erase())
        await self._store.gate.run(actors, self._rng)
        found = [await each.recall(self._tenant, PERSON, "k") for each in self._store.replicas]
        self._check(erases, found)
        for person in (PERSON, OTHER):
            await self._store.replicas[0].erase(self._tenant, person)

    async def _begin(self, number: int) -> list[Awaitable[None]]:
        """Claim a turn of a conversation of its own, perhaps twice: then the first is stale. The
        turn is the person's, or another's whom the person steers."""
        where = Conversation(self._tenant, "web", f"t{number}")
        author = self._rng.choice([PERSON, OTHER])
        await self._accept(where, author)
        claims = [await self._replica().claim("worker", lease=600.0, history=0)]
        if author == OTHER:
            await self._accept(where, PERSON)
        if self._rng.random() < 0.4:
            await self._replica().release(claims[0])
            claims.append(await self._replica().claim("worker", lease=600.0, history=0))
        assert {claim.conversation for claim in claims} == {where}
        return [self._work(claim, is_stale=claim is not claims[-1]) for claim in claims]

    async def _accept(self, where: Conversation, person: str) -> None:
        message = Message(conversation=where, id=new_id(), person=person, text="hello")
        await self._replica().accept(message, STEER)

    async def _work(self, claim: Claim, *, is_stale: bool) -> None:
        """Write memories until the claim is over, and settle the turn with the last."""
        ledger, count = self._replica(), self._rng.randint(0, 2)
        try:
            for index in range(count):
                entry = self._memory(claim)
                await self._write(ledger.append(claim, (entry,), expect=index, lease=600.0), entry)
            entry = self._memory(claim)
            entries = (entry, Finished(turn=claim.turn, outcome="done", length=0))
            await self._write(ledger.settle(claim, entries, expect=count), entry)
        except Fenced:
            assert is_stale or self._erased, "a valid claim was fenced"
        else:
            assert not is_stale, "a stale worker wrote"

    def _memory(self, claim: Claim) -> MemoryWrite:
        value = None if self._rng.random() < 0.2 else f"{claim.fence}-{new_id()}"
        return MemoryWrite(person=PERSON, key="k", value=value)

    async def _write(self, call: Awaitable[Progress], entry: MemoryWrite) -> None:
        began = self._now()
        await call
        self._writes.append(Write(entry.value, began, self._now()))

    async def _erase(self) -> None:
        self._erased = True
        await self._replica().erase(self._tenant, PERSON)

    def _check(self, erases: bool, found: list[str | None]) -> None:
        assert found[0] == found[1]
        if erases:
            assert found[0] is None, "an erased person is remembered"
            return
        newest = max(write.began for write in self._writes)
        possible = {write.value for write in self._writes if write.ended > newest}
        assert found[0] in possible, "an old value replaced a newer one"


async def run_schedules(store: Store, count: int) -> None:
    for seed in range(SEED, SEED + count):
        try:
            await Schedule(store, seed).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.slow
async def test_no_schedule_resurrects_or_reverts_a_memory(store: Store) -> None:
    await run_schedules(store, short_or_long(150, 5_000))


# Mutants


class UnfencedLedger(MemoryLedger):
    """Mutant that writes memories before it compares the fence."""

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        for entry in entries:
            if isinstance(entry, MemoryWrite) and entry.value is not None:
                where = (claim.conversation.tenant, entry.person, entry.key)
                self._memories[where] = entry.value
        return await super().append(claim, entries, expect=expect, lease=lease)


class UnversionedMemories(Memories):
    """Mutant: a value is newer than those of its own partition only."""

    async def newest_version(self, tenant: str, entries: Sequence[LogEntry]) -> str:
        return "0"


class HastyMemories(Memories):
    """Mutant that deletes the memories of one partition only."""

    async def erase(self, tenant: str, person: str) -> int:
        partition = self.keys.partitions[0]
        await self.client.command(partition, "UNLINK", partition.memories(tenant, person))
        return 0


def ledger_with(memories: type[Memories]) -> type[RedisLedger]:
    class MutantLedger(RedisLedger):
        def __init__(
            self, settings: RedisLedgerSettings, *, client: type[RedisClient] = RedisClient
        ) -> None:
            super().__init__(settings, client=client)
            self._memories = memories(*self._memories)

    return MutantLedger


MUTANTS: dict[str, Factory] = {
    "unfenced": partial(memory_store, kind=UnfencedLedger),
    "unversioned": partial(redis_store, partitions=5, kind=ledger_with(UnversionedMemories)),
    "hasty": partial(redis_store, partitions=5, kind=ledger_with(HastyMemories)),
}


@pytest.mark.redis
@pytest.mark.live
@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mutant_is_detected(mutant: str, tmp_path: Path) -> None:
    async with MUTANTS[mutant](tmp_path) as made:
        with pytest.raises(AssertionError, match="seed"):
            await run_schedules(made, 300)
