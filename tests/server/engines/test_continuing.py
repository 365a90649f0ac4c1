"""Replies continue after the engine has crashed and was restarted."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from tests.server.skills_under_test import Parrot

from palaver import Sampling, Skill, Turn
from palaver.config.settings import EngineSettings, RoutingSettings, Settings
from palaver.engine import (
    ChatMessage,
    Choice,
    EngineInfo,
    Generation,
    GenerationRequest,
    ToolDefinition,
)
from palaver.engines.continuing import ContinuedGeneration, ContinuingEngine
from palaver.engines.supervised import SupervisedEngine
from palaver.engines.tool_calling import ToolCallingEngine
from palaver.errors import EngineDied, EngineTimeout, EngineUnavailable
from palaver.messages import TextReset
from palaver.metrics import Metrics
from palaver.testing import ScriptedEngine, ScriptedReply, converse, tool_call

QUICK = EngineSettings(use="scripted", health_probe_interval=60.0, restart_backoff=0.01)
FOREVER = 60.0


def settings(**engine: float) -> Settings:
    return Settings(
        engine=QUICK.model_copy(update=engine),
        routing=RoutingSettings(default="parrot", consult_engine=False),
    )


async def started(inner: ScriptedEngine, **chosen: float) -> ContinuingEngine:
    metrics = Metrics().of_model()
    chosen_settings = QUICK.model_copy(update=chosen)
    supervised = SupervisedEngine(ToolCallingEngine(inner), chosen_settings, metrics)
    engine = ContinuingEngine(supervised, chosen_settings, metrics)
    await engine.start()
    return engine


def request(text: str = "hi", **options: object) -> GenerationRequest:
    sampling = {name: options.pop(name) for name in ("max_tokens", "structure") if name in options}
    return GenerationRequest(
        id=text,
        messages=(ChatMessage("user", text),),
        tenant="t",
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


class TextCollector:
    def __init__(self) -> None:
        self.pieces: list[str] = []

    def __call__(self, piece: str) -> None:
        self.pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# In a conversation


async def test_a_reply_continues_after_a_restart_of_the_engine() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two three four", crash_after=2), "next")
    async with converse(Parrot, engine=inner, settings=settings()) as chat:
        reply = await chat.say("count")
        assert (reply, reply.outcome) == ("one two three four", "done")
        assert not chat.recorder.events_of(reply.turn, TextReset)
        assert [it.partial for it in inner.requests] == ["", "one two"]
        assert (
            b'palaver_generations_cut_total{model="default"} 1.0'
            in chat.server.metrics.exposition()
        )
        assert await chat.say("and then?") == "next"


class StartCountingEngine(ScriptedEngine):
    """Counts its starts."""

    starts = 0

    async def start(self) -> EngineInfo:
        self.starts += 1
        return await super().start()


async def test_a_reply_continues_after_a_restart_of_a_hung_engine() -> None:
    inner = StartCountingEngine(
        lambda _: ScriptedReply(text="one two three", pause_after=1 if inner.starts == 1 else None)
    )
    chosen = settings(health_probe_interval=0.05, health_probe_timeout=0.1)
    async with converse(Parrot, engine=inner, settings=chosen) as chat:
        assert await chat.say("count") == "one two three"
    assert inner.starts == 2


async def test_a_message_waits_for_a_crashed_engine() -> None:
    inner = ScriptedEngine("here I am")
    async with converse(Parrot, engine=inner, settings=settings()) as chat:
        inner.crash()
        assert await chat.say("hello?") == "here I am"


async def test_a_message_waits_no_longer_than_the_restart_timeout() -> None:
    inner = ScriptedEngine()
    chosen = settings(restart_backoff=FOREVER, restart_timeout=0.01)
    async with converse(Parrot, engine=inner, settings=chosen) as chat:
        inner.crash()
        reply = await chat.say("hello?")
        assert reply.problem is not None
        assert reply.problem.code == "engine_unavailable"


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_message_that_crashes_the_engine_in_each_attempt_fails_and_the_next_one_works(
    attempts: int,
) -> None:
    def script(request: GenerationRequest) -> ScriptedReply:
        crashes = request.messages[-1].content == "poison"
        return ScriptedReply(text="good", crash_after=0 if crashes else None)

    inner = ScriptedEngine(script)
    async with converse(Parrot, engine=inner, settings=settings(max_attempts=attempts)) as chat:
        reply = await chat.say("poison")
        assert (reply, reply.outcome) == ("", "failed")
        assert reply.problem is not None
        assert reply.problem.code == "engine_died"
        assert len(inner.requests) == attempts
        assert await chat.say("wholesome") == "good"


async def test_a_stop_ends_the_wait_for_the_engine() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two", crash_after=1))
    chosen = settings(restart_backoff=FOREVER)
    async with converse(Parrot, engine=inner, settings=chosen) as chat:
        turn = await chat.send("count")
        await chat.recorder.wait_for(turn, text="one")
        await chat.stop(turn)
        reply = await chat.reply(turn)
    assert (reply, reply.outcome) == ("one", "stopped")


class Chooser(Skill):
    """Pick a colour."""

    name = "parrot"
    examples = ("which colour?", "pick one")

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.choose("Which?", ["red", "deep blue"]))


async def test_a_choice_starts_over_after_a_restart_of_the_engine() -> None:
    inner = ScriptedEngine(ScriptedReply(text="deep blue", crash_after=1))
    async with converse(Chooser, engine=inner, settings=settings()) as chat:
        assert await chat.say("choose") == "deep blue"
    assert [it.partial for it in inner.requests] == ["", ""]


# One generation


async def test_output_that_is_valid_only_as_a_whole_is_delivered_at_the_end() -> None:
    engine, collector = await started(ScriptedEngine("deep blue")), TextCollector()
    generation = await engine.generate(request(structure=Choice(("red", "deep blue"))), collector)
    assert collector.pieces == [generation.text] == ["deep blue"]
    await engine.close()


async def test_without_continuation_a_reply_starts_over_only_before_its_first_text() -> None:
    inner = ScriptedEngine(
        ScriptedReply(text="one two", crash_after=0),
        ScriptedReply(text="three four", crash_after=1),
        missing_capabilities=["continuation"],
    )
    engine, collector = await started(inner), TextCollector()
    assert (await engine.generate(request("first"), collector)).text == "one two"
    with pytest.raises(EngineUnavailable):
        await engine.generate(request("second"), collector)
    assert collector.text == "one twothree"
    await engine.close()


async def test_max_tokens_limits_the_reply_across_crashes() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two three four", crash_after=2))
    engine, collector = await started(inner), TextCollector()
    generation = await engine.generate(request(max_tokens=3), collector)
    assert generation.text == collector.text == "one two three"
    assert (generation.finish_reason, generation.usage.completion_tokens) == ("length", 3)
    await engine.close()


ROLL = ToolDefinition("roll", "", {"type": "object", "properties": {"sides": {"type": "integer"}}})


@pytest.mark.parametrize("crash_after", [0, 2, 3, 4, 5, 6])
async def test_text_and_calls_of_tools_come_once_after_a_crash(crash_after: int) -> None:
    calls = (tool_call("roll", sides=6), tool_call("roll", sides=8))
    reply = ScriptedReply(text="Let me see.", tool_calls=calls, crash_after=crash_after)
    inner = ScriptedEngine(reply)
    engine, collector = await started(inner), TextCollector()
    generation = await engine.generate(request(tools=(ROLL,)), collector)
    assert generation.text == collector.text == "Let me see."
    assert [call.arguments for call in generation.tool_calls] == [it.arguments for it in calls]
    assert generation.finish_reason == "tool_calls"
    assert generation.usage.completion_tokens == 9
    assert len(inner.requests) == 2
    await engine.close()


async def test_calls_without_text_start_over_where_no_reply_is_continued() -> None:
    reply = ScriptedReply(tool_calls=(tool_call("roll", sides=6),), crash_after=2)
    engine = await started(ScriptedEngine(reply, missing_capabilities=("continuation",)))
    generation = await engine.generate(request(tools=(ROLL,)), TextCollector())
    assert len(generation.tool_calls) == 1
    assert generation.usage.completion_tokens == 3
    await engine.close()


@pytest.mark.parametrize("crash_after", range(6))
async def test_a_constrained_answer_is_continued_and_a_call_starts_over(crash_after: int) -> None:
    def inner(text: str) -> ScriptedEngine:
        reply = ScriptedReply(text=text, crash_after=crash_after)
        return ScriptedEngine(reply, missing_capabilities=("tools",))

    engine, collector = await started(inner('{"answer": "You have a 4."}')), TextCollector()
    generation = await engine.generate(request(tools=(ROLL,)), collector)
    assert generation.text == collector.text == "You have a 4."
    assert (generation.finish_reason, generation.usage.completion_tokens) == ("stop", 5)
    await engine.close()

    engine = await started(inner('{"tool": "roll", "arguments": {"sides": 6}}'))
    generation = await engine.generate(request(tools=(ROLL,)), collector)
    assert [call.arguments for call in generation.tool_calls] == ['{"sides": 6}']
    assert generation.usage.completion_tokens == 5
    await engine.close()


async def test_a_partial_reply_that_is_interrupted_again_continues() -> None:
    def script(request: GenerationRequest) -> ScriptedReply:
        return ScriptedReply(
            text="one two three four", crash_after=1 if request.partial == "one" else None
        )

    inner = ScriptedEngine(script)
    engine, collector = await started(inner), TextCollector()
    generation = await engine.generate(request(partial="one"), collector)
    assert generation.text == collector.text == " two three four"
    assert len({it.id for it in inner.requests}) == len(inner.requests) == 2
    await engine.close()


async def test_a_generation_waits_no_longer_than_its_deadline() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two", crash_after=1))
    engine = await started(inner, restart_backoff=FOREVER)
    with pytest.raises(EngineUnavailable, match="has crashed"):
        await asyncio.wait_for(engine.generate(request(timeout=0.05), TextCollector()), 5)
    await engine.close()


async def test_a_closed_engine_is_not_restarted() -> None:
    engine = await started(ScriptedEngine(), restart_timeout=0.01)
    await engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        await engine.generate(request(), TextCollector())


async def test_each_attempt_gets_the_remaining_time() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two", crash_after=1, pause_after=1))
    engine = await started(inner)
    inner.resume()
    await engine.generate(request(timeout=5.0), TextCollector())
    first, second = inner.requests
    assert second.timeout < first.timeout <= 5.0
    hanging = await started(ScriptedEngine(ScriptedReply(text="one", pause_after=0)))
    with pytest.raises(EngineTimeout):
        await hanging.generate(request(timeout=0.02), TextCollector())
    await engine.close()
    await hanging.close()


async def test_a_prompt_that_crashes_the_engine_does_not_fail_the_generations_beside_it() -> None:
    def script(request: GenerationRequest) -> ScriptedReply:
        text = request.messages[-1].content
        return ScriptedReply(text=f"{text} a b c", crash_after=0 if text == "poison" else None)

    engine = await started(ScriptedEngine(script, seconds_per_token=0.001))
    texts = [*(f"harmless {number}" for number in range(8)), "poison"]
    generations = (engine.generate(request(text), TextCollector()) for text in texts)
    *harmless, poison = await asyncio.gather(*generations, return_exceptions=True)
    assert isinstance(poison, EngineDied)
    assert [it.text if isinstance(it, Generation) else it for it in harmless] == [
        f"{text} a b c" for text in texts[:-1]
    ]
    await engine.close()


class CrashingEngine(ScriptedEngine):
    """Embeds and classifies, and crashes at the first calls."""

    def __init__(self, crashes: int = 1) -> None:
        super().__init__()
        self.crashes = crashes

    def _crash_first(self) -> None:
        if self.crashes:
            self.crashes -= 1
            self.crash()
            raise EngineUnavailable("the scripted engine has crashed")

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        self._crash_first()
        return await super().count_tokens(messages, tools)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self._crash_first()
        return [[1.0] for _ in texts]

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        self._crash_first()
        return [{"rain": 1.0} for _ in texts]


CALLS: dict[str, Callable[[ContinuingEngine], object]] = {
    "count_tokens": lambda engine: engine.count_tokens([ChatMessage("user", "hi")]),
    "embed": lambda engine: engine.embed(["hi"]),
    "classify": lambda engine: engine.classify(["hi"]),
}


@pytest.mark.parametrize("call", sorted(CALLS))
async def test_other_calls_are_repeated(call: str) -> None:
    engine = await started(CrashingEngine())
    assert await CALLS[call](engine)  # type: ignore[misc]
    await engine.close()


class FragileEngine(ScriptedEngine):
    """Crashes at every text to embed."""

    calls = 0

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls += 1
        self.crash()
        raise EngineUnavailable("the scripted engine has crashed")


async def test_a_call_that_crashes_the_engine_in_each_attempt_fails() -> None:
    inner = FragileEngine()
    engine = await started(inner, max_attempts=3)
    with pytest.raises(EngineUnavailable, match="crashed"):
        await engine.embed(["hi"])
    assert inner.calls == 3
    await engine.close()


async def test_a_call_waits_for_a_crashed_engine() -> None:
    inner = CrashingEngine(crashes=1)
    engine = await started(inner, max_attempts=1)
    with pytest.raises(EngineUnavailable):
        await engine.embed(["hi"])
    assert await engine.embed(["hi"])
    await engine.close()


async def test_the_load_is_that_of_the_engine_inside() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    engine = await started(inner)
    running = asyncio.create_task(engine.generate(request(), text := TextCollector()))
    async with asyncio.timeout(5):
        while not text.pieces:  # noqa: ASYNC110  a collector sets no event
            await asyncio.sleep(0)
    assert (await engine.stats()).running == 1
    inner.resume()
    await running
    await engine.close()


def test_an_attempt_that_has_waited_gets_the_time_that_is_left() -> None:
    asked = request("hi", timeout=60.0)
    assert ContinuedGeneration(asked, lambda text: None).next_request(timeout=59.999) is asked
    late = ContinuedGeneration(asked, lambda text: None).next_request(timeout=20.0)
    assert (late.timeout, late.id) == (20.0, asked.id)
