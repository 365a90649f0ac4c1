"""The line before the engine: who is let through, and that nobody is forgotten in it."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.proof import SEED, size
from tests.server.skills_under_test import Parrot

from palaver.admission.quotas import Quotas
from palaver.admission.scheduler import LANES, OUTPUT, Scheduler, WaitEstimator
from palaver.config.settings import (
    AdmissionSettings,
    EngineSettings,
    Lane,
    PersonSettings,
    RoutingSettings,
    Settings,
)
from palaver.engine import ChatMessage, Engine, Generation, GenerationRequest, OnText, Sampling
from palaver.engines.scheduled import UNKNOWN_SLOTS, ScheduledEngine
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import EngineTimeout, Overloaded
from palaver.messages import Conversation, Finished, Queued, Usage, new_id
from palaver.metrics import Metrics
from palaver.testing import ChatClient, ScriptedEngine, ScriptedReply, converse

PATIENCE = 5.0


class Desk(ScriptedEngine):
    """An engine that writes word by word as a test tells it to."""

    def __init__(self, slots: int = 256) -> None:
        super().__init__(slots=slots)
        self.open: dict[str, asyncio.Queue[str | None]] = {}
        self.started: list[str] = []

    def write(self, request: str, *words: str, end: bool = True) -> None:
        for word in words:
            self.open[request].put_nowait(word)
        if end:
            self.open[request].put_nowait(None)

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        self.requests.append(request)
        self.started.append(request.id)
        words = self.open[request.id] = asyncio.Queue()
        said = []
        try:
            while (word := await words.get()) is not None:
                said.append(word)
                on_text(word)
        finally:
            del self.open[request.id]
        usage = Usage(prompt_tokens=len(request.messages[0].content), completion_tokens=len(said))
        return Generation(text="".join(said), finish_reason="stop", usage=usage)


def admission(engine: Engine, **settings: object) -> ScheduledEngine:
    chosen = AdmissionSettings.model_validate(settings)
    quotas = Quotas(chosen, asyncio.get_running_loop().time)
    scheduler = Scheduler(UNKNOWN_SLOTS, weight=lambda tenant: quotas.of_tenant(tenant).weight)
    return ScheduledEngine(engine, chosen, scheduler=scheduler, quotas=quotas, metrics=Metrics())


def request(
    id: str, tenant: str = "a", *, text: str = "hi", channel: str = "test", timeout: float = 60.0
) -> GenerationRequest:
    return GenerationRequest(
        id=id,
        messages=(ChatMessage("user", text),),
        tenant=tenant,
        channel=channel,
        timeout=timeout,
        sampling=Sampling(max_tokens=100),
    )


def ignore(text: str) -> None: ...


def begin(line: ScheduledEngine, *requests: GenerationRequest) -> "list[asyncio.Task[Generation]]":
    return [asyncio.create_task(line.generate(each, ignore)) for each in requests]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0)


async def settle(tasks: "list[asyncio.Task[Generation]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Places


async def test_no_more_run_at_once_than_there_are_places() -> None:
    desk = Desk()
    line = admission(desk, max_generations=2)
    await line.start()
    tasks = begin(line, *(request(name) for name in "1234"))
    await until(lambda: line.scheduler.waiting == 2)
    assert desk.started == ["1", "2"]
    desk.write("2")
    await until(lambda: desk.started == ["1", "2", "3"])
    assert line.scheduler.waiting == 1
    await settle(tasks)
    assert (line.scheduler.running, line.scheduler.waiting) == (0, 0)


@pytest.mark.parametrize("slots", [1, 16])
async def test_an_engine_gets_as_many_as_it_runs_at_once(slots: int) -> None:
    line = admission(Desk(slots=slots))
    await line.start()
    assert line.scheduler.slots == slots


async def test_tenants_take_turns_at_the_engine() -> None:
    desk = Desk()
    line = admission(desk, max_generations=1)
    await line.start()
    tasks = begin(line, *(request(f"flood{n}") for n in range(20)))
    await until(lambda: line.scheduler.waiting == 19)
    tasks += begin(line, request("late", "b"))
    await until(lambda: line.scheduler.waiting == 20)
    *_, last_of_flood, late = line._queued
    assert line.scheduler.position(late) == 1
    assert line.scheduler.position(last_of_flood) == 19
    desk.write("flood0")
    await until(lambda: len(desk.started) == 2)
    desk.write(desk.started[-1])
    await until(lambda: len(desk.started) == 3)
    assert "late" in desk.started
    assert line.scheduler.position(late) is None
    await settle(tasks)


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, 10),
        ({"tenants": {"a": {"weight": 3}}}, 15),
        ({"tenants": {"a": {"weight": 3}}, "tenant": {"weight": 3}}, 10),
    ],
)
async def test_tenants_have_weights(settings: dict[str, Any], first: int) -> None:
    engine = ScriptedEngine(lambda _: "one two three")
    line = admission(engine, max_generations=1, **settings)
    await line.start()
    tasks = begin(line, *(request(f"{who}{n}", who) for n in range(20) for who in "ab"))
    await asyncio.gather(*tasks)
    served = [request.tenant for request in engine.requests[:20]]
    assert served.count("a") == first


async def test_a_reply_is_charged_while_it_is_written_and_corrected_when_it_is_counted() -> None:
    desk = Desk()
    line = admission(desk, max_generations=1)
    await line.start()
    (task,) = begin(line, request("1", text="twelve bytes"))
    await until(lambda: "1" in desk.open)
    assert line.scheduler.served("a", "channel") == 3
    desk.write("1", "one", "two", end=False)
    await until(lambda: line.scheduler.served("a", "channel") == 3 + 2 * OUTPUT)
    desk.write("1", "three")
    await task
    assert line.scheduler.served("a", "channel") == 12 + 3 * OUTPUT


# Leaving


async def test_who_stops_waiting_leaves_the_line_at_once() -> None:
    desk = Desk()
    line = admission(desk, max_generations=1)
    await line.start()
    tasks = begin(line, request("1"), request("2"), request("3"))
    await until(lambda: line.scheduler.waiting == 2)
    tasks[1].cancel()
    await until(lambda: line.scheduler.waiting == 1)
    desk.write("1")
    await until(lambda: desk.started == ["1", "3"])
    await settle(tasks)


async def test_who_is_stopped_while_running_frees_the_place() -> None:
    desk = Desk()
    line = admission(desk, max_generations=1)
    await line.start()
    tasks = begin(line, request("1"), request("2"))
    await until(lambda: desk.started == ["1"])
    tasks[0].cancel()
    await until(lambda: desk.started == ["1", "2"])
    await settle(tasks)
    assert line.scheduler.running == 0


async def test_the_place_of_one_that_is_cancelled_as_it_gets_it_goes_to_the_next() -> None:
    desk = Desk()
    line = admission(desk, max_generations=1)
    await line.start()
    tasks = begin(line, request("1"), request("2"), request("3"))
    await until(lambda: line.scheduler.waiting == 2)
    tasks[0].cancel()
    await asyncio.sleep(0)  # the first has left and the second was granted its place
    assert line.scheduler.waiting == 1
    tasks[1].cancel()
    await until(lambda: desk.started == ["1", "3"])
    await settle(tasks)
    assert (line.scheduler.running, line.scheduler.waiting) == (0, 0)


async def test_no_place_is_lost_however_generations_are_cancelled() -> None:
    chance = random.Random(SEED)
    line = admission(ScriptedEngine(lambda _: "one two three"), max_generations=3)
    await line.start()
    tasks: list[asyncio.Task[Generation]] = []
    for number in range(size(1_000, 100_000)):
        about = request(str(number), chance.choice("abc"), channel=chance.choice(("web", "test")))
        tasks += begin(line, about)
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.6:
            chance.choice(tasks).cancel()
        tasks = [task for task in tasks if not task.done()]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {Generation, asyncio.CancelledError}, SEED
    assert (line.scheduler.running, line.scheduler.waiting) == (0, 0), SEED
    assert (await line.generate(request("last"), ignore)).text == "one two three"


# Deadlines


async def test_the_deadline_counts_in_line_too() -> None:
    desk = Desk()
    line = admission(desk, max_generations=1)
    await line.start()
    tasks = begin(line, request("1"), request("2", timeout=30.0))
    await until(lambda: line.scheduler.waiting == 1)
    with pytest.raises(EngineTimeout, match="still queued"):
        await line.generate(request("late", timeout=0.02), ignore)
    assert line.scheduler.waiting == 1
    desk.write("1")
    await until(lambda: desk.started == ["1", "2"])
    assert desk.requests[-1].timeout < 30.0
    await settle(tasks)


# Lanes


@pytest.mark.parametrize(
    ("channel", "lane"), [("web", "interactive"), ("slack", "channel"), ("night", "batch")]
)
async def test_a_channel_has_its_lane_and_the_engine_its_priority(channel: str, lane: Lane) -> None:
    desk = Desk()
    line = admission(desk, max_generations=1, lanes={"night": "batch"})
    await line.start()
    tasks = begin(line, request("1", channel=channel))
    await until(lambda: desk.requests)
    assert desk.requests[0].priority == list(LANES).index(lane)
    await settle(tasks)


async def test_an_engine_without_priorities_is_asked_for_none() -> None:
    engine = ScriptedEngine("done", missing_capabilities=["priority"])
    line = admission(engine, lanes={"night": "batch"})
    await line.start()
    assert (await line.generate(request("1", channel="night"), ignore)).text == "done"
    assert engine.requests[0].priority == 0


async def test_batch_leaves_places_for_those_who_come() -> None:
    desk = Desk()
    line = admission(desk, max_generations=4, batch_share=0.5, lanes={"night": "batch"})
    await line.start()
    tasks = begin(line, *(request(name, channel="night") for name in "123"), request("4"))
    await until(lambda: len(desk.started) == 3)
    assert desk.started == ["1", "2", "4"]
    await settle(tasks)


async def test_a_reserve_is_left_for_other_tenants() -> None:
    desk = Desk()
    line = admission(desk, max_generations=4, reserved_share=0.25)
    await line.start()
    tasks = begin(line, request("0", "b"))
    await until(lambda: desk.started)
    desk.write("0")
    tasks += begin(line, *(request(name) for name in "1234"))
    await until(lambda: line.scheduler.waiting == 1)
    tasks += begin(line, request("late", "b"))
    await until(lambda: desk.started[-1] == "late")
    assert line.scheduler.waiting == 1
    await settle(tasks)


# The engine


async def test_an_engine_that_is_full_is_asked_again() -> None:
    refusals = [Overloaded("full", retry_after=0.001)] * 3

    def reply(request: GenerationRequest) -> ScriptedReply:
        return (
            ScriptedReply(text="", error=refusals.pop())
            if refusals
            else ScriptedReply(text="at last")
        )

    class Full(ScriptedEngine):
        def _reply_to(self, request: GenerationRequest) -> ScriptedReply:
            return reply(request)

    line = admission(Full())
    await line.start()
    assert (await line.generate(request("1"), ignore)).text == "at last"


async def test_a_refusal_in_the_middle_of_a_reply_is_not_hidden() -> None:
    refusal = Overloaded("full", retry_after=0.001)
    line = admission(ScriptedEngine(ScriptedReply(text="half of", error=refusal)))
    await line.start()
    with pytest.raises(Overloaded):
        await line.generate(request("1"), ignore)


async def test_the_canary_and_what_needs_no_place_pass_by_a_full_line() -> None:
    sung = asyncio.Event()

    def reply(request: GenerationRequest) -> ScriptedReply:
        if request.id.startswith("health-probe"):
            sung.set()
            return ScriptedReply(text="x")
        return ScriptedReply(text="one two", pause_after=1)

    inner = ScriptedEngine(reply)
    quick = EngineSettings(health_probe_interval=0.02, health_probe_timeout=1.0)
    line = admission(SupervisedEngine(inner, quick, Metrics()), max_generations=1)
    await line.start()
    tasks = begin(line, request("1"), request("2"))
    async with asyncio.timeout(PATIENCE):
        await sung.wait()
    assert await line.count_tokens([ChatMessage("user", "three small words")]) == 5
    assert (await line.stats()).waiting == 0
    assert line.scheduler.waiting == 1
    await settle(tasks)
    await line.close()


# What is counted


async def test_tokens_are_counted_by_tenant_and_against_the_persons_quota() -> None:
    metrics, desk = Metrics(), Desk()
    chosen = AdmissionSettings(person=PersonSettings(tokens_per_minute=10))
    quotas = Quotas(chosen, lambda: 0.0)
    line = ScheduledEngine(
        desk, chosen, scheduler=Scheduler(UNKNOWN_SLOTS), quotas=quotas, metrics=metrics
    )
    await line.start()
    tasks = begin(line, request("1", text="twelve bytes"))
    await until(lambda: "1" in desk.open)
    assert quotas.excess("a", "") is None
    desk.write("1", "one", "two")
    await asyncio.gather(*tasks)
    excess = quotas.excess("a", "")
    assert excess is not None
    assert excess.unit == "tokens"
    assert excess.wait == pytest.approx((1 - (10 - 14)) * 6)
    shown = metrics.exposition().decode()
    assert 'palaver_tenant_tokens_total{tenant="a"} 14.0' in shown
    assert 'palaver_scheduler_wait_seconds_count{lane="channel"} 1.0' in shown


def test_so_many_tenants_share_a_label() -> None:
    metrics = Metrics()
    for number in range(150):
        metrics.served(f"t{number}", 1)
    shown = metrics.exposition().decode()
    assert shown.count("palaver_tenant_tokens_total{") == 101
    assert 'palaver_tenant_tokens_total{tenant=""} 50.0' in shown


# The pace of the line


def test_the_pace_is_known_after_a_round() -> None:
    pace = WaitEstimator(slots=2)
    pace.queue_changed(0.0, waiting=True)
    pace.slot_freed(3.0)
    assert pace.seconds_per_slot(3.0) == 0.0
    pace.slot_freed(4.0)
    assert pace.seconds_per_slot(4.0) == 2.0


def test_an_engine_that_falls_silent_slows_the_pace() -> None:
    pace = WaitEstimator(slots=2)
    pace.queue_changed(0.0, waiting=True)
    assert pace.seconds_per_slot(10.0) == 5.0
    pace.queue_changed(11.0, waiting=False)
    assert pace.seconds_per_slot(100.0) == 0.0


async def test_who_comes_while_the_engine_is_silent_will_wait_for_longer() -> None:
    desk = Desk()
    line = admission(desk, max_generations=1)
    await line.start()
    tasks = begin(line, *(request(name) for name in "123"))
    await until(lambda: line.scheduler.waiting == 2)
    await until(lambda: line.scheduler.estimated_wait("b", "channel", 0) > 0.01)
    assert line.scheduler.estimated_wait("a", "channel", 1) > line.scheduler.estimated_wait(
        "b", "channel", 0
    )
    desk.write("1")
    await until(lambda: "2" in desk.open)
    await settle(tasks)
    assert line.scheduler.estimated_wait("b", "channel", 1) == 0
    assert line.scheduler.estimated_wait("b", "channel", 2) > 0


# The person


async def test_who_waits_in_line_is_told_how_many_come_first() -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="one two", pause_after=1))
    settings = Settings(
        admission=AdmissionSettings(max_generations=1),
        routing=RoutingSettings(default="parrot", consult_engine=False),
    )
    async with converse(Parrot, engine=engine, settings=settings) as chat:
        first = await chat.send("first")
        await chat.screen.until(first, text="one")
        threads = [Conversation("default", "test", new_id()) for _ in range(2)]
        others = [ChatClient(chat.server, thread, "bob") for thread in threads]
        views = [await chat.server.subscribe(other.conversation, other.screen) for other in others]
        turns = [await other.send("hello") for other in others]
        for other, turn in zip(others, turns, strict=True):
            await until_told(other, turn)
        told = [other.screen.of(turn, Queued) for other, turn in zip(others, turns, strict=True)]
        assert [[event.ahead for event in events] for events in told] == [[0], [1]]
        engine.resume()
        for other, turn in zip(others, turns, strict=True):
            await other.reply(turn)
            assert other.screen.of(turn, Finished)
        for view in views:
            chat.server.unsubscribe(view)
        assert not chat.screen.of(first, Queued)


async def until_told(chat: ChatClient, turn: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not chat.screen.of(turn, Queued):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
