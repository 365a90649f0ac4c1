"""Replies go on when the engine that writes them dies and is started again."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from tests.server.skills_under_test import Parrot

from palaver import Sampling, Skill, Turn
from palaver.config.settings import EngineSettings, RoutingSettings, Settings
from palaver.engine import ChatMessage, Choice, EngineInfo, Generation, GenerationRequest
from palaver.engines.continuing import ContinuingEngine
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import EngineDied, EngineTimeout, EngineUnavailable
from palaver.messages import TextReset
from palaver.metrics import Metrics
from palaver.testing import ScriptedEngine, ScriptedReply, converse

QUICK = EngineSettings(use="scripted", health_probe_interval=60.0, restart_backoff=0.01)
FOREVER = 60.0


def settings(**engine: float) -> Settings:
    return Settings(
        engine=QUICK.model_copy(update=engine),
        routing=RoutingSettings(default="parrot", consult_engine=False),
    )


async def started(inner: ScriptedEngine, **chosen: float) -> ContinuingEngine:
    metrics = Metrics()
    chosen_settings = QUICK.model_copy(update=chosen)
    supervised = SupervisedEngine(inner, chosen_settings, metrics)
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


class Ear:
    def __init__(self) -> None:
        self.pieces: list[str] = []

    def __call__(self, piece: str) -> None:
        self.pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# In a conversation


async def test_a_reply_goes_on_when_the_engine_is_up_again() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two three four", crash_after=2), "next")
    async with converse(Parrot, engine=inner, settings=settings()) as chat:
        reply = await chat.say("count")
        assert (reply, reply.outcome) == ("one two three four", "done")
        assert not chat.screen.of(reply.turn, TextReset)
        assert [it.partial for it in inner.requests] == ["", "one two"]
        assert b"palaver_generations_cut_total 1.0" in chat.server.metrics.exposition()
        assert await chat.say("and then?") == "next"


class Stuck(ScriptedEngine):
    """Says a word and then nothing more, to anybody, in its first life."""

    lives = 0

    async def start(self) -> EngineInfo:
        self.lives += 1
        return await super().start()


async def test_a_reply_goes_on_when_a_hung_engine_was_started_again() -> None:
    inner = Stuck(
        lambda _: ScriptedReply(text="one two three", pause_after=1 if inner.lives == 1 else None)
    )
    chosen = settings(health_probe_interval=0.05, health_probe_timeout=0.1)
    async with converse(Parrot, engine=inner, settings=chosen) as chat:
        assert await chat.say("count") == "one two three"
    assert inner.lives == 2


async def test_a_message_to_a_dead_engine_waits_for_it() -> None:
    inner = ScriptedEngine("here I am")
    async with converse(Parrot, engine=inner, settings=settings()) as chat:
        inner.crash()
        assert await chat.say("hello?") == "here I am"


async def test_a_message_waits_no_longer_than_set() -> None:
    inner = ScriptedEngine()
    chosen = settings(restart_backoff=FOREVER, restart_timeout=0.01)
    async with converse(Parrot, engine=inner, settings=chosen) as chat:
        inner.crash()
        reply = await chat.say("hello?")
        assert reply.problem is not None
        assert reply.problem.code == "engine_unavailable"


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_message_that_kills_the_engine_each_time_fails_and_the_next_one_works(
    attempts: int,
) -> None:
    def script(request: GenerationRequest) -> ScriptedReply:
        poisonous = request.messages[-1].content == "poison"
        return ScriptedReply(text="good", crash_after=0 if poisonous else None)

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
        await chat.screen.until(turn, text="one")
        await chat.stop(turn)
        reply = await chat.reply(turn)
    assert (reply, reply.outcome) == ("one", "stopped")


class Chooser(Skill):
    """Pick a colour."""

    name = "parrot"
    examples = ("which colour?", "pick one")

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.choose("Which?", ["red", "deep blue"]))


async def test_a_choice_is_made_anew_when_the_engine_is_up_again() -> None:
    inner = ScriptedEngine(ScriptedReply(text="deep blue", crash_after=1))
    async with converse(Chooser, engine=inner, settings=settings()) as chat:
        assert await chat.say("choose") == "deep blue"
    assert [it.partial for it in inner.requests] == ["", ""]


# One generation


async def test_what_makes_sense_only_as_a_whole_is_heard_at_its_end() -> None:
    engine, ear = await started(ScriptedEngine("deep blue")), Ear()
    said = await engine.generate(request(structure=Choice(("red", "deep blue"))), ear)
    assert ear.pieces == [said.text] == ["deep blue"]
    await engine.close()


async def test_an_engine_that_cannot_continue_fails_what_was_heard_and_begins_the_rest_anew() -> (
    None
):
    inner = ScriptedEngine(
        ScriptedReply(text="one two", crash_after=0),
        ScriptedReply(text="three four", crash_after=1),
        missing_capabilities=["continuation"],
    )
    engine, ear = await started(inner), Ear()
    assert (await engine.generate(request("first"), ear)).text == "one two"
    with pytest.raises(EngineUnavailable):
        await engine.generate(request("second"), ear)
    assert ear.text == "one twothree"
    await engine.close()


async def test_the_limit_of_a_reply_holds_across_deaths() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two three four", crash_after=2))
    engine, ear = await started(inner), Ear()
    said = await engine.generate(request(max_tokens=3), ear)
    assert said.text == ear.text == "one two three"
    assert (said.finish_reason, said.usage.completion_tokens) == ("length", 3)
    await engine.close()


async def test_a_partial_reply_that_is_cut_again_goes_on() -> None:
    def script(request: GenerationRequest) -> ScriptedReply:
        return ScriptedReply(
            text="one two three four", crash_after=1 if request.partial == "one" else None
        )

    inner = ScriptedEngine(script)
    engine, ear = await started(inner), Ear()
    said = await engine.generate(request(partial="one"), ear)
    assert said.text == ear.text == " two three four"
    assert len({it.id for it in inner.requests}) == len(inner.requests) == 2
    await engine.close()


async def test_a_generation_waits_no_longer_than_its_deadline() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two", crash_after=1))
    engine = await started(inner, restart_backoff=FOREVER)
    with pytest.raises(EngineUnavailable, match="has died"):
        await asyncio.wait_for(engine.generate(request(timeout=0.05), Ear()), 5)
    await engine.close()


async def test_a_closed_engine_does_not_come_back() -> None:
    engine = await started(ScriptedEngine(), restart_timeout=0.01)
    await engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        await engine.generate(request(), Ear())


async def test_what_goes_on_has_the_rest_of_the_time() -> None:
    inner = ScriptedEngine(ScriptedReply(text="one two", crash_after=1, pause_after=1))
    engine = await started(inner)
    inner.resume()
    await engine.generate(request(timeout=5.0), Ear())
    first, second = inner.requests
    assert second.timeout < first.timeout <= 5.0
    hanging = await started(ScriptedEngine(ScriptedReply(text="one", pause_after=0)))
    with pytest.raises(EngineTimeout):
        await hanging.generate(request(timeout=0.02), Ear())
    await engine.close()
    await hanging.close()


async def test_who_was_only_near_a_poisonous_prompt_is_not_failed_with_it() -> None:
    def script(request: GenerationRequest) -> ScriptedReply:
        text = request.messages[-1].content
        return ScriptedReply(text=f"{text} a b c", crash_after=0 if text == "poison" else None)

    engine = await started(ScriptedEngine(script, seconds_per_token=0.001))
    texts = [*(f"harmless {number}" for number in range(8)), "poison"]
    generations = (engine.generate(request(text), Ear()) for text in texts)
    *harmless, poison = await asyncio.gather(*generations, return_exceptions=True)
    assert isinstance(poison, EngineDied)
    assert [it.text if isinstance(it, Generation) else it for it in harmless] == [
        f"{text} a b c" for text in texts[:-1]
    ]
    await engine.close()


class Pooling(ScriptedEngine):
    """Can embed and classify, and dies the first time that it is asked."""

    deaths = 0

    def _die_once(self) -> None:
        if not self.deaths:
            self.deaths += 1
            self.crash()
            raise EngineUnavailable("the scripted engine has died")

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        self._die_once()
        return await super().count_tokens(messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self._die_once()
        return [[1.0] for _ in texts]

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        self._die_once()
        return [{"rain": 1.0} for _ in texts]


ASKED: dict[str, Callable[[ContinuingEngine], object]] = {
    "count_tokens": lambda engine: engine.count_tokens([ChatMessage("user", "hi")]),
    "embed": lambda engine: engine.embed(["hi"]),
    "classify": lambda engine: engine.classify(["hi"]),
}


@pytest.mark.parametrize("call", sorted(ASKED))
async def test_other_calls_are_made_again(call: str) -> None:
    engine = await started(Pooling())
    assert await ASKED[call](engine)  # type: ignore[misc]
    await engine.close()
