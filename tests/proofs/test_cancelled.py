"""Property: a cancelled call never leaves its reply to another caller.

Hundreds of tasks share one connection. Each request differs, so a caller can tell whether the reply
is its own. Many are cancelled: before their command is sent, while it runs, and when the reply has
arrived. The connection is cut now and then, and Redis is killed.
"""

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import hiredis
from tests.chaos.findings import Findings
from tests.chaos.proxy import FaultProxy
from tests.plugins.ledgers.redis_helpers import needs_redis, open_ledger
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.report import FigureValue, PropertyResult, Report

from palaver.errors import Fenced, IndexConflict, LedgerUnavailable, TooMany
from palaver.exports import collect_export
from palaver.ledger import Claim, MemoryWrite
from palaver.messages import Conversation, Finished, Message, Received, Text
from palaver_plugins.ledgers.redis import RedisLedger
from palaver_plugins.ledgers.redis.address import Address, parse_address
from palaver_plugins.ledgers.redis.connection import Connection, RedisReply, pack
from palaver_plugins.ledgers.redis.node_client import NodeClient

pytestmark = needs_redis

PROPERTY = "cancelled-awaits"
CONCURRENCY = 200
CANCEL_RATE = 0.4
"""Share of calls that are cancelled."""
CUT_INTERVAL = 4_000
"""Operations between two cuts of the connection."""
KILL_INTERVAL = 11_000
"""Operations between two kills of Redis."""
OPERATIONS_PER_REDIS = 100_000
"""Operations after which a new Redis begins with empty files."""

Operation = Callable[[], Awaitable[bool]]
"""Sends a request; returns True when the reply belongs to it."""


@dataclass
class OperationRunner:
    """Runner of many simultaneous operations that cancels some of them and injects faults."""

    redis: RedisServer
    proxy: FaultProxy
    rng: random.Random
    findings: Findings
    counts: Counter[str] = field(default_factory=Counter)

    async def run(
        self,
        count: int,
        make_operation: Callable[[int], Operation],
        concurrency: int = CONCURRENCY,
    ) -> None:
        """Run ``count`` operations, at most ``concurrency`` at a time."""
        slots = asyncio.Semaphore(concurrency)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await slots.acquire()
                self.counts["operations"] += 1
                task = group.create_task(self._run_operation(make_operation(number)))
                task.add_done_callback(lambda _: slots.release())
                if self.rng.random() < CANCEL_RATE:
                    self._cancel_soon(task)
                await self._inject_faults()

    async def _run_operation(self, operation: Operation) -> None:
        try:
            is_own_reply = await operation()
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            raise
        except LedgerUnavailable:
            self.counts["unavailable"] += 1
        else:
            self.counts["answered"] += 1
            if not is_own_reply:
                self.findings.record("wrong", "a foreign reply")

    def _cancel_soon(self, task: asyncio.Task[None]) -> None:
        """Cancel at once, some iterations of the loop later, or about when the reply arrives."""
        loop = asyncio.get_running_loop()
        moment = self.rng.randrange(4)
        if moment == 0:
            task.cancel()
        elif moment == 1:
            loop.call_soon(lambda: loop.call_soon(task.cancel))
        else:
            loop.call_later(self.rng.expovariate(500), task.cancel)

    async def _inject_faults(self) -> None:
        count = self.counts["operations"]
        if count % CUT_INTERVAL == CUT_INTERVAL // 2:
            self.proxy.disconnect_all(reset=self.rng.random() < 0.5)
            self.counts["cuts"] += 1
        if count % KILL_INTERVAL == KILL_INTERVAL // 2:
            await asyncio.to_thread(self.redis.kill)
            await asyncio.to_thread(self.redis.start)
            self.counts["kills"] += 1


@contextlib.asynccontextmanager
async def operation_runner(findings: Findings, seed: str) -> AsyncIterator[OperationRunner]:
    async with run_redis() as redis, FaultProxy(redis.url) as proxy:
        yield OperationRunner(redis, proxy, random.Random(f"{SEED}:{seed}"), findings)


# One connection

Call = Callable[[bytes], Awaitable[RedisReply]]
ECHO_SCRIPT = "return {ARGV[1], redis.sha1hex(ARGV[1])}"
ERROR_SCRIPT = "return redis.error_reply(ARGV[1])"


class EchoOperations:
    """Commands with replies that contain the request."""

    def __init__(self, call: Call, rng: random.Random) -> None:
        self._call = call
        self._rng = rng

    def __call__(self, number: int) -> Operation:
        value = f"v{number} {'x' * self._rng.choice((0, 0, 10, 1_000, 30_000))}"
        kind = self._rng.choice((self._echo, self._script, self._error))
        return lambda: kind(value)

    async def _echo(self, value: str) -> bool:
        return bool(await self._call(pack("ECHO", value)) == value.encode())

    async def _script(self, value: str) -> bool:
        reply = await self._call(pack("EVAL", ECHO_SCRIPT, 0, value))
        return bool(reply == [value.encode(), hashlib.sha1(value.encode()).hexdigest().encode()])

    async def _error(self, value: str) -> bool:
        reply = await self._call(pack("EVAL", ERROR_SCRIPT, 0, value))
        return isinstance(reply, hiredis.ReplyError) and value[:20] in str(reply)


@contextlib.asynccontextmanager
async def open_client(
    url: str, client_class: type[NodeClient] = NodeClient
) -> AsyncIterator[NodeClient]:
    address = parse_address(url)

    async def locate() -> Address:
        return address

    async def on_connect(client: NodeClient, connection: Connection) -> None:
        pass

    client = client_class(
        locate,
        on_connect=on_connect,
        on_publish=lambda channel, payload: None,
        connect_timeout=1.0,
        command_timeout=1.0,
        replicas=0,
    )
    await client.start()
    try:
        yield client
    finally:
        await client.close()


# A whole ledger

TENANTS = 8
THREADS = 6


class LedgerOperations:
    """Requests of several tenants to one ledger; every text has a prefix of its conversation."""

    def __init__(self, ledger: RedisLedger, rng: random.Random) -> None:
        self._ledger = ledger
        self._rng = rng
        self._turn_of_message: dict[str, str] = {}
        """By message id."""
        self._message_of_turn: dict[str, str] = {}

    def __call__(self, number: int) -> Operation:
        rng = self._rng
        tenant, thread = f"tenant-{rng.randrange(TENANTS)}", f"{rng.randrange(THREADS)}"
        conversation = Conversation(tenant, "web", thread)
        kinds: tuple[Callable[[Conversation, int], Awaitable[bool]], ...] = (
            self._recall, self._accept, self._accept_again, self._answer_due,
            self._answer_due, self._read, self._snapshot, self._members, self._stop, self._export,
        )  # fmt: skip
        kind = rng.choice(kinds)
        return lambda: kind(conversation, number)

    async def _recall(self, conversation: Conversation, number: int) -> bool:
        key = f"k{number % 10}"
        value = await self._ledger.recall(conversation.tenant, _prefix(conversation), key)
        return value is None or value.startswith(f"{conversation.tenant} {key} ")

    async def _accept(self, conversation: Conversation, number: int) -> bool:
        prefix = _prefix(conversation)
        message = Message(
            conversation=conversation,
            id=f"{prefix}{number}",
            person=prefix,
            text=f"{prefix}{number}",
        )
        try:
            receipt = await self._ledger.accept(message)
        except TooMany:
            return True
        self._turn_of_message[message.id] = receipt.turn
        return self._message_of_turn.setdefault(receipt.turn, message.id) == message.id

    async def _accept_again(self, conversation: Conversation, number: int) -> bool:
        prefix = _prefix(conversation)
        candidates = [id for id in list(self._turn_of_message)[-200:] if id.startswith(prefix)]
        if not candidates:
            return True
        id = self._rng.choice(candidates)
        message = Message(conversation=conversation, id=id, person=prefix, text=id)
        receipt = await self._ledger.accept(message)
        return receipt.duplicate and receipt.turn == self._turn_of_message[id]

    async def _answer_due(self, conversation: Conversation, number: int) -> bool:
        """Claim any due turn and answer it with its own id."""
        claim = await self._ledger.claim(f"w{number}", lease=1.0, history=5)
        if claim is None:
            return True
        try:
            return await self._answer(claim)
        except (Fenced, IndexConflict):
            return True  # the lease lapsed while Redis was unavailable

    async def _answer(self, claim: Claim) -> bool:
        prefix = _prefix(claim.conversation)
        text = Text(turn=claim.turn, position=len(claim.reply), text=claim.turn)
        key = f"k{self._rng.randrange(10)}"
        value = f"{claim.conversation.tenant} {key} {claim.turn}"
        memory = MemoryWrite(person=claim.message.person, key=key, value=value)
        finished = Finished(turn=claim.turn, outcome="done", length=text.end)
        index = claim.index
        first = await self._ledger.append(claim, [text, memory], expect=index, lease=1.0)
        last = await self._ledger.settle(claim, [finished], expect=index + 2)
        is_own_message = self._message_of_turn.get(claim.turn, claim.message.id) == claim.message.id
        texts = [claim.message.text, *(entry.text for entry in claim.history if entry.person)]
        return (
            is_own_message
            and all(text.startswith(prefix) for text in texts)
            and (first.index, last.index) == (index + 2, index + 3)
            and last.offset > first.offset
        )

    async def _read(self, conversation: Conversation, number: int) -> bool:
        page = await self._ledger.read(conversation, self._rng.randrange(100), 20)
        return all(
            item.event.id.startswith(_prefix(conversation))
            for item in page.events
            if isinstance(item.event, Received)
        )

    async def _snapshot(self, conversation: Conversation, number: int) -> bool:
        snapshot = await self._ledger.snapshot(conversation, 10)
        questions = [turn.message.text for turn in snapshot.pending]
        questions += [entry.text for entry in snapshot.history if entry.role == "user"]
        replies = [entry for entry in snapshot.history if entry.role == "assistant"]
        return all(text.startswith(_prefix(conversation)) for text in questions) and all(
            reply.text == reply.turn * (len(reply.text) // len(reply.turn)) for reply in replies
        )

    async def _members(self, conversation: Conversation, number: int) -> bool:
        return await self._ledger.members(conversation) <= {_prefix(conversation)}

    async def _stop(self, conversation: Conversation, number: int) -> bool:
        return await self._ledger.stop(conversation, f"t{number}") == ("unknown", "")

    async def _export(self, conversation: Conversation, number: int) -> bool:
        export = await collect_export(
            self._ledger.export(conversation.tenant, _prefix(conversation))
        )
        texts = [entry.text for entries in export.conversations.values() for entry in entries]
        texts = [text for text in texts if not text.isalnum()]  # replies are ids of turns
        texts += [message.text for message in export.pending]
        return all(text.startswith(_prefix(conversation)) for text in texts)


def _prefix(conversation: Conversation) -> str:
    """Return the prefix of every text in a conversation, and the id of its only person."""
    return f"{conversation.tenant}.{conversation.thread}."


async def test_a_cancelled_call_leaves_its_reply_to_no_other_caller(report: Report) -> None:
    findings, counts = Findings(), Counter[str]()
    remaining = short_or_long(50_000, 5_000_000)
    async with report.progress(lambda: f"{PROPERTY}: {remaining} operations remain"):
        while remaining > 0:
            count = min(remaining, OPERATIONS_PER_REDIS) // 2
            async with operation_runner(findings, f"{remaining}") as runner:
                async with open_client(runner.proxy.address) as client:
                    await runner.run(count, EchoOperations(client.send, runner.rng))
                async with open_ledger(
                    runner.proxy.address, events_kept=50, history_kept=50
                ) as ledger:
                    await runner.run(count, LedgerOperations(ledger, runner.rng))
            counts += runner.counts
            remaining -= 2 * count
    kills = counts.pop("kills", 0)
    figures: dict[str, FigureValue] = {"foreign": findings.wrong, **counts}
    report.add(PropertyResult(property=PROPERTY, kills=kills, findings=findings, figures=figures))
    assert findings.is_clean, (SEED, findings)
    assert counts["answered"] > counts["operations"] / 3
    assert counts["cancelled"] > counts["operations"] / 10, "they ended before they were cancelled"
    assert kills > 0
    assert counts["cuts"] > 0


# Mutants


class SharedConnection:
    """Mutant: a connection on which a cancelled call leaves its reply unread."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(notEnoughData=Ellipsis)
        self._lock = asyncio.Lock()

    async def call(self, command: bytes) -> RedisReply:
        async with self._lock:
            self._writer.write(command)
            while (reply := self._parser.gets()) is Ellipsis:
                self._parser.feed(await self._reader.read(65_536))
            return reply


async def test_mutant_that_leaves_replies_unread_is_detected(report: Report) -> None:
    findings = Findings()
    async with operation_runner(findings, "unread") as runner:
        reader, writer = await asyncio.open_connection("127.0.0.1", runner.redis.port)
        connection = SharedConnection(reader, writer)
        await runner.run(1_000, EchoOperations(connection.call, runner.rng), concurrency=4)
        writer.close()
    report.add_mutant(PROPERTY, findings.wrong > 0, "replies left unread")
    assert findings.wrong > 0


class DequeuingConnection(Connection):
    """Mutant that removes a cancelled call from the queue although its reply is still to come."""

    def data_received(self, data: bytes) -> None:
        while self._pending and (first := self._pending[0]) and first.cancelled():
            self._pending.popleft()
        super().data_received(data)


class DequeuingClient(NodeClient):
    def _make_connection(self) -> Connection:
        return DequeuingConnection(
            self._on_publish, self._on_connection_lost, self._command_timeout
        )


async def test_mutant_that_dequeues_cancelled_calls_is_detected(report: Report) -> None:
    findings = Findings()
    async with operation_runner(findings, "dequeued") as runner:
        async with open_client(runner.proxy.address, DequeuingClient) as client:
            await runner.run(1_000, EchoOperations(client.send, runner.rng))
    report.add_mutant(PROPERTY, findings.wrong > 0, "cancelled calls dequeued")
    assert findings.wrong > 0
