"""An engine that dies or hangs is noticed, told and started again."""

import asyncio
import dataclasses
from collections.abc import Callable

import pytest
from tests.server.skills_under_test import Parrot

from palaver.config.settings import EngineSettings, Settings
from palaver.engine import ChatMessage, EngineInfo, Generation, GenerationRequest, OnText
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import EngineTimeout, EngineUnavailable, Overloaded, PalaverError
from palaver.metrics import Metrics
from palaver.testing import ScriptedEngine, ScriptedReply, converse
from palaver.testing.engine import Script

QUICK = EngineSettings(
    use="scripted", health_probe_interval=0.05, health_probe_timeout=0.1, restart_backoff=0.01
)


def request(text: str = "hi", timeout: float = 5.0) -> GenerationRequest:
    return GenerationRequest(
        id="x", messages=(ChatMessage("user", text),), tenant="t", timeout=timeout
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
    inner.crash()
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
    inner.crash()
    await healthy(engine, wanted=False)
    await healthy(engine)
    await engine.close()


async def test_a_hang_is_found_by_the_canary() -> None:
    hangs = [True]
    inner = ScriptedEngine(lambda _: ScriptedReply(text="x", pause_after=0 if hangs[0] else None))
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    await healthy(engine, wanted=False)
    assert "hangs" in engine.problem
    hangs[0] = False
    await healthy(engine)
    await engine.close()


async def test_readiness_tells_of_a_dead_engine() -> None:
    inner = ScriptedEngine(ScriptedReply(text="", crash_after=0))
    down = QUICK.model_copy(update={"restart_backoff": 60.0, "restart_timeout": 0.0})
    async with converse(Parrot, engine=inner, settings=Settings(engine=down)) as chat:
        reply = await chat.say("hello")
        assert reply.problem is not None
        assert reply.problem.code == "engine_unavailable"
        assert "engine" in chat.server.readiness()


class Slandered(ScriptedEngine):
    """Tells of a death when it is told to, and may be alive again by then."""

    def __init__(self, *lines: str | ScriptedReply | Script) -> None:
        super().__init__(*lines)
        self.tell = asyncio.Event()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if request.tenant == "late":
            await self.tell.wait()
            raise EngineUnavailable("I was killed long ago")
        return await super().generate(request, on_text)


async def test_late_news_of_a_death_does_not_end_the_next_life() -> None:
    inner = Slandered(lambda _: "alive")
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    late = dataclasses.replace(request(), tenant="late")
    telling = asyncio.create_task(engine.generate(late, ignore))
    await asyncio.sleep(0)
    inner.crash()
    with pytest.raises(EngineUnavailable):
        await engine.generate(request(), ignore)
    await healthy(engine)
    inner.tell.set()
    with pytest.raises(EngineUnavailable, match="long ago"):
        await telling
    assert not engine.problem
    await engine.close()


async def test_a_request_that_is_lost_alone_does_not_cut_the_others() -> None:
    inner = Slandered(ScriptedReply(text="one two three", pause_after=1), "canary")
    inner.tell.set()
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    other = asyncio.create_task(engine.generate(request(), ignore))
    await asyncio.sleep(0)
    with pytest.raises(EngineUnavailable):
        await engine.generate(dataclasses.replace(request(), tenant="late"), ignore)
    assert engine.problem
    await healthy(engine)
    inner.resume()
    assert (await other).text == "one two three"
    await engine.close()


class Counting(ScriptedEngine):
    """Counts its starts, and fails the second with an error of nobody's."""

    starts = 0

    async def start(self) -> EngineInfo:
        self.starts += 1
        if self.starts == 2:
            raise RuntimeError("no memory left")
        return await super().start()


async def test_a_restart_that_fails_for_any_reason_is_tried_again() -> None:
    inner = Counting(lambda _: "alive")
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    inner.crash()
    await healthy(engine, wanted=False)
    await healthy(engine)
    assert inner.starts == 3
    await engine.close()


class Probed(Counting):
    """Does what it is told with a canary, and tells when three have come."""

    def __init__(self, probed: Callable[[], PalaverError]) -> None:
        super().__init__()
        self.thrice = asyncio.Event()
        self.hear: OnText = ignore
        self._probed = probed
        self._canaries = 0

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if not request.tenant.endswith("canary"):
            self.hear = on_text
            await self.thrice.wait()
        self._canaries += 1
        if self._canaries == 3:
            self.thrice.set()
        raise self._probed()


async def test_an_engine_that_is_busy_with_others_is_not_taken_for_hung() -> None:
    def busy() -> PalaverError:
        inner.hear("a word for another")
        return EngineTimeout("the canary got no slot")

    inner = Probed(busy)
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    with pytest.raises(EngineTimeout):
        await asyncio.wait_for(engine.generate(request(), ignore), 5)
    assert inner.starts == 1
    await engine.close()


async def test_an_engine_that_refuses_the_canary_because_it_is_full_is_alive() -> None:
    inner = Probed(lambda: Overloaded("full"))
    engine = SupervisedEngine(inner, QUICK, Metrics())
    await engine.start()
    await asyncio.wait_for(inner.thrice.wait(), 5)
    assert inner.starts == 1
    await engine.close()
