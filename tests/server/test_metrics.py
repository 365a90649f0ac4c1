"""Every metric is fed: a scenario for each, driven through a real server."""

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import pytest
from _pytest.mark import ParameterSet
from prometheus_client.parser import text_string_to_metric_families
from tests.proofs.virtual_time import VirtualTimeLoop, run_in_virtual_time
from tests.server.platforms.board import Board
from tests.server.skills_under_test import Parrot
from tests.server.web.live_server import (
    TIMEOUT_SECONDS,
    LiveServer,
    eventually,
    open_live_server,
)
from tests.server.web.raw_client import raw_connection
from tests.server.web.test_slow_readers import abandon, fill, set_reading, unread

from palaver import Skill, Turn
from palaver.config.settings import (
    AdmissionSettings,
    AuthKey,
    ConnectionSettings,
    DispatchSettings,
    EngineSettings,
    RoutingSettings,
    Secret,
    ServerSettings,
    Settings,
    SiteSettings,
    WidgetSettings,
)
from palaver.engine import Generation, GenerationRequest, OnText
from palaver.errors import LedgerUnavailable, TooLarge, TooMany
from palaver.knowledge import Passage
from palaver.ledger import QueueDepth
from palaver.messages import Conversation, Message, new_id
from palaver.metrics import Metrics
from palaver.platforms import (
    ChannelSettings,
    IncomingMessage,
    PlatformChannel,
    Source,
    Times,
)
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine, ScriptedReply, converse
from palaver.testing.harness import ChatClient
from palaver.turns.writer import PUBLISH_INTERVAL
from palaver.watchdog import INTERVAL, STALL

Scenario = Callable[[], contextlib.AbstractAsyncContextManager[Metrics]]
ScenarioT = TypeVar("ScenarioT", bound=Scenario)

ROUTING = RoutingSettings(default="parrot")
AT_ONCE = ServerSettings(drain=0)
"""The server ends without waiting for the turns that a scenario holds."""
SCENARIOS: list[ParameterSet] = []
"""A sample, the value that it reaches, and the scenario in whose block it does."""
FED: set[str] = set()
"""The metrics of the scenarios."""


def makes(*, slow: bool = False, **samples: float) -> Callable[[ScenarioT], ScenarioT]:
    """Register a scenario for samples, whose names are as in `read`."""

    def register(scenario: ScenarioT) -> ScenarioT:
        for name, value in samples.items():
            FED.add(name.partition("__")[0].removesuffix("_count"))
            marks = (pytest.mark.slow,) if slow else ()
            label = f"{scenario.__name__}: {name}"
            SCENARIOS.append(pytest.param(name, value, scenario, id=label, marks=marks))
        return scenario

    return register


def read(metrics: Metrics) -> dict[str, float]:
    """Return the samples, without ``palaver_``, and with the value of a label after ``__``. The
    label of the default model is left out."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = [
            value for name, value in sample.labels.items() if (name, value) != ("model", "default")
        ]
        found["__".join((sample.name.removeprefix("palaver_"), *labels))] = sample.value
    return found


class Forgetful(Skill):
    """Remember more than may be remembered."""

    name = "forgetful"

    async def answer(self, turn: Turn) -> None:
        await turn.remember("novel", "x" * 5_000)


class CachingEngine(ScriptedEngine):
    """An engine that finds part of each prompt in its cache."""

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        generation = await super().generate(request, on_text)
        usage = msgspec.structs.replace(generation.usage, cached_tokens=2)
        return dataclasses.replace(generation, usage=usage)


# Turns


@makes(
    messages_total__test=1,
    turns_total__done__parrot=1,
    turn_seconds_count__parrot=1,
    first_text_seconds_count=1,
    tokens_total__prompt=3,
    tokens_total__cached=2,
    tokens_total__completion=3,
    tenant_tokens_total__default=6,
    scheduler_wait_seconds_count__channel=1,
)
@contextlib.asynccontextmanager
async def an_answered_message() -> AsyncIterator[Metrics]:
    async with converse(Parrot, engine=CachingEngine("one two three")) as chat:
        await chat.say("hello")
        yield chat.server.metrics


@contextlib.asynccontextmanager
async def paused(*, slots: int = 1, **settings: Any) -> AsyncIterator[ChatClient]:
    """Hold a reply after its first word, for the block."""
    engine = ScriptedEngine(lambda _: ScriptedReply(text="one two", pause_after=1), slots=slots)
    chosen = Settings(routing=ROUTING, server=AT_ONCE, **settings)
    async with converse(Parrot, engine=engine, settings=chosen) as chat:
        turn = await chat.send("hello")
        await chat.recorder.wait_for(turn, text="one")
        yield chat
        engine.resume()


@makes(slow=True, turns_running=1)
@makes(turns_here=1, turns_unsettled=1, scheduler_running__channel=1)
@contextlib.asynccontextmanager
async def a_running_turn() -> AsyncIterator[Metrics]:
    async with paused() as chat:
        yield chat.server.metrics


@makes(slow=True, turns_queued=1)
@contextlib.asynccontextmanager
async def a_message_behind_a_turn() -> AsyncIterator[Metrics]:
    async with paused() as chat:
        await chat.send("and then?")
        yield chat.server.metrics


@makes(refusals_total__inbox=1)
@contextlib.asynccontextmanager
async def a_full_inbox() -> AsyncIterator[Metrics]:
    async with paused(admission=AdmissionSettings(inbox_limit=1)) as chat:
        await chat.send("and then?")
        with pytest.raises(TooMany):
            await chat.send("and after that?")
        yield chat.server.metrics


@makes(memories_refused_total__bytes=1)
@contextlib.asynccontextmanager
async def a_memory_that_is_too_large() -> AsyncIterator[Metrics]:
    async with converse(Forgetful) as chat:
        assert (await chat.say("hello")).outcome == "failed"
        yield chat.server.metrics


class Searcher(Skill):
    """Search."""

    name = "searcher"

    async def answer(self, turn: Turn) -> None:
        await turn.search("a needle")


class SlowKnowledge(ListKnowledge):
    """A knowledge base in which every search takes too long."""

    async def search(self, *wanted: object) -> tuple[Passage, ...]:
        raise TooLarge("this search takes too long")


@makes(limits_total__search_timeout=1)
@contextlib.asynccontextmanager
async def a_search_that_takes_too_long() -> AsyncIterator[Metrics]:
    async with converse(Searcher, knowledge=SlowKnowledge()) as chat:
        assert (await chat.say("where is it?")).outcome == "failed"
        yield chat.server.metrics


@makes(**{"limits_total__routing.max_characters": 1})  # type: ignore[arg-type]
@contextlib.asynccontextmanager
async def a_message_that_is_too_long_to_compare() -> AsyncIterator[Metrics]:
    routing = RoutingSettings(default="parrot", max_characters=10)
    async with converse(Parrot, settings=Settings(routing=routing)) as chat:
        await chat.say("a short one")
        await chat.say("ten or less"[:10])
        yield chat.server.metrics


@makes(subscriptions=1, engine_up=1, ledger_up=1)
@contextlib.asynccontextmanager
async def a_subscriber() -> AsyncIterator[Metrics]:
    async with converse(Parrot) as chat:
        yield chat.server.metrics


# The engine


async def send_elsewhere(chat: ChatClient) -> None:
    """Send a message to another conversation."""
    conversation = Conversation("default", "test", "another")
    message = Message(conversation=conversation, person="bob", text="hello", id=new_id())
    await chat.server.accept(message, members_only=False)


@makes(
    scheduler_waiting__channel=1,
    scheduler_waiting_tokens__channel=513,
    tokens_unsettled=2 * 513,
)
@contextlib.asynccontextmanager
async def a_turn_behind_another() -> AsyncIterator[Metrics]:
    async with paused() as chat:
        await send_elsewhere(chat)
        yield chat.server.metrics


@contextlib.asynccontextmanager
async def crashing(backoff: float) -> AsyncIterator[ChatClient]:
    """Crash the engine in a reply, for the block."""
    engine = ScriptedEngine(ScriptedReply(text="one two", crash_after=1))
    chosen = Settings(
        routing=ROUTING, server=AT_ONCE, engine=EngineSettings(restart_backoff=backoff)
    )
    async with converse(Parrot, engine=engine, settings=chosen) as chat:
        await chat.send("hello")
        yield chat


@makes(engine_restarts_total=1, generations_cut_total=1)
@contextlib.asynccontextmanager
async def a_crash_of_the_engine() -> AsyncIterator[Metrics]:
    async with crashing(0.01) as chat:
        yield chat.server.metrics


@makes(engine_up=0)
@contextlib.asynccontextmanager
async def an_engine_that_is_down() -> AsyncIterator[Metrics]:
    async with crashing(60.0) as chat:
        yield chat.server.metrics


# The process


class LostLedger(MemoryLedger):
    """A ledger that is lost after the start."""

    lost = False

    async def queue_depth(self) -> QueueDepth:
        if self.lost:
            raise LedgerUnavailable("lost")
        return await super().queue_depth()


@makes(slow=True, ledger_up=0)
@contextlib.asynccontextmanager
async def a_ledger_that_is_unavailable() -> AsyncIterator[Metrics]:
    ledger = LostLedger()
    async with converse(Parrot, ledger=ledger) as chat:
        ledger.lost = True
        yield chat.server.metrics


@makes(loop_stall_seconds_count=1)
@contextlib.asynccontextmanager
async def a_stall() -> AsyncIterator[Metrics]:
    async def stall() -> Metrics:
        async with converse(Parrot) as chat:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualTimeLoop)
            loop.stall(STALL + 2 * INTERVAL)
            await asyncio.sleep(INTERVAL)
            return chat.server.metrics

    # In virtual time: on a busy machine the test's own loop has stalls of its own.
    yield await asyncio.to_thread(run_in_virtual_time, stall())


# Connections


@makes(websockets=1, connections=1, subscriptions=1)
@contextlib.asynccontextmanager
async def a_websocket() -> AsyncIterator[Metrics]:
    async with open_live_server() as live_server, live_server.connect("t"):
        yield live_server.server.metrics


@makes(event_streams=1)
@contextlib.asynccontextmanager
async def an_event_stream() -> AsyncIterator[Metrics]:
    async with (
        open_live_server() as live_server,
        live_server.session.get(live_server.url("/v1/conversations/t/events")),
    ):
        yield live_server.server.metrics


@makes(connections_pending=1)
@contextlib.asynccontextmanager
async def a_connection_without_a_request() -> AsyncIterator[Metrics]:
    async with open_live_server() as live_server, raw_connection(live_server.address):
        yield live_server.server.metrics


@makes(limits_total__head_timeout=1)
@contextlib.asynccontextmanager
async def a_client_that_is_too_slow() -> AsyncIterator[Metrics]:
    settings = ConnectionSettings(head_timeout=0.1)
    async with (
        open_live_server(connections=settings) as live_server,
        raw_connection(live_server.address) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\n")
        yield live_server.server.metrics


@makes(buffered_bytes=200_000)
@contextlib.asynccontextmanager
async def a_body_that_is_not_complete(**connections: Any) -> AsyncIterator[Metrics]:
    async with (
        open_live_server(connections=ConnectionSettings(**connections)) as live_server,
        raw_connection(live_server.address) as client,
    ):
        await client.send(
            b"POST /v1/conversations/t/messages HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 300000\r\n\r\n" + b"x" * 200_000
        )
        yield live_server.server.metrics


@makes(limits_total__buffer_bytes=1)
@contextlib.asynccontextmanager
async def a_body_for_which_there_is_no_room() -> AsyncIterator[Metrics]:
    async with a_body_that_is_not_complete(buffer_bytes=100_000) as metrics:
        yield metrics


@makes(limits_total__head_size=1)
@contextlib.asynccontextmanager
async def a_head_without_an_end() -> AsyncIterator[Metrics]:
    async with open_live_server() as live_server, raw_connection(live_server.address) as client:
        await client.send(b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 100_000)
        yield live_server.server.metrics


@makes(limits_total__per_address=1)
@contextlib.asynccontextmanager
async def a_client_behind_a_proxy_with_too_many_connections() -> AsyncIterator[Metrics]:
    settings = ConnectionSettings(per_address=1, trusted_proxies=("127.0.0.1",))
    headers = {"X-Forwarded-For": "192.0.2.1"}
    events = "/v1/conversations/t/events"
    async with (
        open_live_server(connections=settings) as live_server,
        live_server.session.get(live_server.url(events), headers=headers),
    ):
        assert (await live_server.get("/v1/skills", headers=headers))[0] == 429
        yield live_server.server.metrics


@contextlib.asynccontextmanager
async def endless_reply() -> AsyncIterator[tuple[LiveServer, Callable[[], Awaitable[None]]]]:
    """Yield a server, and a function that writes a reply until a reader is too slow."""
    unlimited = DispatchSettings(max_reply_characters=1_000_000_000)
    async with open_live_server(send_queue_bytes=500_000, dispatch=unlimited) as live_server:
        messages = "/v1/conversations/t/messages"
        await live_server.post(messages, {"text": "/scripted x", "person": "ada"})

        async def write() -> None:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not read(live_server.server.metrics)["slow_readers_total"]:
                    live_server.scripted.emit("x" * 200_000, end=False)
                    await asyncio.sleep(PUBLISH_INTERVAL)  # each is an event of its own

        yield live_server, write
        live_server.scripted.emit()


@makes(slow_readers_total=1)
@contextlib.asynccontextmanager
async def an_event_stream_that_nobody_reads() -> AsyncIterator[Metrics]:
    path = "/v1/conversations/t/events?person=ada"
    async with endless_reply() as (live_server, write), unread(live_server, path):
        await eventually(lambda: read(live_server.server.metrics)["event_streams"] == 1)
        await write()
        yield live_server.server.metrics


@makes(slow_readers_total=1)
@contextlib.asynccontextmanager
async def a_websocket_that_nobody_reads() -> AsyncIterator[Metrics]:
    async with endless_reply() as (live_server, write), live_server.connect("t") as client:
        set_reading(client, False)
        await write()
        yield live_server.server.metrics
        abandon(client)


@makes(slow=True, slow_readers_total=1, limits_total__write_timeout=1)
@contextlib.asynccontextmanager
async def a_page_that_nobody_reads() -> AsyncIterator[Metrics]:
    settings = ConnectionSettings(write_timeout=0.2)
    path = "/v1/conversations/t/events?person=ada&since=start"
    async with open_live_server(connections=settings) as live_server:
        await fill(live_server, 8, 900_000)
        async with unread(live_server, path):
            yield live_server.server.metrics


@makes(wrong_keys_total__refused=1, wrong_keys_total__throttled=2)
@contextlib.asynccontextmanager
async def a_wrong_key() -> AsyncIterator[Metrics]:
    keys = {"ada": AuthKey(secret=Secret("env:KEY_ADA"), person="ada")}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KEY_ADA", "the secret key of ada")
        async with open_live_server(keys=keys, auth={"failures_per_minute": 1}) as live_server:
            for number in range(3):
                headers = {"Authorization": f"Bearer guess {number}"}
                await live_server.get("/v1/skills", headers=headers)
            yield live_server.server.metrics


@makes(uploaded_files_total=1, uploaded_bytes_total=5, uploads=1)
@contextlib.asynccontextmanager
async def uploads() -> AsyncIterator[Metrics]:
    begun, end = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"begun"
        begun.set()
        await end.wait()

    async with open_live_server() as live_server:
        path = "/v1/files?name=a.txt"
        assert (await live_server.post(path, json=None, data=b"Hello"))[0] == 201
        upload = asyncio.create_task(live_server.post(path, json=None, data=pieces()))
        await begun.wait()
        await eventually(lambda: live_server.server.files.uploads.in_progress > 0)
        yield live_server.server.metrics
        end.set()
        assert (await upload)[0] == 201


@makes(feedback_total__up__parrot=1)
@contextlib.asynccontextmanager
async def a_rating() -> AsyncIterator[Metrics]:
    async with open_live_server() as live_server:
        conversation, person = "/v1/conversations/t", "?person=ada"
        _, reply = await live_server.post(
            f"{conversation}/messages{person}&wait=true", {"text": "hello"}
        )
        path = f"{conversation}/turns/{reply['turn']}/feedback{person}"
        async with live_server.session.put(
            live_server.url(path), json={"rating": "up"}
        ) as response:
            assert response.status == 200
        yield live_server.server.metrics


@makes(visitor_tokens_total__granted=1, visitor_tokens_total__refused=2,
       visitor_tokens_total__throttled=1)  # fmt: skip
@contextlib.asynccontextmanager
async def visitors() -> AsyncIterator[Metrics]:
    site = SiteSettings(key="pk_the-key-of-the-shop", origins=("https://shop.example",))
    widget = WidgetSettings(sites={"shop": site}, token_requests_per_minute=3)
    async with open_live_server(widget=widget) as live_server:
        for key in (site.key, "pk_nothing", "", site.key):
            headers = {"Origin": "https://shop.example"}
            await live_server.post("/v1/widget/token", {"key": key}, headers=headers)
        yield live_server.server.metrics


# Channels on chat platforms


class BoardChannel(PlatformChannel):
    name = "board"
    times = Times(poll=0.01, retries=(0.001,))


async def write_on_board(channel: BoardChannel, thread: str, *, is_direct: bool = False) -> None:
    source = Source(thread=thread, person="board.ada", user="ada", is_direct=is_direct)
    await channel.receive(IncomingMessage(source=source, id=new_id(), text="hello"))


@makes(
    channel_calls_total__create__board__unreachable=1,
    channel_lost_answers_total__board=1,
    channel_posted_seconds_count__board=1,
    channel_ignored_total__board__unpaired=1,
    channel_up__board=1,
)
@contextlib.asynccontextmanager
async def a_reply_on_a_chat_platform() -> AsyncIterator[Metrics]:
    board = Board()
    board.faults["create", 1] = "lost"
    channel = BoardChannel(ChannelSettings(), board)
    async with open_live_server(channels={"board": channel}) as live_server:
        await write_on_board(channel, "room")
        await write_on_board(channel, "direct", is_direct=True)
        yield live_server.server.metrics


@makes(channel_parked_total__board=1)
@contextlib.asynccontextmanager
async def a_reply_that_a_chat_platform_refuses() -> AsyncIterator[Metrics]:
    board = Board()
    board.faults["create", 1] = "refused"
    channel = BoardChannel(ChannelSettings(), board)
    async with open_live_server(channels=(channel,)) as live_server:
        await write_on_board(channel, "room")
        yield live_server.server.metrics


# The tests


@pytest.mark.parametrize(("sample", "value", "scenario"), SCENARIOS)
async def test_a_metric_is_fed(sample: str, value: float, scenario: Scenario) -> None:
    async with scenario() as metrics:
        await eventually(lambda: read(metrics).get(sample) == value)


async def test_a_stall_is_the_longest() -> None:
    async with a_stall() as metrics:
        await eventually(lambda: read(metrics)["loop_longest_stall_seconds"] > 0.05)


def test_durations_are_those_of_the_loops_clock() -> None:
    async def measure() -> dict[str, float]:
        await asyncio.sleep(1_000)
        engine = ScriptedEngine(lambda _: "one two three", slots=1, seconds_per_token=0.2)
        async with converse(Parrot, engine=engine) as chat:
            await send_elsewhere(chat)
            await chat.say("hello")
            return read(chat.server.metrics)

    seen = run_in_virtual_time(measure())
    assert seen["first_text_seconds_sum"] == pytest.approx(0.2 + 0.2, abs=0.1)
    assert seen["scheduler_wait_seconds_sum__channel"] == pytest.approx(0.6, abs=0.1)
    assert seen["turn_seconds_sum__parrot"] == pytest.approx(0.6 + 1.2, abs=0.1)


async def test_every_metric_has_a_scenario(live_server: LiveServer) -> None:
    shown = re.findall(r"# TYPE palaver_(\w+)", live_server.server.metrics.exposition().decode())
    named = {name for name in shown if not name.endswith("_created")}
    assert named == FED | {"loop_longest_stall_seconds"}
