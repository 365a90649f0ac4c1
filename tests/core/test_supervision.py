"""An engine that dies or hangs is noticed, told and started again."""

import asyncio

import pytest
from tests.core.skills_under_test import Parrot

from palaver.engine import ChatMessage, GenerationRequest
from palaver.errors import EngineUnavailable
from palaver.metrics import Metrics
from palaver.settings import EngineSettings, Settings
from palaver.supervision import SupervisedEngine
from palaver.testing import Line, ScriptedEngine, converse

QUICK = EngineSettings(
    use="scripted", canary_interval=0.05, canary_deadline=0.1, restart_backoff=0.01
)


def request(text: str = "hi", deadline: float = 5.0) -> GenerationRequest:
    return GenerationRequest(
        id="x", messages=(ChatMessage("user", text),), tenant="t", deadline=deadline
    )


def ignore(text: str) -> None: ...


async def healthy(engine: SupervisedEngine, wanted: bool = True) -> None:
    async with asyncio.timeout(5):
        while bool(engine.problem) is wanted:  # noqa: ASYNC110  supervision sets no event
            await asyncio.sleep(0.005)


async def test_a_dead_engine_is_refused_at_once_and_comes_back() -> None:
    inner = ScriptedEngine(lambda r: "alive" if "Hi" not in r.messages[0].content else "x")
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    inner.die()
    with pytest.raises(EngineUnavailable):
        await engine.generate(request(), ignore)
    assert engine.problem
    with pytest.raises(EngineUnavailable) as refused:
        await engine.generate(request(), ignore)
    assert refused.value.retry_after
    await healthy(engine)
    assert (await engine.generate(request(), ignore)).text == "alive"
    await engine.close()


async def test_a_silent_death_is_found_by_the_canary() -> None:
    inner = ScriptedEngine()
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    inner.die()
    await healthy(engine, wanted=False)
    await healthy(engine)
    await engine.close()


async def test_a_hang_is_found_by_the_canary() -> None:
    hangs = [True]
    inner = ScriptedEngine(lambda _: Line(text="x", hold=0 if hangs[0] else None))
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    await healthy(engine, wanted=False)
    assert "hangs" in engine.problem
    hangs[0] = False
    await healthy(engine)
    await engine.close()


async def test_a_turn_on_a_dead_engine_fails_in_a_sentence_and_the_next_one_works() -> None:
    inner = ScriptedEngine(Line(text="I was", dies=True), "back again")
    settings = Settings(engine=QUICK.model_copy(update={"canary_interval": 60.0}))
    settings = settings.model_copy(
        update={"routing": settings.routing.model_copy(update={"default": "parrot"})}
    )
    async with converse(Parrot, engine=inner, settings=settings) as chat:
        reply = await chat.say("hello")
        assert (reply, reply.outcome) == ("I was", "failed")
        assert reply.problem is not None
        assert reply.problem.code == "engine_unavailable"
        await healthy(chat.server.engine)
        assert not chat.server.readiness()
        assert await chat.say("and now?") == "back again"


async def test_readiness_tells_of_a_dead_engine() -> None:
    inner = ScriptedEngine(Line(text="", dies=True))
    settings = Settings(engine=QUICK.model_copy(update={"restart_backoff": 60.0}))
    async with converse(Parrot, engine=inner, settings=settings) as chat:
        await chat.say("hello")
        assert "engine" in chat.server.readiness()
