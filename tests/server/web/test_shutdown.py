"""Graceful shutdown: another replica continues the turns, and clients miss nothing."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, eventually, open_live_server
from tests.server.web.test_api import EVENTS, MESSAGES, reading

from palaver.cli.serve import GC_THRESHOLDS, SWITCH_INTERVAL
from palaver.errors import Overloaded
from palaver.ledger import QUEUE_ALL, ConcurrencyPolicies, Receipt
from palaver.messages import Conversation, Finished, Message
from palaver.replies import PendingReply
from palaver.streams.subscriptions import CLOSE_BATCH
from palaver.testing import MemoryLedger
from palaver.turns import shutdown
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def open_releasing_server(
    ledger: MemoryLedger,
) -> contextlib.AbstractAsyncContextManager[LiveServer]:
    """Open a replica that releases its turns at once when it stops."""
    return open_live_server(ledger=ledger, channels=(OpenAIChannel(),), grace=120)


async def wait_until_stored(live_server: LiveServer, text: str, thread: str = "t") -> None:
    """Wait until the ledger has ``text`` of a running turn."""

    async def stored() -> bool:
        _, answer = await live_server.get(f"/v1/conversations/{thread}")
        return any(text in turn["reply"] for turn in answer["snapshot"]["pending"])

    await eventually(stored)


@contextlib.asynccontextmanager
async def shutting_down(live_server: LiveServer) -> AsyncIterator[None]:
    """Stop the server during the block; wait for its end after the block."""
    stopping = asyncio.create_task(live_server.stop_listening())
    await eventually(lambda: live_server.server.draining)
    try:
        yield
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await stopping
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


@contextlib.asynccontextmanager
async def begin_shutdown(live_server: LiveServer) -> AsyncIterator[None]:
    """Begin to stop the server, and abort that after the block."""
    with contextlib.suppress(TimeoutError):
        async with shutting_down(live_server):
            yield
            raise TimeoutError


async def test_a_waiting_request_gets_the_reply_that_another_replica_ends() -> None:
    ledger = MemoryLedger()
    async with open_releasing_server(ledger) as first:
        first.scripted.emit("one ", end=False)
        asking = asyncio.create_task(first.post(MESSAGES + "?wait=true", {"text": "/scripted x"}))
        await wait_until_stored(first, "one ")
        async with open_live_server(ledger=ledger) as other, shutting_down(first):
            other.scripted.emit("one two")
            status, answer = await asking
    assert (status, answer["text"], answer["outcome"]) == (200, "one two", "done")


async def test_a_stream_of_the_openai_api_continues_with_another_replica() -> None:
    ledger = MemoryLedger()
    async with open_releasing_server(ledger) as first:
        first.scripted.emit("one ", end=False)
        async with AsyncOpenAI(
            base_url=first.url("/v1"), api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS
        ) as openai_client:
            stream = await openai_client.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "go"}], stream=True
            )
            pieces: list[str] = []
            async for chunk in stream:
                pieces.append(chunk.choices[0].delta.content or "")
                if pieces[-1] == "one ":
                    break
            async with open_live_server(ledger=ledger) as other, shutting_down(first):
                other.scripted.emit("one two")
                pieces += [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == "one two"


async def test_websockets_and_event_streams_get_the_whole_turn_and_are_closed_then() -> None:
    ledger = MemoryLedger()
    async with (
        open_releasing_server(ledger) as first,
        first.connect("t") as client,
        reading(first, EVENTS + "?person=ada") as reader,
    ):
        first.scripted.emit("one ", end=False)
        turn = await client.send_message("/scripted x")
        await client.wait_for_text(turn, "one ")
        async with open_live_server(ledger=ledger) as other, shutting_down(first):
            other.scripted.emit("one two")
            assert await client.wait_for_reply(turn) == "one two"
            assert await client.close_code() == 1012
            texts = [frame for frame in await reader.rest() if frame["type"] == "text"]
            assert texts[-1]["position"] + len(texts[-1]["text"]) == len("one two")


async def test_idle_connections_are_closed_while_others_follow_a_turn() -> None:
    ledger = MemoryLedger()
    async with (
        open_releasing_server(ledger) as first,
        first.connect("t") as busy,
        first.connect("idle") as idle,
    ):
        turn = await busy.send_message("/scripted x")
        await busy.wait_for("started", turn=turn)
        async with open_live_server(ledger=ledger) as other, shutting_down(first):
            assert await idle.close_code() == 1012
            assert not busy.socket.closed
            other.scripted.emit("done")
            assert await busy.wait_for_reply(turn) == "done"


async def test_a_stopping_server_listens_and_accepts_for_the_others() -> None:
    ledger = MemoryLedger()
    async with open_live_server(ledger=ledger, linger=60, grace=120) as first:
        async with open_live_server(ledger=ledger), begin_shutdown(first):
            assert (await first.get("/readyz"))[0] == 503
            async with first.session.post(
                first.url(MESSAGES + "?wait=true"), json={"text": "hello"}
            ) as response:
                assert (response.status, (await response.json())["text"]) == (200, "hello ")
                assert response.headers["Connection"] == "close"


async def test_turns_that_end_in_time_are_not_released() -> None:
    async with open_live_server(drain=60, grace=120) as live_server:
        asking = asyncio.create_task(
            live_server.post(MESSAGES + "?wait=true", {"text": "/scripted x"})
        )
        await eventually(lambda: live_server.server._dispatcher.running == 1)
        async with shutting_down(live_server):
            live_server.scripted.emit("just in time")
            assert (await asking)[1]["text"] == "just in time"


async def test_without_another_replica_waiting_requests_get_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(shutdown), "NO_REPLICA_SECONDS", 0.1)
    ledger = MemoryLedger()
    async with open_live_server(ledger=ledger, grace=120) as live_server:
        posting = live_server.session.post(
            live_server.url(MESSAGES + "?wait=true"), json={"text": "/scripted x", "id": "m"}
        )
        asking = asyncio.create_task(posting.__aenter__())
        async with reading(live_server) as reader:
            await reader.until("started")
            async with shutting_down(live_server):
                await reader.rest()
                response = await asking
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
    async with open_live_server(ledger=ledger) as again:
        again.scripted.emit("here it is")
        _, answer = await again.post(MESSAGES + "?wait=true", {"text": "/scripted x", "id": "m"})
    assert (answer["text"], answer["duplicate"]) == ("here it is", True)


async def test_a_message_to_the_only_server_while_it_stops_is_kept() -> None:
    ledger = MemoryLedger()
    async with open_live_server(ledger=ledger, linger=60, grace=120) as live_server:
        async with begin_shutdown(live_server):
            assert (await live_server.post(MESSAGES, {"text": "hello", "id": "m"}))[0] == 202
    async with open_live_server(ledger=ledger) as again:
        _, answer = await again.post(MESSAGES + "?wait=true", {"text": "hello", "id": "m"})
    assert (answer["text"], answer["duplicate"]) == ("hello ", True)


class SlowToAccept(MemoryLedger):
    """A ledger that stores no message before its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        self.asked.set()
        await self.gate.wait()
        return await super().accept(message, policies)


async def test_a_message_that_is_not_stored_yet_gets_its_reply_too() -> None:
    ledger = SlowToAccept()
    async with open_releasing_server(ledger) as first, open_live_server(ledger=ledger):
        asking = asyncio.create_task(first.post(MESSAGES + "?wait=true", {"text": "hello"}))
        await asyncio.wait_for(ledger.asked.wait(), TIMEOUT_SECONDS)
        async with shutting_down(first):
            await eventually(lambda: first.server._subscriptions._closing_when_idle)
            ledger.gate.set()
            status, answer = await asking
    assert (status, answer.get("text")) == (200, "hello ")


async def test_a_keep_alive_connection_takes_no_further_request() -> None:
    ledger = MemoryLedger()
    async with open_releasing_server(ledger) as first, first.connect("t") as client:
        host, port = first.address.rpartition("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        turn = await client.send_message("/scripted x")  # keeps the server up until it ends
        async with open_live_server(ledger=ledger) as other, shutting_down(first):
            assert await asyncio.wait_for(reader.read(), TIMEOUT_SECONDS) == b""
            other.scripted.emit("done")
            await client.wait_for_reply(turn)
        writer.close()


async def test_a_hello_after_the_last_subscription_is_closed_with_1012() -> None:
    async with open_live_server(grace=120) as live_server, live_server.open_websocket() as late:
        live_server.server._subscriptions._closed = True  # as after the last subscription
        await late.send({"type": "hello", "thread": "t", "person": "ada"})
        assert await late.close_code() == 1012


async def test_a_finished_reply_survives_a_shutdown() -> None:
    receipt = Receipt(turn="t", ahead=0, duplicate=True)
    reply = PendingReply("m", receipt)
    reply.on_event(Finished(turn="t", outcome="done", length=0, messages=("m",)), None)
    reply.on_shutdown()
    assert (await asyncio.wait_for(reply.wait(), TIMEOUT_SECONDS)).outcome == "done"


async def test_more_subscriptions_than_a_batch_are_all_shut_down() -> None:
    async with open_live_server() as live_server:
        conversation = Conversation("default", "web", "t")
        subscribers = [CountingSubscriber() for _ in range(2 * CLOSE_BATCH + 1)]
        for subscriber in subscribers:
            await live_server.server.subscribe(conversation, subscriber)
        await live_server.stop_listening()
        assert {subscriber.shutdowns for subscriber in subscribers} == {1}
        with pytest.raises(Overloaded, match="the server is shutting down"):
            await live_server.server.subscribe(conversation, CountingSubscriber())


class CountingSubscriber:
    """A subscriber that counts its shutdowns."""

    def __init__(self) -> None:
        self.shutdowns = 0

    def on_event(self, event: object, cursor: object) -> None:
        pass

    def on_snapshot(self, snapshot: object) -> None:
        pass

    def on_shutdown(self) -> None:
        self.shutdowns += 1


# The process


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``palaver serve`` with the kit's parts; yield when it is ready."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "server" / "web" / "serving_child.py"),
        *arguments,
    ]
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout is not None
    with process:
        try:
            for line in process.stdout:
                if line.startswith("Palaver is at"):
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_process_keeps_the_event_loop_responsive() -> None:
    with serving() as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout is not None
        *_, last = process.stdout.read().splitlines()
    assert last == f"frozen=True thresholds={GC_THRESHOLDS} switch={SWITCH_INTERVAL}"


def test_a_process_ends_after_sigterm() -> None:
    with serving() as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_process_that_hangs_ends_after_the_grace_period() -> None:
    with serving("--hang", "--grace=1") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(second: signal.Signals) -> None:
    with serving("--hang", "--grace=3600") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        for line in process.stderr:
            if line.startswith("Stopping"):
                break
        process.send_signal(second)
        assert process.wait(30) == -second
