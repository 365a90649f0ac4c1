"""The scheduled engine: order, slots, charges and the estimated wait."""

import asyncio
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.proof_settings import SEED, short_or_long
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
from palaver.engine import (
    ChatMessage,
    Engine,
    Generation,
    GenerationRequest,
    OnText,
    Sampling,
    ToolCall,
    ToolDefinition,
)
from palaver.engines.scheduled import UNKNOWN_SLOTS, ScheduledEngine
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import EngineTimeout, Overloaded, PromptTooLong
from palaver.messages import Conversation, Finished, Queued, Usage, new_id
from palaver.metrics import Metrics
from palaver.testing import ChatClient, ScriptedEngine, ScriptedReply, converse

TIMEOUT_SECONDS = 5.0


class ManualEngine(ScriptedEngine):
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


def scheduled_engine(engine: Engine, **settings: object) -> ScheduledEngine:
    chosen = AdmissionSettings.model_validate(settings)
    quotas = Quotas(chosen, asyncio.get_running_loop().time)
    scheduler = Scheduler(UNKNOWN_SLOTS, weight=lambda tenant: quotas.of_tenant(tenant).weight)
    return ScheduledEngine(
        engine, chosen, scheduler=scheduler, quotas=quotas, metrics=Metrics().of_model()
    )


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


def start_generations(
    scheduled: ScheduledEngine, *requests: GenerationRequest
) -> "list[asyncio.Task[Generation]]":
    return [asyncio.create_task(scheduled.generate(each, ignore)) for each in requests]


async def wait_until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not holds():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0)


async def cancel_all(tasks: "list[asyncio.Task[Generation]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Slots


async def test_no_more_generations_run_at_once_than_there_are_slots() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=2)
    await scheduled.start()
    tasks = start_generations(scheduled, *(request(name) for name in "1234"))
    await wait_until(lambda: scheduled.scheduler.waiting == 2)
    assert manual.started == ["1", "2"]
    manual.write("2")
    await wait_until(lambda: manual.started == ["1", "2", "3"])
    assert scheduled.scheduler.waiting == 1
    await cancel_all(tasks)
    assert (scheduled.scheduler.running, scheduled.scheduler.waiting) == (0, 0)


@pytest.mark.parametrize("slots", [1, 16])
async def test_an_engine_gets_as_many_generations_as_it_has_slots(slots: int) -> None:
    scheduled = scheduled_engine(ManualEngine(slots=slots))
    await scheduled.start()
    assert scheduled.scheduler.slots == slots


async def test_tenants_take_turns_at_the_engine() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1)
    await scheduled.start()
    tasks = start_generations(scheduled, *(request(f"flood{n}") for n in range(20)))
    await wait_until(lambda: scheduled.scheduler.waiting == 19)
    tasks += start_generations(scheduled, request("late", "b"))
    await wait_until(lambda: scheduled.scheduler.waiting == 20)
    *_, last_of_flood, late = scheduled._queued
    assert scheduled.scheduler.position(late) == 1
    assert scheduled.scheduler.position(last_of_flood) == 19
    manual.write("flood0")
    await wait_until(lambda: len(manual.started) == 2)
    manual.write(manual.started[-1])
    await wait_until(lambda: len(manual.started) == 3)
    assert "late" in manual.started
    assert scheduled.scheduler.position(late) is None
    await cancel_all(tasks)


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
    scheduled = scheduled_engine(engine, max_generations=1, **settings)
    await scheduled.start()
    tasks = start_generations(
        scheduled, *(request(f"{tenant}{n}", tenant) for n in range(20) for tenant in "ab")
    )
    await asyncio.gather(*tasks)
    served = [request.tenant for request in engine.requests[:20]]
    assert served.count("a") == first


async def test_a_reply_is_charged_while_it_is_written_and_corrected_when_it_is_counted() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1)
    await scheduled.start()
    (task,) = start_generations(scheduled, request("1", text="twelve bytes"))
    await wait_until(lambda: "1" in manual.open)
    assert scheduled.scheduler.served("a", "channel") == 3
    manual.write("1", "one", "two", end=False)
    await wait_until(lambda: scheduled.scheduler.served("a", "channel") == 3 + 2 * OUTPUT)
    manual.write("1", "three")
    await task
    assert scheduled.scheduler.served("a", "channel") == 12 + 3 * OUTPUT


# Leaving


async def test_a_cancelled_generation_leaves_the_queue_at_once() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1)
    await scheduled.start()
    tasks = start_generations(scheduled, request("1"), request("2"), request("3"))
    await wait_until(lambda: scheduled.scheduler.waiting == 2)
    tasks[1].cancel()
    await wait_until(lambda: scheduled.scheduler.waiting == 1)
    manual.write("1")
    await wait_until(lambda: manual.started == ["1", "3"])
    await cancel_all(tasks)


async def test_a_cancelled_running_generation_frees_its_slot() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1)
    await scheduled.start()
    tasks = start_generations(scheduled, request("1"), request("2"))
    await wait_until(lambda: manual.started == ["1"])
    tasks[0].cancel()
    await wait_until(lambda: manual.started == ["1", "2"])
    await cancel_all(tasks)
    assert scheduled.scheduler.running == 0


async def test_a_slot_granted_to_a_cancelled_generation_goes_to_the_next() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1)
    await scheduled.start()
    tasks = start_generations(scheduled, request("1"), request("2"), request("3"))
    await wait_until(lambda: scheduled.scheduler.waiting == 2)
    tasks[0].cancel()
    await asyncio.sleep(0)  # the first has left and the second was granted its slot
    assert scheduled.scheduler.waiting == 1
    tasks[1].cancel()
    await wait_until(lambda: manual.started == ["1", "3"])
    await cancel_all(tasks)
    assert (scheduled.scheduler.running, scheduled.scheduler.waiting) == (0, 0)


async def test_no_slot_is_lost_to_cancellations() -> None:
    chance = random.Random(SEED)
    scheduled = scheduled_engine(ScriptedEngine(lambda _: "one two three"), max_generations=3)
    await scheduled.start()
    tasks: list[asyncio.Task[Generation]] = []
    for number in range(short_or_long(1_000, 100_000)):
        about = request(str(number), chance.choice("abc"), channel=chance.choice(("web", "test")))
        tasks += start_generations(scheduled, about)
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.6:
            chance.choice(tasks).cancel()
        tasks = [task for task in tasks if not task.done()]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {Generation, asyncio.CancelledError}, SEED
    assert (scheduled.scheduler.running, scheduled.scheduler.waiting) == (0, 0), SEED
    assert (await scheduled.generate(request("last"), ignore)).text == "one two three"


# Deadlines


async def test_the_timeout_includes_the_queue() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1)
    await scheduled.start()
    tasks = start_generations(scheduled, request("1"), request("2", timeout=30.0))
    await wait_until(lambda: scheduled.scheduler.waiting == 1)
    with pytest.raises(EngineTimeout, match="still queued"):
        await scheduled.generate(request("late", timeout=0.02), ignore)
    assert scheduled.scheduler.waiting == 1
    manual.write("1")
    await wait_until(lambda: manual.started == ["1", "2"])
    assert manual.requests[-1].timeout < 30.0
    await cancel_all(tasks)


# Lanes


@pytest.mark.parametrize(
    ("channel", "lane"), [("web", "interactive"), ("slack", "channel"), ("night", "batch")]
)
async def test_a_channel_has_its_lane_and_the_engine_its_priority(channel: str, lane: Lane) -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1, lanes={"night": "batch"})
    await scheduled.start()
    tasks = start_generations(scheduled, request("1", channel=channel))
    await wait_until(lambda: manual.requests)
    assert manual.requests[0].priority == list(LANES).index(lane)
    await cancel_all(tasks)


async def test_an_engine_without_priorities_is_asked_for_none() -> None:
    engine = ScriptedEngine("done", missing_capabilities=["priority"])
    scheduled = scheduled_engine(engine, lanes={"night": "batch"})
    await scheduled.start()
    assert (await scheduled.generate(request("1", channel="night"), ignore)).text == "done"
    assert engine.requests[0].priority == 0


async def test_batch_leaves_slots_free() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(
        manual, max_generations=4, batch_share=0.5, lanes={"night": "batch"}
    )
    await scheduled.start()
    tasks = start_generations(
        scheduled, *(request(name, channel="night") for name in "123"), request("4")
    )
    await wait_until(lambda: len(manual.started) == 3)
    assert manual.started == ["1", "2", "4"]
    await cancel_all(tasks)


async def test_a_reserve_is_left_for_other_tenants() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=4, reserved_share=0.25)
    await scheduled.start()
    tasks = start_generations(scheduled, request("0", "b"))
    await wait_until(lambda: manual.started)
    manual.write("0")
    tasks += start_generations(scheduled, *(request(name) for name in "1234"))
    await wait_until(lambda: scheduled.scheduler.waiting == 1)
    tasks += start_generations(scheduled, request("late", "b"))
    await wait_until(lambda: manual.started[-1] == "late")
    assert scheduled.scheduler.waiting == 1
    await cancel_all(tasks)


# The engine


async def test_an_overloaded_engine_is_asked_again() -> None:
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

    scheduled = scheduled_engine(Full())
    await scheduled.start()
    assert (await scheduled.generate(request("1"), ignore)).text == "at last"


async def test_a_refusal_in_the_middle_of_a_reply_is_not_hidden() -> None:
    refusal = Overloaded("full", retry_after=0.001)
    scheduled = scheduled_engine(ScriptedEngine(ScriptedReply(text="half of", error=refusal)))
    await scheduled.start()
    with pytest.raises(Overloaded):
        await scheduled.generate(request("1"), ignore)


async def test_health_probes_and_calls_without_a_slot_bypass_the_queue() -> None:
    probed = asyncio.Event()

    def reply(request: GenerationRequest) -> ScriptedReply:
        if request.id.startswith("health-probe"):
            probed.set()
            return ScriptedReply(text="x")
        return ScriptedReply(text="one two", pause_after=1)

    inner = ScriptedEngine(reply)
    quick = EngineSettings(health_probe_interval=0.02, health_probe_timeout=1.0)
    scheduled = scheduled_engine(
        SupervisedEngine(inner, quick, Metrics().of_model()), max_generations=1
    )
    await scheduled.start()
    tasks = start_generations(scheduled, request("1"), request("2"))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await probed.wait()
    assert await scheduled.count_tokens([ChatMessage("user", "three small words")]) == 5
    assert (await scheduled.stats()).waiting == 0
    assert scheduled.scheduler.waiting == 1
    await cancel_all(tasks)
    await scheduled.close()


# What is counted


async def test_tools_and_calls_belong_to_the_prompt() -> None:
    scheduled = scheduled_engine(ScriptedEngine(context_window=100))
    await scheduled.start()
    call = ToolCall("1", "roll", "x" * 2_000)
    long_tool = ToolDefinition("roll", "y" * 2_000, {"type": "object"})
    messages = (ChatMessage("user", "hi"), ChatMessage("assistant", "", tool_calls=(call,)))
    for options in ({"tools": (long_tool,)}, {"messages": messages}):
        with pytest.raises(PromptTooLong):
            await scheduled.generate(dataclasses.replace(request("1"), **options), ignore)
    assert await scheduled.count_tokens(messages) > 100
    assert await scheduled.count_tokens(messages[:1], [long_tool]) > 100


async def test_tools_and_calls_are_charged_before_the_engine_has_counted() -> None:
    async def charged(**options: object) -> float:
        reply = ScriptedReply(text="one", pause_after=0)
        scheduled = scheduled_engine(ScriptedEngine(lambda _: reply))
        await scheduled.start()
        (task,) = start_generations(
            scheduled,
            dataclasses.replace(request("1"), **options),  # type: ignore[arg-type]
        )
        await asyncio.sleep(0)
        served = sum(scheduled.scheduler.served("a", lane) for lane in LANES)
        await cancel_all([task])
        return served

    plain = await charged()
    tool = ToolDefinition("roll", "y" * 400, {"type": "object"})
    assert await charged(tools=(tool,)) > plain + 100
    call = ToolCall("1", "roll", "x" * 400)
    calling = ChatMessage("assistant", "", tool_calls=(call,))
    assert await charged(messages=(ChatMessage("user", "hi"), calling)) >= plain + 100


async def test_tokens_are_counted_by_tenant_and_against_the_persons_quota() -> None:
    metrics, manual = Metrics(), ManualEngine()
    chosen = AdmissionSettings(person=PersonSettings(tokens_per_minute=10))
    quotas = Quotas(chosen, lambda: 0.0)
    scheduled = ScheduledEngine(
        manual,
        chosen,
        scheduler=Scheduler(UNKNOWN_SLOTS),
        quotas=quotas,
        metrics=metrics.of_model(),
    )
    await scheduled.start()
    tasks = start_generations(scheduled, request("1", text="twelve bytes"))
    await wait_until(lambda: "1" in manual.open)
    assert quotas.excess("a", "") is None
    manual.write("1", "one", "two")
    await asyncio.gather(*tasks)
    excess = quotas.excess("a", "")
    assert excess is not None
    assert excess.unit == "tokens"
    assert excess.retry_after == pytest.approx((1 - (10 - 14)) * 6)
    shown = metrics.exposition().decode()
    assert 'palaver_tenant_tokens_total{tenant="a"} 14.0' in shown
    assert 'palaver_scheduler_wait_seconds_count{lane="channel",model="default"} 1.0' in shown


def test_tenants_beyond_the_limit_share_a_label() -> None:
    metrics = Metrics()
    for number in range(150):
        metrics.served(f"t{number}", 1)
    shown = metrics.exposition().decode()
    assert shown.count("palaver_tenant_tokens_total{") == 101
    assert 'palaver_tenant_tokens_total{tenant=""} 50.0' in shown


# The pace of the scheduled


def test_the_wait_is_estimated_after_a_round() -> None:
    pace = WaitEstimator(slots=2)
    pace.queue_changed(0.0, waiting=True)
    pace.slot_freed(3.0)
    assert pace.seconds_per_slot(3.0) == 0.0
    pace.slot_freed(4.0)
    assert pace.seconds_per_slot(4.0) == 2.0


def test_a_silent_engine_raises_the_estimate() -> None:
    pace = WaitEstimator(slots=2)
    pace.queue_changed(0.0, waiting=True)
    assert pace.seconds_per_slot(10.0) == 5.0
    pace.queue_changed(11.0, waiting=False)
    assert pace.seconds_per_slot(100.0) == 0.0


async def test_the_estimate_grows_while_the_engine_is_silent() -> None:
    manual = ManualEngine()
    scheduled = scheduled_engine(manual, max_generations=1)
    await scheduled.start()
    tasks = start_generations(scheduled, *(request(name) for name in "123"))
    await wait_until(lambda: scheduled.scheduler.waiting == 2)
    await wait_until(lambda: scheduled.scheduler.estimated_wait("b", "channel", 0) > 0.01)
    assert scheduled.scheduler.estimated_wait(
        "a", "channel", 1
    ) > scheduled.scheduler.estimated_wait("b", "channel", 0)
    manual.write("1")
    await wait_until(lambda: "2" in manual.open)
    await cancel_all(tasks)
    assert scheduled.scheduler.estimated_wait("b", "channel", 1) == 0
    assert scheduled.scheduler.estimated_wait("b", "channel", 2) > 0


# The person


async def test_a_queued_turn_reports_its_position() -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="one two", pause_after=1))
    settings = Settings(
        admission=AdmissionSettings(max_generations=1),
        routing=RoutingSettings(default="parrot", consult_engine=False),
    )
    async with converse(Parrot, engine=engine, settings=settings) as chat:
        first = await chat.send("first")
        await chat.recorder.wait_for(first, text="one")
        threads = [Conversation("default", "test", new_id()) for _ in range(2)]
        others = [ChatClient(chat.server, thread, "bob") for thread in threads]
        views = [
            await chat.server.subscribe(other.conversation, other.recorder) for other in others
        ]
        turns = [await other.send("hello") for other in others]
        for other, turn in zip(others, turns, strict=True):
            await until_queued(other, turn)
        queued = [
            other.recorder.events_of(turn, Queued)
            for other, turn in zip(others, turns, strict=True)
        ]
        assert [[event.ahead for event in events] for events in queued] == [[0], [1]]
        engine.resume()
        for other, turn in zip(others, turns, strict=True):
            await other.reply(turn)
            assert other.recorder.events_of(turn, Finished)
        for view in views:
            chat.server.unsubscribe(view)
        assert not chat.recorder.events_of(first, Queued)


async def until_queued(chat: ChatClient, turn: str) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not chat.recorder.events_of(turn, Queued):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
