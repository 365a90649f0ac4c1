"""Ledgers under the contract tests, and helpers for the tests.

A test takes ``subject`` and runs once per ledger. To add a ledger, write an async context manager
that yields a `LedgerUnderTest` and add it to `SUBJECTS`.
"""

import asyncio
import importlib.util
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from palaver.ledger import (
    QUEUE_ALL,
    Claim,
    ConcurrencyPolicies,
    Ledger,
    LogEntry,
    MemoryWrite,
    PendingQuestion,
    Progress,
    Receipt,
    Step,
)
from palaver.messages import (
    NO_PARTS,
    Conversation,
    Finished,
    Message,
    Outcome,
    ReplyParts,
    Routed,
    Started,
    StoredEvent,
    Text,
    new_id,
)
from palaver.testing.ledger import MemoryLedger
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings, database_thread
from palaver_plugins.ledgers.sqlite.rows import Database

HERE = Path(__file__).parent
try:
    redis_ledger: Any = importlib.import_module("palaver_plugins.ledgers.redis")
except ImportError:
    redis_ledger = None


class ManualClock:
    """Clock that a test moves; some ledgers read only its milliseconds."""

    def __init__(self) -> None:
        self.now = float(round(time.time()))

    def __call__(self) -> float:
        return self.now


class LedgerUnderTest:
    """Started ledger with helpers to test it.

    ``build`` makes another instance on the same store. ``clock`` is None when the test cannot move
    the ledger's clock. ``dump`` returns every byte in the store; ``url`` is the address of a store
    that is a server.
    """

    def __init__(
        self,
        name: str,
        build: Callable[..., Ledger],
        dump: Callable[[Ledger], Awaitable[bytes]],
        *,
        clock: ManualClock | None = None,
        is_durable: bool = True,
        url: str = "",
    ) -> None:
        self.name = name
        self.url = url
        self.build = build
        self.clock = clock
        self.is_durable = is_durable
        self._dump = dump
        self.ledger = build()

    async def dump(self) -> bytes:
        return await self._dump(self.ledger)

    async def reopen(self, **options: Any) -> None:  # Any: settings of the ledger
        """Close the ledger and open it again with other settings."""
        await self.ledger.close()
        self.ledger = self.build(**options)
        await self.ledger.start()

    async def advance_clock(self, seconds: float) -> None:
        """Advance the ledger's clock, or wait."""
        if self.clock is not None:
            self.clock.now += seconds
        else:
            await asyncio.sleep(seconds)

    def require_clock(self) -> ManualClock:
        if self.clock is None:
            pytest.skip(f"the clock of {self.name} cannot be moved")
        return self.clock

    # Messages and turns

    def make_message(
        self, text: str = "hello", *, thread: str = "t", person: str = "ada", **fields: Any
    ) -> Message:
        """Return a message; ``fields`` may contain ``tenant``."""
        conversation = Conversation(fields.pop("tenant", "acme"), "web", thread)
        fields.setdefault("id", new_id())
        return Message(conversation=conversation, person=person, text=text, **fields)

    async def accept(self, text: str = "hello", **fields: Any) -> str:
        """Accept a new message; return its turn."""
        receipt = await self.ledger.accept(self.make_message(text, **fields))
        assert not receipt.duplicate
        return receipt.turn

    async def accept_with(
        self, text: str = "hello", policies: ConcurrencyPolicies = QUEUE_ALL, **fields: Any
    ) -> Receipt:
        """Accept a new message under ``policies``."""
        return await self.ledger.accept(self.make_message(text, **fields), policies)

    async def claim(self, *, lease: float = 30.0, history: int = 40) -> Claim:
        """Claim a turn that must be due."""
        claim = await self.ledger.claim("worker", lease=lease, history=history)
        assert claim is not None, "nothing was due"
        return claim

    async def assert_nothing_due(self) -> None:
        assert await self.ledger.claim("worker", lease=30.0, history=0) is None

    async def append(self, claim: Claim, *entries: LogEntry, expect: int | None = None) -> Progress:
        expect = claim.index if expect is None else expect
        return await self.ledger.append(claim, entries, expect=expect, lease=30.0)

    async def settle(
        self,
        claim: Claim,
        *entries: LogEntry,
        expect: int | None = None,
        outcome: Outcome = "done",
        pending_question: PendingQuestion | None = None,
        taken_steering: Sequence[Message] = (),
        dead_letter_reason: str = "",
        parts: ReplyParts = NO_PARTS,
    ) -> Progress:
        """Settle with ``entries`` and a `Finished` after them."""
        finished = Finished(turn=claim.turn, outcome=outcome, length=0)
        return await self.ledger.settle(
            claim,
            (*entries, finished),
            expect=claim.index if expect is None else expect,
            pending_question=pending_question,
            taken_steering=taken_steering,
            dead_letter_reason=dead_letter_reason,
            parts=parts,
        )

    async def answer_turn(
        self, text: str = "fine", *, lease: float = 30.0, memories: Mapping[str, str] | None = None
    ) -> Claim:
        """Claim the next turn and settle it with the reply ``text``, and memories about its
        person."""
        claim = await self.claim(lease=lease)
        writes = (
            MemoryWrite(person=claim.message.person, key=key, value=value)
            for key, value in (memories or {}).items()
        )
        await self.settle(claim, *self.reply_entries(claim, text), *writes)
        return claim

    def reply_entries(self, claim: Claim, *texts: str) -> tuple[LogEntry, ...]:
        """Return the entries of a reply in pieces, from the beginning of a turn."""
        entries: list[LogEntry] = [
            Started(turn=claim.turn, attempt=claim.attempt),
            Routed(turn=claim.turn, skill="chat", reason="default"),
        ]
        position = len(claim.reply)
        for text in texts:
            entries.append(Text(turn=claim.turn, position=position, text=text))
            position += len(text)
        return tuple(entries)

    async def run_skill(self, skill: str, **options: Any) -> Claim:
        """Claim the next turn and route it to ``skill``."""
        claim = await self.claim(**options)
        await self.append(claim, Routed(turn=claim.turn, skill=skill, reason="default"))
        return claim

    def make_step(self, number: int, *, done: bool = True, result: bytes = b"null") -> Step:
        return Step(
            number=number,
            verb="generate",
            fingerprint=f"f{number}",
            done=done,
            result=msgspec.Raw(result),
        )

    async def read_stream(self, conversation: Conversation, after: int = 0) -> list[StoredEvent]:
        """Return all events above ``after``, read in pages; check that they have no gap."""
        events: list[StoredEvent] = []
        while True:
            page = await self.ledger.read(conversation, after, 7)
            if not page.events:
                assert after >= page.last, (after, page)
                return events
            expected = range(max(after + 1, page.first), page.events[-1].offset + 1)
            assert [event.offset for event in page.events] == list(expected)
            events += page.events
            after = events[-1].offset


def load_sibling(name: str) -> ModuleType:
    """Import the module ``name`` beside this file, which pytest's importlib mode does not find."""
    path = HERE / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"ledgers_{name}", path)
    if spec is None or spec.loader is None or not path.exists():
        pytest.skip(f"tests/plugins/ledgers/{name}.py is not there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Memory


@asynccontextmanager
async def memory_subject(directory: Path) -> AsyncIterator[LedgerUnderTest]:
    clock = ManualClock()

    def build(**options: Any) -> Ledger:
        return MemoryLedger(clock=clock, **options)

    yield LedgerUnderTest("memory", build, dump_objects, clock=clock, is_durable=False)


async def dump_objects(ledger: Ledger) -> bytes:
    """Return the text of every object that is reachable from ``ledger``."""
    return "\n".join(_texts(ledger, {})).encode()


def _texts(value: object, seen: dict[int, object]) -> Iterator[str]:
    if id(value) in seen:
        return
    seen[id(value)] = value  # kept alive, so that its id stays its own
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key, seen)
            yield from _texts(item, seen)
    elif isinstance(value, bytes | msgspec.Raw):
        yield bytes(value).decode()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for item in value:
            yield from _texts(item, seen)
    elif type(value).__module__.startswith("palaver"):
        names = (*getattr(value, "__slots__", ()), *getattr(value, "__dict__", ()))
        names += getattr(value, "__struct_fields__", ())
        for name in names:
            yield from _texts(getattr(value, name, None), seen)


# SQLite


class UnsyncedThread(database_thread.DatabaseThread):
    """Thread that does not wait for the disk, which the contract cannot observe."""

    def commit(self, database: Database, results: list[database_thread.JobResult]) -> None:
        super().commit(database, results)
        database.connection.execute("PRAGMA synchronous = OFF")


class UncachedThread(UnsyncedThread):
    """Thread without a cache of conversations: it reads everything again after each batch."""

    def commit(self, database: Database, results: list[database_thread.JobResult]) -> None:
        super().commit(database, results)
        database.cached_rows.clear()


@asynccontextmanager
async def sqlite_subject(
    directory: Path, writer: type[database_thread.DatabaseThread] = UnsyncedThread
) -> AsyncIterator[LedgerUnderTest]:
    clock = ManualClock()
    path = directory / "ledger.sqlite"

    def build(**options: Any) -> Ledger:
        settings = SQLiteLedgerSettings(path=path, **options)
        return SQLiteLedger(settings, directory, clock=clock, thread=writer)

    async def dump(_: Ledger) -> bytes:
        return await asyncio.to_thread(dump_files, path)

    yield LedgerUnderTest("sqlite", build, dump, clock=clock)


def dump_files(path: Path) -> bytes:
    """Return the bytes of ``path`` and of the files beside it with the same prefix."""
    files = sorted(path.parent.glob(f"{path.name}*"))
    return b"".join(file.read_bytes() for file in files)


# Redis


@asynccontextmanager
async def redis_subject(
    directory: Path, changes: Mapping[str, str] | None = None
) -> AsyncIterator[LedgerUnderTest]:
    """Start a ledger with ``changes`` in its scripts."""
    server = load_sibling("redis_server")
    if redis_ledger is None:
        pytest.skip("palaver_plugins.ledgers.redis cannot be imported")
    clock = ManualClock()
    client = load_sibling("redis_clock").client_with_clock(clock, changes)
    async with server.run_redis(include=server.write_user_config(directory)) as running:
        url = running.url_for("palaver")  # the contract needs no other permissions

        def build(**options: Any) -> Ledger:
            settings = redis_ledger.RedisLedgerSettings(url=url, **options)
            ledger: Ledger = redis_ledger.RedisLedger(settings, client=client)
            return ledger

        async def dump(_: Ledger) -> bytes:
            return await dump_redis(running.url)

        yield LedgerUnderTest("redis", build, dump, clock=clock, url=running.url)


READERS: dict[str, tuple[Any, ...]] = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "list": ("LRANGE", 0, -1),
    "set": ("SMEMBERS",),
    "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    "stream": ("XRANGE", "-", "+"),
}


async def read_redis(client: Any, key: bytes) -> Any:
    """Return the value of a key of any type."""
    command, *arguments = READERS[(await client.type(key)).decode()]
    return await client.execute_command(command, key, *arguments)


async def dump_redis(url: str) -> bytes:
    """Return every key of the server and its value."""
    from redis.asyncio import Redis

    client: Any = Redis.from_url(url)  # its commands are typed for both clients at once
    try:
        parts: list[bytes] = []
        async for key in client.scan_iter():
            value = await read_redis(client, key)
            parts += [key, repr(value).encode(), *_byte_strings(value)]
        return b"\n".join(parts)
    finally:
        await client.aclose()


def _byte_strings(value: object) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from _byte_strings(tuple(value.items()))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _byte_strings(item)


SubjectFactory = Callable[[Path], AbstractAsyncContextManager[LedgerUnderTest]]
SUBJECTS: dict[str, SubjectFactory] = {
    "memory": memory_subject,
    "sqlite": sqlite_subject,
    "sqlite_uncached": partial(sqlite_subject, writer=UncachedThread),
    "redis": redis_subject,
}


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("sqlite_uncached", marks=pytest.mark.slow),
        pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.live]),
    ]
)
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LedgerUnderTest]:
    """Return a started ledger of each kind, alone on its store."""
    async with SUBJECTS[request.param](tmp_path) as made:
        await made.ledger.start()
        try:
            yield made
        finally:
            await made.ledger.close()


@pytest.fixture
def subject_factories() -> dict[str, SubjectFactory]:
    """Return the factories, for a test that needs several ledgers."""
    return SUBJECTS
