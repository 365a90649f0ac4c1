"""A server that stops hands over to another one, and nobody who is connected notices."""

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
from tests.server.web.house import PATIENCE, House, eventually, open_house
from tests.server.web.test_api import EVENTS, MESSAGES, reading

from palaver.errors import Overloaded
from palaver.ledger import QUEUE_ALL, ConcurrencyPolicies, Receipt
from palaver.messages import Conversation, Finished, Message
from palaver.streams.subscriptions import CLOSE_BATCH
from palaver.testing import MemoryLedger
from palaver.turns import shutdown as departure
from palaver.web.replies import PendingReply
from palaver_plugins.channels.openai_api import OpenAIChannel

ROOT = Path(__file__).parents[3]


def leaving_house(ledger: MemoryLedger) -> contextlib.AbstractAsyncContextManager[House]:
    """A replica that leaves its turns to others at once when it stops."""
    return open_house(ledger=ledger, channels=(OpenAIChannel(),), grace=120)


async def told(house: House, text: str, thread: str = "t") -> None:
    """Wait until the ledger has ``text`` of a running turn."""

    async def stored() -> bool:
        _, answer = await house.get(f"/v1/conversations/{thread}")
        return any(text in turn["reply"] for turn in answer["snapshot"]["pending"])

    await eventually(stored)


@contextlib.asynccontextmanager
async def departing(house: House) -> AsyncIterator[None]:
    """The house stops while the block runs, and has stopped after it."""
    stopping = asyncio.create_task(house.stop_listening())
    await eventually(lambda: house.server.draining)
    try:
        yield
        async with asyncio.timeout(PATIENCE):
            await stopping
    finally:
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)


@contextlib.asynccontextmanager
async def lingering(house: House) -> AsyncIterator[None]:
    """The house has begun to stop, and does not get to the end of it."""
    with contextlib.suppress(TimeoutError):
        async with departing(house):
            yield
            raise TimeoutError


async def test_a_caller_who_waits_gets_the_reply_that_another_replica_ends() -> None:
    ledger = MemoryLedger()
    async with leaving_house(ledger) as leaving:
        leaving.teller.tell("one ", end=False)
        asking = asyncio.create_task(leaving.post(MESSAGES + "?wait=true", {"text": "/teller x"}))
        await told(leaving, "one ")
        async with open_house(ledger=ledger) as staying, departing(leaving):
            staying.teller.tell("one two")
            status, answer = await asking
    assert (status, answer["text"], answer["outcome"]) == (200, "one two", "done")


async def test_a_stream_of_the_openai_api_goes_on_with_another_replica() -> None:
    ledger = MemoryLedger()
    async with leaving_house(ledger) as leaving:
        leaving.teller.tell("one ", end=False)
        async with AsyncOpenAI(
            base_url=leaving.url("/v1"), api_key="none", max_retries=0, timeout=PATIENCE
        ) as client:
            stream = await client.chat.completions.create(
                model="teller", messages=[{"role": "user", "content": "go"}], stream=True
            )
            pieces: list[str] = []
            async for chunk in stream:
                pieces.append(chunk.choices[0].delta.content or "")
                if pieces[-1] == "one ":
                    break
            async with open_house(ledger=ledger) as staying, departing(leaving):
                staying.teller.tell("one two")
                pieces += [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == "one two"


async def test_websockets_and_feeds_see_the_turn_to_its_end_and_are_closed_then() -> None:
    ledger = MemoryLedger()
    async with (
        leaving_house(ledger) as leaving,
        leaving.client("t") as wire,
        reading(leaving, EVENTS + "?person=ada") as reader,
    ):
        leaving.teller.tell("one ", end=False)
        turn = await wire.say("/teller x")
        await wire.until_text(turn, "one ")
        async with open_house(ledger=ledger) as staying, departing(leaving):
            staying.teller.tell("one two")
            assert await wire.finish(turn) == "one two"
            assert await wire.close_code() == 1012
            texts = [frame for frame in await reader.rest() if frame["type"] == "text"]
            assert texts[-1]["position"] + len(texts[-1]["text"]) == len("one two")


async def test_who_watches_no_turn_is_sent_away_while_others_watch() -> None:
    ledger = MemoryLedger()
    async with (
        leaving_house(ledger) as leaving,
        leaving.client("t") as busy,
        leaving.client("idle") as idle,
    ):
        turn = await busy.say("/teller x")
        await busy.until("started", turn=turn)
        async with open_house(ledger=ledger) as staying, departing(leaving):
            assert await idle.close_code() == 1012
            assert not busy.socket.closed
            staying.teller.tell("done")
            assert await busy.finish(turn) == "done"


async def test_a_server_that_stops_listens_and_accepts_for_the_others() -> None:
    ledger = MemoryLedger()
    async with open_house(ledger=ledger, linger=60, grace=120) as leaving:
        async with open_house(ledger=ledger), lingering(leaving):
            assert (await leaving.get("/readyz"))[0] == 503
            async with leaving.session.post(
                leaving.url(MESSAGES + "?wait=true"), json={"text": "hello"}
            ) as response:
                assert (response.status, (await response.json())["text"]) == (200, "hello ")
                assert response.headers["Connection"] == "close"


async def test_turns_that_end_in_time_are_not_handed_over() -> None:
    async with open_house(drain=60, grace=120) as house:
        asking = asyncio.create_task(house.post(MESSAGES + "?wait=true", {"text": "/teller x"}))
        await eventually(lambda: house.server._dispatcher.running == 1)
        async with departing(house):
            house.teller.tell("just in time")
            assert (await asking)[1]["text"] == "just in time"


async def test_where_nobody_goes_on_those_who_wait_are_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(departure), "NO_REPLICA_SECONDS", 0.1)
    ledger = MemoryLedger()
    async with open_house(ledger=ledger, grace=120) as house:
        leaving = house.session.post(
            house.url(MESSAGES + "?wait=true"), json={"text": "/teller x", "id": "m"}
        )
        asking = asyncio.create_task(leaving.__aenter__())
        async with reading(house) as reader:
            await reader.until("started")
            async with departing(house):
                await reader.rest()
                response = await asking
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
    async with open_house(ledger=ledger) as again:
        again.teller.tell("here it is")
        _, answer = await again.post(MESSAGES + "?wait=true", {"text": "/teller x", "id": "m"})
    assert (answer["text"], answer["duplicate"]) == ("here it is", True)


async def test_a_message_that_comes_while_the_only_server_stops_is_kept() -> None:
    ledger = MemoryLedger()
    async with open_house(ledger=ledger, linger=60, grace=120) as house:
        async with lingering(house):
            assert (await house.post(MESSAGES, {"text": "hello", "id": "m"}))[0] == 202
    async with open_house(ledger=ledger) as again:
        _, answer = await again.post(MESSAGES + "?wait=true", {"text": "hello", "id": "m"})
    assert (answer["text"], answer["duplicate"]) == ("hello ", True)


class SlowToAccept(MemoryLedger):
    """Stores no message before its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        self.asked.set()
        await self.gate.wait()
        return await super().accept(message, policies)


async def test_a_request_that_is_not_stored_yet_gets_its_reply_too() -> None:
    ledger = SlowToAccept()
    async with leaving_house(ledger) as leaving, open_house(ledger=ledger):
        asking = asyncio.create_task(leaving.post(MESSAGES + "?wait=true", {"text": "hello"}))
        await asyncio.wait_for(ledger.asked.wait(), PATIENCE)
        async with departing(leaving):
            await eventually(lambda: leaving.server._subscriptions._closing_when_idle)
            ledger.gate.set()
            status, answer = await asking
    assert (status, answer.get("text")) == (200, "hello ")


async def test_a_kept_connection_takes_no_further_request() -> None:
    ledger = MemoryLedger()
    async with leaving_house(ledger) as leaving, leaving.client("t") as wire:
        host, port = leaving.address.rpartition("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        turn = await wire.say("/teller x")  # holds the house until it ends
        async with open_house(ledger=ledger) as staying, departing(leaving):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            staying.teller.tell("done")
            await wire.finish(turn)
        writer.close()


async def test_who_says_hello_too_late_is_sent_elsewhere() -> None:
    async with open_house(grace=120) as house, house.wire() as late:
        house.server._subscriptions._closed = True  # as when all who watched have gone
        await late.send({"type": "hello", "thread": "t", "person": "ada"})
        assert await late.close_code() == 1012


async def test_a_repeated_request_whose_turn_has_just_ended_is_answered() -> None:
    receipt = Receipt(turn="t", ahead=0, duplicate=True)
    reply = PendingReply("m", receipt)
    reply.on_event(Finished(turn="t", outcome="done", length=0), None)
    reply.on_shutdown()
    assert (await asyncio.wait_for(reply.finish(), PATIENCE)).outcome == "done"


async def test_more_viewers_than_a_batch_are_all_dismissed() -> None:
    async with open_house() as house:
        conversation = Conversation("default", "web", "t")
        viewers = [Watcher() for _ in range(2 * CLOSE_BATCH + 1)]
        for viewer in viewers:
            await house.server.subscribe(conversation, viewer)
        await house.stop_listening()
        assert {viewer.dismissed for viewer in viewers} == {1}
        with pytest.raises(Overloaded, match="the server stops"):
            await house.server.subscribe(conversation, Watcher())


class Watcher:
    """A viewer that counts how often it is dismissed."""

    def __init__(self) -> None:
        self.dismissed = 0

    def on_event(self, event: object, cursor: object) -> None:
        pass

    def on_snapshot(self, snapshot: object) -> None:
        pass

    def on_shutdown(self) -> None:
        self.dismissed += 1


# The process


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``palaver serve`` with the kit's parts, ready."""
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


def test_a_process_that_is_told_to_stop_ends() -> None:
    with serving() as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_process_that_hangs_while_it_stops_is_ended_all_the_same() -> None:
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
