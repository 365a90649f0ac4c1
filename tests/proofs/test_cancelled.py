"""Property: callers that are cancelled at random moments leave no reply to others.

Hundreds of tasks at once use one connection, and each is told apart by what it asks: the reply
must be its own. Many are cancelled, before their command is sent, while it is under way and when
the reply is there. The connection is cut now and then, and Redis killed.
"""

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import hiredis
from tests.chaos.history import Findings
from tests.chaos.proxy import CuttingProxy
from tests.plugins.ledgers.redis_helpers import needs_redis, open_ledger
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.proof import SEED, size
from tests.proofs.report import Figure, Line, Report

from palaver.errors import Fenced, IndexConflict, LedgerUnavailable, TooMany
from palaver.ledger import Claim
from palaver.messages import Conversation, Finished, Message, Received, Text
from palaver_plugins.ledgers.redis import RedisLedger
from palaver_plugins.ledgers.redis.address import Address, parse_address
from palaver_plugins.ledgers.redis.connection import Connection, RedisReply, pack
from palaver_plugins.ledgers.redis.node_client import NodeClient

pytestmark = needs_redis

PROPERTY = "cancelled-awaits"
AT_ONCE = 200
CANCELLED = 0.4
"""The share of callers that are cancelled."""
CUT_EVERY = 4_000
"""Operations between two cuts of the connection."""
KILL_EVERY = 11_000
"""Operations between two deaths of Redis."""
ROUND = 100_000
"""Operations on one Redis, before another one begins with empty files."""

Operation = Callable[[], Awaitable[bool]]
"""Asks for something; whether the reply was its own."""


@dataclass
class Hammer:
    """Runs operations, many at a time, and cancels some of them."""

    redis: RedisServer
    proxy: CuttingProxy
    chance: random.Random
    findings: Findings
    counts: Counter[str] = field(default_factory=Counter)

    async def run(
        self, count: int, operation: Callable[[int], Operation], at_once: int = AT_ONCE
    ) -> None:
        room = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await room.acquire()
                self.counts["operations"] += 1
                task = group.create_task(self._ask(operation(number)))
                task.add_done_callback(lambda _: room.release())
                if self.chance.random() < CANCELLED:
                    self._cancel_soon(task)
                await self._disturb()

    async def _ask(self, operation: Operation) -> None:
        try:
            own = await operation()
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            raise
        except LedgerUnavailable:
            self.counts["unavailable"] += 1
        else:
            self.counts["answered"] += 1
            if not own:
                self.findings.note("wrong", "a foreign reply")

    def _cancel_soon(self, task: asyncio.Task[None]) -> None:
        """At once, some turns of the loop later, or about when the reply comes."""
        loop = asyncio.get_running_loop()
        moment = self.chance.randrange(4)
        if moment == 0:
            task.cancel()
        elif moment == 1:
            loop.call_soon(lambda: loop.call_soon(task.cancel))
        else:
            loop.call_later(self.chance.expovariate(500), task.cancel)

    async def _disturb(self) -> None:
        done = self.counts["operations"]
        if done % CUT_EVERY == CUT_EVERY // 2:
            self.proxy.cut(reset=self.chance.random() < 0.5)
            self.counts["cuts"] += 1
        if done % KILL_EVERY == KILL_EVERY // 2:
            await asyncio.to_thread(self.redis.kill)
            await asyncio.to_thread(self.redis.start)
            self.counts["kills"] += 1


@contextlib.asynccontextmanager
async def hammering(findings: Findings, seed: str) -> AsyncIterator[Hammer]:
    async with run_redis() as redis, CuttingProxy(redis.url) as proxy:
        yield Hammer(redis, proxy, random.Random(f"{SEED}:{seed}"), findings)


# One connection

Call = Callable[[bytes], Awaitable[RedisReply]]
ECHO = "return {ARGV[1], redis.sha1hex(ARGV[1])}"
REFUSE = "return redis.error_reply(ARGV[1])"


class Echoes:
    """Commands whose replies say what was asked."""

    def __init__(self, call: Call, chance: random.Random) -> None:
        self._call = call
        self._chance = chance

    def __call__(self, number: int) -> Operation:
        value = f"v{number} {'x' * self._chance.choice((0, 0, 10, 1_000, 30_000))}"
        kind = self._chance.choice((self._echo, self._script, self._refusal))
        return lambda: kind(value)

    async def _echo(self, value: str) -> bool:
        return bool(await self._call(pack("ECHO", value)) == value.encode())

    async def _script(self, value: str) -> bool:
        reply = await self._call(pack("EVAL", ECHO, 0, value))
        return bool(reply == [value.encode(), hashlib.sha1(value.encode()).hexdigest().encode()])

    async def _refusal(self, value: str) -> bool:
        reply = await self._call(pack("EVAL", REFUSE, 0, value))
        return isinstance(reply, hiredis.ReplyError) and value[:20] in str(reply)


@contextlib.asynccontextmanager
async def linked(url: str, kind: type[NodeClient] = NodeClient) -> AsyncIterator[NodeClient]:
    address = parse_address(url)

    async def locate() -> Address:
        return address

    async def greet(link: NodeClient, wire: Connection) -> None:
        pass

    link = kind(
        locate,
        on_connect=greet,
        on_publish=lambda channel, payload: None,
        connect_timeout=1.0,
        command_timeout=1.0,
        replicas=0,
    )
    await link.start()
    try:
        yield link
    finally:
        await link.close()


# A whole ledger

TENANTS = 8
THREADS = 6


class Dealings:
    """What several tenants ask of one ledger; each has words of its own."""

    def __init__(self, ledger: RedisLedger, chance: random.Random) -> None:
        self._ledger = ledger
        self._chance = chance
        self._turns: dict[str, str] = {}
        """The turn of every message that was accepted, by the message's id."""
        self._ids: dict[str, str] = {}
        """And the other way round."""

    def __call__(self, number: int) -> Operation:
        chance = self._chance
        tenant, thread = f"tenant-{chance.randrange(TENANTS)}", f"{chance.randrange(THREADS)}"
        where = Conversation(tenant, "web", thread)
        kinds: tuple[Callable[[Conversation, int], Awaitable[bool]], ...] = (
            self._remember, self._recall, self._accept, self._accept_again, self._work, self._work,
            self._read, self._snapshot, self._members, self._stop, self._export,
        )  # fmt: skip
        kind = chance.choice(kinds)
        return lambda: kind(where, number)

    async def _remember(self, where: Conversation, number: int) -> bool:
        key = f"k{number % 10}"
        await self._ledger.remember(where.tenant, "ada", key, f"{where.tenant} {key} {number}")
        return True

    async def _recall(self, where: Conversation, number: int) -> bool:
        key = f"k{number % 10}"
        value = await self._ledger.recall(where.tenant, "ada", key)
        return value is None or value.startswith(f"{where.tenant} {key} ")

    async def _accept(self, where: Conversation, number: int) -> bool:
        words = _words(where)
        message = Message(
            conversation=where, id=f"{words}{number}", person=words, text=f"{words}{number}"
        )
        try:
            receipt = await self._ledger.accept(message)
        except TooMany:
            return True
        self._turns[message.id] = receipt.turn
        return self._ids.setdefault(receipt.turn, message.id) == message.id

    async def _accept_again(self, where: Conversation, number: int) -> bool:
        words = _words(where)
        known = [id for id in list(self._turns)[-200:] if id.startswith(words)]
        if not known:
            return True
        id = self._chance.choice(known)
        message = Message(conversation=where, id=id, person=words, text=id)
        receipt = await self._ledger.accept(message)
        return receipt.duplicate and receipt.turn == self._turns[id]

    async def _work(self, where: Conversation, number: int) -> bool:
        """Answer any turn that is due, with its own id."""
        claim = await self._ledger.claim(f"w{number}", lease=1.0, history=5)
        if claim is None:
            return True
        try:
            return await self._answer(claim)
        except (Fenced, IndexConflict):
            return True  # it took too long, because Redis was away

    async def _answer(self, claim: Claim) -> bool:
        words = _words(claim.conversation)
        said = Text(turn=claim.turn, position=len(claim.reply), text=claim.turn)
        ended = Finished(turn=claim.turn, outcome="done", length=said.end)
        index = claim.index
        first = await self._ledger.append(claim, [said], expect=index, lease=1.0)
        last = await self._ledger.settle(claim, [ended], expect=index + 1)
        own = self._ids.get(claim.turn, claim.message.id) == claim.message.id
        told = [claim.message.text, *(line.text for line in claim.history if line.person)]
        return (
            own
            and all(text.startswith(words) for text in told)
            and (first.index, last.index) == (index + 1, index + 2)
            and last.offset > first.offset
        )

    async def _read(self, where: Conversation, number: int) -> bool:
        page = await self._ledger.read(where, self._chance.randrange(100), 20)
        return all(
            item.event.id.startswith(_words(where))
            for item in page.events
            if isinstance(item.event, Received)
        )

    async def _snapshot(self, where: Conversation, number: int) -> bool:
        snapshot = await self._ledger.snapshot(where, 10)
        asked = [turn.message.text for turn in snapshot.pending]
        asked += [line.text for line in snapshot.history if line.role == "user"]
        said = [line for line in snapshot.history if line.role == "assistant"]
        return all(text.startswith(_words(where)) for text in asked) and all(
            line.text == line.turn * (len(line.text) // len(line.turn)) for line in said
        )

    async def _members(self, where: Conversation, number: int) -> bool:
        return await self._ledger.members(where) <= {_words(where)}

    async def _stop(self, where: Conversation, number: int) -> bool:
        return await self._ledger.stop(where, f"t{number}") == ("unknown", "")

    async def _export(self, where: Conversation, number: int) -> bool:
        theirs = await self._ledger.export(where.tenant, _words(where))
        texts = [line.text for lines in theirs.conversations.values() for line in lines]
        texts = [text for text in texts if not text.isalnum()]  # replies are ids of turns
        texts += [message.text for message in theirs.pending]
        return all(text.startswith(_words(where)) for text in texts)


def _words(where: Conversation) -> str:
    """What everything in a conversation begins with; its only person's id as well."""
    return f"{where.tenant}.{where.thread}."


async def test_nobody_gets_the_reply_to_a_call_that_was_cancelled(report: Report) -> None:
    findings, counts = Findings(), Counter[str]()
    left = size(50_000, 5_000_000)
    async with report.progress(lambda: f"{PROPERTY}: {left} operations are left"):
        while left > 0:
            count = min(left, ROUND) // 2
            async with hammering(findings, f"{left}") as hammer:
                async with linked(hammer.proxy.address) as link:
                    await hammer.run(count, Echoes(link.send, hammer.chance))
                async with open_ledger(
                    hammer.proxy.address, events_kept=50, history_kept=50
                ) as ledger:
                    await hammer.run(count, Dealings(ledger, hammer.chance))
            counts += hammer.counts
            left -= 2 * count
    kills = counts.pop("kills", 0)
    figures: dict[str, Figure] = {"foreign": findings.wrong, **counts}
    report(Line(property=PROPERTY, kills=kills, findings=findings, figures=figures))
    assert findings.clean, (SEED, findings)
    assert counts["answered"] > counts["operations"] / 3
    assert counts["cancelled"] > counts["operations"] / 10, "they ended before they were cancelled"
    assert kills > 0
    assert counts["cuts"] > 0


# Twins


class Naive:
    """One connection, one caller at a time; whoever is cancelled leaves the reply to the next."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(notEnoughData=Ellipsis)
        self._turn = asyncio.Lock()

    async def call(self, command: bytes) -> RedisReply:
        async with self._turn:
            self._writer.write(command)
            while (reply := self._parser.gets()) is Ellipsis:
                self._parser.feed(await self._reader.read(65_536))
            return reply


async def test_a_connection_whose_cancelled_callers_do_not_read_mixes_replies_up(
    report: Report,
) -> None:
    findings = Findings()
    async with hammering(findings, "naive") as hammer:
        reader, writer = await asyncio.open_connection("127.0.0.1", hammer.redis.port)
        await hammer.run(1_000, Echoes(Naive(reader, writer).call, hammer.chance), at_once=4)
        writer.close()
    report.twin(PROPERTY, findings.wrong > 0, "replies left unread")
    assert findings.wrong > 0


class Forgetful(Connection):
    """Takes a cancelled caller out of the row, though its reply is on the way."""

    def data_received(self, data: bytes) -> None:
        while self._pending and (first := self._pending[0]) and first.cancelled():
            self._pending.popleft()
        super().data_received(data)


class ForgetfulLink(NodeClient):
    def _make_connection(self) -> Connection:
        return Forgetful(self._on_publish, self._on_connection_lost, self._command_timeout)


async def test_a_row_that_cancelled_callers_leave_mixes_replies_up(report: Report) -> None:
    findings = Findings()
    async with hammering(findings, "forgetful") as hammer:
        async with linked(hammer.proxy.address, ForgetfulLink) as link:
            await hammer.run(1_000, Echoes(link.send, hammer.chance))
    report.twin(PROPERTY, findings.wrong > 0, "the row not kept")
    assert findings.wrong > 0
