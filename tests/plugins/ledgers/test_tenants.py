"""No operation of one tenant reads or changes anything of another, though all ids are the same.

Two tenants with the same people, channels, threads and message ids do things at random. Around each
operation of one, all that the other has is compared: what the ledger shows of it, and every row or
key of the store that is its own.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.plugins.ledgers.conftest import read_redis
from tests.proof_settings import short_or_long

from palaver.errors import Fenced, IndexConflict, PalaverError
from palaver.exports import collect_export
from palaver.ledger import Claim, ConcurrencyPolicies, Ledger, MemoryWrite, PendingQuestion
from palaver.messages import Conversation, Finished, Message, Routed, Text
from palaver.testing import MemoryLedger

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest, SubjectFactory

pytestmark = pytest.mark.slow

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]  # Any: a value of whatever is drawn from
Raw = Callable[["LedgerUnderTest", str], Coroutine[Any, Any, Any]]

TENANTS = ("acme", "acm")
PEOPLE = ("ada", "bob")
THREADS = ("t", "u")
POLICIES = [
    ConcurrencyPolicies(default="queue"),
    ConcurrencyPolicies(default="steer"),
    ConcurrencyPolicies(default="interrupt"),
    ConcurrencyPolicies(default="merge", merge_window=0.1),
]
KINDS = [
    *["accept"] * 5, *["claim"] * 4, "append", *["settle"] * 4, "stop", "stop", "erase", "erase",
    "export", *["recall"] * 3, "read", "discard", "expire_leases",
]  # fmt: skip


class TwoTenants:
    """Two tenants that use one ledger. All texts of a tenant contain its name."""

    def __init__(self, subject: "LedgerUnderTest", ledger: Ledger, draw: Draw) -> None:
        self.subject = subject
        self.ledger = ledger
        self.draw = draw
        self.claims: list[Claim] = []
        self.count = 0

    def choose(self, values: Any) -> Any:
        return self.draw(st.sampled_from(list(values)))

    def where(self, tenant: str) -> Conversation:
        return Conversation(tenant, "web", self.choose(THREADS))

    async def step(self, kind: str, tenant: str) -> tuple[str, object]:
        """Run one operation; return its tenant and its result."""
        self.subject.require_clock().now += 0.001
        try:
            found = await getattr(self, kind)(tenant)
        except (Fenced, IndexConflict):
            found = None
        except PalaverError as error:
            found = str(error)
        if isinstance(found, Claim):
            tenant = found.conversation.tenant
        return tenant, found

    async def accept(self, tenant: str) -> object:
        self.count += 1
        message = Message(
            conversation=self.where(tenant),
            id=self.choose(["m1", "m2", f"n{self.count}"]),
            person=self.choose(PEOPLE),
            text=f"{tenant} says",
        )
        return await self.ledger.accept(message, self.choose(POLICIES))

    async def claim(self, tenant: str) -> Claim | None:
        """Claim a turn of any tenant, as a worker does."""
        claim = await self.ledger.claim("worker", lease=60.0, history=9)
        if claim is not None:
            self.claims.append(claim)
        return claim

    def claim_of(self, tenant: str) -> Claim | None:
        mine = [claim for claim in self.claims if claim.conversation.tenant == tenant]
        return self.choose(mine) if mine else None

    async def append(self, tenant: str) -> object:
        if claim := self.claim_of(tenant):
            entries = (
                Routed(turn=claim.turn, skill="chat", reason=""),
                Text(turn=claim.turn, position=len(claim.reply), text=f"{tenant} replies"),
            )
            return await self.ledger.append(claim, entries, expect=claim.index, lease=60.0)
        return None

    async def settle(self, tenant: str) -> object:
        claim = self.claim_of(tenant)
        if claim is None:
            return None
        pending = (await self.ledger.snapshot(claim.conversation, 0)).pending
        index = 2 if pending and pending[0].reply else claim.index
        waiting = PendingQuestion(
            skill="s", message=claim.message, journal=(), reply=f"{tenant} is asked"
        )
        return await self.ledger.settle(
            claim,
            (
                MemoryWrite(
                    person=claim.message.person,
                    key="k",
                    value=self.choose([f"{tenant} likes", f"{tenant} likes", None]),
                ),
                Finished(turn=claim.turn, outcome=self.choose(["done", "stopped"]), length=0),
            ),
            expect=index,
            pending_question=self.choose([None, waiting]),
            taken_steering=self.choose([(), (await self.ledger.read_steering(claim))[:1]]),
            dead_letter_reason=self.choose(["", f"{tenant} failed"]),
        )

    async def stop(self, tenant: str) -> object:
        foreign = [claim.turn for claim in self.claims]
        turn = self.choose([None, *foreign])
        return await self.ledger.stop(self.where(tenant), turn)

    async def erase(self, tenant: str) -> object:
        return await self.ledger.erase(tenant, self.choose(PEOPLE))

    async def export(self, tenant: str) -> object:
        return await collect_export(self.ledger.export(tenant, self.choose(PEOPLE)))

    async def recall(self, tenant: str) -> object:
        return await self.ledger.recall(tenant, self.choose(PEOPLE), "k")

    async def read(self, tenant: str) -> object:
        where = self.where(tenant)
        return (
            await self.ledger.snapshot(where, 9),
            await self.ledger.read(where, 0, 99),
            sorted(await self.ledger.members(where)),
        )

    async def discard(self, tenant: str) -> object:
        """Discard a dead letter of this tenant."""
        letters = await self.ledger.dead_letters(99)
        mine = [each for each in letters if each.messages[0].conversation.tenant == tenant]
        return await self.ledger.discard_dead_letter(self.choose(mine).turn) if mine else None

    async def expire_leases(self, tenant: str) -> None:
        self.subject.require_clock().now += 61.0

    # Data of a tenant

    async def observe(self, tenant: str, raw: Raw) -> list[object]:
        seen: list[object] = [await raw(self.subject, tenant)]
        for thread in THREADS:
            where = Conversation(tenant, "web", thread)
            snapshot = await self.subject.ledger.snapshot(where, 99)
            if snapshot.cursor.offset:
                seen.append([snapshot, await self.subject.ledger.read(where, 0, 999)])
        for person in PEOPLE:
            export = await collect_export(self.subject.ledger.export(tenant, person))
            seen.append(msgspec.structs.replace(export, at=0.0))
        letters = await self.subject.ledger.dead_letters(999)
        seen.append([each for each in letters if each.messages[0].conversation.tenant == tenant])
        return seen


def to_json(found: object) -> str:
    return msgspec.json.encode(found).decode() if found is not None else ""


async def run_steps(subject: "LedgerUnderTest", ledger: Ledger, raw: Raw, draw: Draw) -> None:
    tenants = TwoTenants(subject, ledger, draw)
    for _ in range(draw(st.integers(20, 40))):
        kind, tenant = draw(st.sampled_from(KINDS)), draw(st.sampled_from(TENANTS))
        before = {each: await tenants.observe(each, raw) for each in TENANTS}
        actor, found = await tenants.step(kind, tenant)
        (other,) = {*TENANTS} - {actor}
        assert await tenants.observe(other, raw) == before[other], (kind, actor)
        assert f'"{other} ' not in to_json(found), (kind, actor)
        assert f'"tenant":"{other}"' not in to_json(found), (kind, actor)


# Records in the store


async def memory_raw(subject: "LedgerUnderTest", tenant: str) -> object:
    ledger = subject.ledger
    assert isinstance(ledger, MemoryLedger)
    return [
        (
            (
                state.epoch,
                state.fence,
                state.is_running,
                state.lease_expires_at,
                dict(state.dedupe_records),
                dict(state.settled_turns),
            ),
            [
                (turn.id, turn.stop_requested, turn.due_at, turn.failed_attempts)
                for turn in state.inbox
            ],
        )
        for name, state in ledger._conversations.items()
        if name.startswith(f"{tenant}/")
    ]


CONVERSATION_COLUMNS = {
    "turns": "conversation", "events": "conversation", "steps": "conversation",
    "dedupe_records": "conversation", "steering": "conversation",
    "pending_questions": "conversation", "members": "conversation", "conversations": "id",
}  # fmt: skip


async def sqlite_raw(subject: "LedgerUnderTest", tenant: str) -> object:
    path = subject.ledger.path  # type: ignore[attr-defined]  # it is a SQLiteLedger

    def read() -> object:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            execute = connection.execute
            within = "SELECT id FROM conversations WHERE name LIKE ? || '/%'"
            rows = {
                table: execute(
                    f"SELECT * FROM {table} WHERE {column} IN ({within})", (tenant,)
                ).fetchall()
                for table, column in CONVERSATION_COLUMNS.items()
            }
            for table in ("dead_letters", "memories"):
                rows[table] = execute(
                    f"SELECT * FROM {table} WHERE tenant = ?", (tenant,)
                ).fetchall()
        connection.close()
        return rows

    return await asyncio.to_thread(read)


async def redis_raw(subject: "LedgerUnderTest", tenant: str) -> object:
    """Return every key of the tenant, with its value and its expiry."""
    from redis.asyncio import Redis

    client: Any = Redis.from_url(subject.url)
    try:
        found: dict[bytes, object] = {}
        async for key in client.scan_iter():
            noun, _, rest = key.partition(b":")[2].partition(b":")[2].partition(b":")
            owned = rest.startswith(f"{tenant}/".encode())
            if noun == b"d" and rest:
                owned = await client.hget(key, "tenant") == tenant.encode()
            if noun == b"n":
                owned = (await client.get(key)).startswith(f"{tenant}/".encode())
            if owned:
                found[key] = (await read_redis(client, key), await client.pexpiretime(key))
            if noun == b"queue":
                queued = await client.zrange(key, 0, -1, withscores=True)
                mine = (each for each in queued if each[0].startswith(f"{tenant}/".encode()))
                found |= dict(mine)
        return found
    finally:
        await client.aclose()


RAW: dict[str, Raw] = {"memory": memory_raw, "sqlite": sqlite_raw, "redis": redis_raw}


def explore(
    name: str,
    subject_factories: "dict[str, SubjectFactory]",
    paths: pytest.TempPathFactory,
    *,
    examples: int,
    wrap: Callable[[Ledger], Any] = lambda ledger: ledger,
) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def tenants(data: st.DataObject) -> None:
        asyncio.run(run_on_subject(data.draw, paths.mktemp("tenants")))

    async def run_on_subject(draw: Draw, directory: Path) -> None:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            subject = await stack.enter_async_context(subject_factories[name](directory))
            await subject.ledger.start()
            stack.push_async_callback(subject.ledger.close)
            await run_steps(subject, wrap(subject.ledger), RAW[name], draw)

    tenants()


@pytest.mark.proof
@pytest.mark.parametrize(
    "name",
    ["memory", "sqlite", pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.live])],
)
def test_no_operation_of_a_tenant_reads_or_changes_anything_of_another(
    name: str,
    subject_factories: "dict[str, SubjectFactory]",
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    explore(name, subject_factories, tmp_path_factory, examples=short_or_long(10, 300))


class ConfusesTenants:
    """Mutant: uses one tenant's name for the other's in one method."""

    def __init__(self, ledger: Ledger, method: str) -> None:
        self._ledger = ledger
        self._method = method

    def __getattr__(self, name: str) -> Any:  # Any: the methods that are left as they are
        if name != self._method:
            return getattr(self._ledger, name)
        return self._confused

    def _confused(self, first: Any, *rest: Any) -> Any:
        if isinstance(first, Conversation):
            first = msgspec.structs.replace(first, tenant="acme")
        elif isinstance(first, Message):
            there = msgspec.structs.replace(first.conversation, tenant="acme")
            first = msgspec.structs.replace(first, conversation=there)
        else:
            first = "acme"
        return getattr(self._ledger, self._method)(first, *rest)


@pytest.mark.parametrize(
    "method", ["accept", "stop", "erase", "export", "recall", "snapshot", "read"]
)
def test_a_ledger_that_confuses_tenants_is_detected(
    method: str,
    subject_factories: "dict[str, SubjectFactory]",
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.raises(AssertionError):
        explore(
            "memory",
            subject_factories,
            tmp_path_factory,
            examples=200,
            wrap=lambda ledger: ConfusesTenants(ledger, method),
        )
